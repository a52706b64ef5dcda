"""A dataset that an intervened model is fitted to or scored on: rows of every run, and what the loss reads.

`labels` is one class for each row (the output of a plain module or of a classifier; the token after the prompt of a
text), one number for each row (regression), or one label for each token in the transformers convention (-100 is not
read). Which logits a label is compared with is a fact of the model's class: see `execution/output_layout.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from causal_reft.display import Listed, counted
from causal_reft.errors import DataError, RunError, nearest
from causal_reft.execution.inputs import IGNORED_LABEL, RunInputs, before_labels
from causal_reft.execution.output_layout import NEXT_TOKEN, OutputLayout, output_layout
from causal_reft.execution.run_rows import attention, n_rows, select_rows, trimmed, trimmed_labels
from causal_reft.tensors import Int, Shaped, Tensor


@dataclass(frozen=True, repr=False)
class Examples(Listed):
    """Rows of every run with their labels.

    Args:
        runs: run -> inputs of all rows (see `IntervenedModel.forward`); the first axis of every tensor is the row.
        labels: integers, (row,) or, for texts, (row, column of the padded base; of the decoder's text for an
            encoder-decoder model). In a causal language model the prompt ends where they begin, unless the base says so
            itself in `prompt_lengths`. Floats, (row,), are numbers that a model with one output is to give.
        info: further columns, one entry a row, kept for tables (pair ids, tasks, ...).
        layout: where the model's logits live; set by `of_model`.

    Raises:
        DataError: runs or labels of unequal length; no base run; labels that are no classes; arguments that would move
            the logits.
    """

    runs: Mapping[str, RunInputs]
    labels: Shaped[Tensor, "row *column"]
    info: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    layout: OutputLayout | None = None
    _given: RunInputs = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if "base" not in self.runs:
            raise DataError(f"Examples need a run named 'base'; given: {', '.join(self.runs) or 'none'}.")
        lengths = {run: n_rows(inputs) for run, inputs in self.runs.items()}
        lengths |= {"labels": len(self.labels)} | {f"info[{key!r}]": len(values) for key, values in self.info.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"Examples of unequal length: {', '.join(f'{k} {n}' for k, n in lengths.items())}.")
        _check_labels(self.labels)
        for run, inputs in self.runs.items():
            _check_position_ids(run, inputs, len(self.labels))
        base = self.runs["base"]
        _refuse_moved_logits(base)
        object.__setattr__(self, "_given", base)
        if self.layout in (None, NEXT_TOKEN):
            base = _with_prompt_lengths(base, self.labels, self.layout)
            object.__setattr__(self, "runs", {**self.runs, "base": base})

    def __len__(self) -> int:
        return len(self.labels)

    def _listed(self) -> tuple[str, list[tuple[str, str]]]:
        runs = [(run, _shapes(inputs)) for run, inputs in self.runs.items()]
        read = int((self.labels != IGNORED_LABEL).sum())
        labels = "one class a row" if self.labels.ndim == 1 else f"{counted(read, 'labelled token')}"
        return f"Examples: {counted(len(self), 'row')}", [*runs, ("labels", labels), *_columns(self.info)]

    def rows(self, index: Int[Tensor, " row"]) -> Examples:
        """Some rows, in the given order, without columns that are padding in all of them."""
        runs = {run: select_rows(inputs, index) for run, inputs in {**self.runs, "base": self._given}.items()}
        labels = trimmed_labels(self.labels[index], runs["base"])
        info = {key: [values[i] for i in index.tolist()] for key, values in self.info.items()}
        return Examples({run: trimmed(inputs) for run, inputs in runs.items()}, labels, info, self.layout)

    def of_model(self, model: nn.Module) -> Examples:
        """The same rows, read as this model gives its logits."""
        layout = output_layout(model)
        if layout == self.layout:
            return self
        return Examples({**self.runs, "base": self._given}, self.labels, self.info, layout)

    def of_base(self) -> Examples:
        """The same rows of the base run alone."""
        return Examples({"base": self._given}, self.labels, self.info, self.layout)

    @property
    def base(self) -> RunInputs:
        """What the model is given for the base run; an encoder-decoder model shifts the labels to its decoder's text,
        where that is not given."""
        base = self.runs["base"]
        if isinstance(base, Tensor) or not (self.layout or NEXT_TOKEN).in_decoder or "decoder_input_ids" in base:
            return base
        return {**base, "labels": self.labels if self.labels.ndim == 2 else self.labels[:, None]}

    def n_reads(self, index: Int[Tensor, " row"]) -> int:
        """How many logits the loss reads in some rows."""
        labels, shift = self.labels[index], (self.layout or NEXT_TOKEN).shift
        return len(labels) if labels.ndim == 1 else int((labels[:, shift:] != IGNORED_LABEL).sum())

    def batches(self, size: int, order: Int[Tensor, " row"] | None = None) -> Iterator[Int[Tensor, " row"]]:
        """Row indices in chunks."""
        order = torch.arange(len(self)) if order is None else order
        yield from order.split(size)

    def with_labels(self, labels: Tensor) -> Examples:
        """The same rows with other labels (permuted ones, for a control)."""
        return replace(self, labels=labels)


def _shapes(inputs: RunInputs) -> str:
    """Each tensor of a run with its shape."""
    if isinstance(inputs, Tensor):
        return str(tuple(inputs.shape))
    sizes = {key: tuple(value.shape) if isinstance(value, Tensor) else len(value) for key, value in inputs.items()}
    return ", ".join(f"{key} {size}" for key, size in sizes.items())


def _columns(info: Mapping[str, Sequence[Any]]) -> list[tuple[str, str]]:
    return [("info", ", ".join(map(str, info)))] if info else []


def check_runs(runs: Sequence[str], examples: Examples) -> None:
    """The examples bring every run of a graph.

    Raises:
        DataError: with the nearest name.
    """
    for run in runs:
        if run not in examples.runs:
            raise DataError(f"The graph needs run {run!r}, and the examples lack it. {nearest(run, examples.runs)}")


def _check_labels(labels: Tensor) -> None:
    if labels.is_floating_point() and labels.ndim == 1:
        if not bool(torch.isfinite(labels).all()):
            raise DataError(f"labels[{int((~torch.isfinite(labels)).nonzero()[0])}] is no number.")
        return
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise DataError(f"labels are {labels.dtype}; they must be classes, as integers: labels.long().")
    wrong = (labels < 0) & ((labels != IGNORED_LABEL) | (labels.ndim == 1))
    if bool(wrong.any()):
        label = int(labels[wrong][0])
        raise DataError(f"Label {label} is no class. Classes count from 0{_OR_IGNORED if labels.ndim > 1 else ''}.")


_OR_IGNORED = f"; {IGNORED_LABEL} marks tokens that are not read"
_MOVE_LOGITS = ("logits_to_keep", "num_logits_to_keep", "return_dict")


def _refuse_moved_logits(base: RunInputs) -> None:
    for name in _MOVE_LOGITS:
        if not isinstance(base, Tensor) and base.get(name) is not None:
            raise DataError(f"The base run of examples takes no {name!r}: labels name the columns of all logits.")


def _with_prompt_lengths(base: RunInputs, labels: Tensor, layout: OutputLayout | None) -> RunInputs:
    """A text whose labels say where its prompt ends says so itself, so that positions count in the prompt.

    As long as the model is not known, labels from the first token on may be those of a masked language model.
    """
    mask = None if isinstance(base, Tensor) or labels.ndim == 1 else attention(base)
    if mask is None or isinstance(base, Tensor) or base.get("prompt_lengths") is not None or labels.shape != mask.shape:
        return base
    try:
        return {**base, "prompt_lengths": before_labels(labels, mask)}
    except RunError:
        if layout is None:
            return base
        raise


def _check_position_ids(run: str, inputs: RunInputs, rows: int) -> None:
    numbers = None if isinstance(inputs, Tensor) else inputs.get("position_ids")
    if isinstance(numbers, Tensor) and numbers.ndim == 2 and len(numbers) != rows:
        raise DataError(
            f"Examples: run {run!r} has position_ids of {len(numbers)} rows for {rows} rows; give one number for each "
            f"token of each row: position_ids.expand({rows}, -1) where all rows agree."
        )
