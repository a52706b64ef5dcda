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
from causal_reft.execution.input_checks import OURS
from causal_reft.execution.inputs import IGNORED_LABEL, RunInputs, before_labels
from causal_reft.execution.output_layout import NEXT_TOKEN, OutputLayout, output_layout
from causal_reft.tensors import Int, Num, Shaped, Tensor


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
        labels = _trimmed_labels(self.labels[index], runs["base"])
        info = {key: [values[i] for i in index.tolist()] for key, values in self.info.items()}
        return Examples({run: _trimmed(inputs) for run, inputs in runs.items()}, labels, info, self.layout)

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


@dataclass(frozen=True)
class TargetPositions:
    """The logits that a loss reads: at (rows, columns), expecting `targets`. `columns` is `None` without a position
    axis.
    """

    rows: Int[Tensor, " read"]
    columns: Int[Tensor, " read"] | None
    targets: Num[Tensor, " read"]

    @staticmethod
    def of(examples: Examples) -> TargetPositions:
        """From the labels of a batch.

        Raises:
            DataError: token labels that do not fit the base's columns; a row in which nothing is read.
        """
        layout, labels, text = examples.layout or NEXT_TOKEN, examples.labels, _text_of(examples)
        if labels.is_floating_point() and text is not None and layout.by_token:
            raise DataError(f"The labels are numbers, and this is {layout.name}. Regression needs a head for rows.")
        if labels.ndim == 1:
            return TargetPositions(torch.arange(len(labels)), _column_of_row(examples, layout, text), labels)
        if not layout.by_token:
            raise DataError(
                f"labels of shape {tuple(labels.shape)} need logits at tokens, but this is {layout.name}: give one "
                "class for each row."
            )
        if text is None or labels.shape != text.shape:
            whose = "decoder tokens" if layout.in_decoder else "base tokens"
            raise DataError(f"labels of shape {tuple(labels.shape)} need {whose} of the same shape.")
        read = labels[:, layout.shift :] != IGNORED_LABEL
        if not bool(read.any(1).all()):
            raise DataError(
                f"Row {int((~read.any(1)).nonzero()[0])} has no label that is read (all are {IGNORED_LABEL})."
            )
        rows, columns = read.nonzero(as_tuple=True)
        return TargetPositions(rows, columns, labels[rows, columns + layout.shift])

    def take(self, logits: Tensor) -> Tensor:
        """The logits that are read, (read, classes), from (row, classes) or (row, column, classes).

        Raises:
            DataError: logits of another shape.
        """
        if logits.ndim != (2 if self.columns is None else 3):
            raise DataError(
                f"The model gives logits of shape {tuple(logits.shape)}, but the labels ask for "
                f"{'(row, class)' if self.columns is None else '(row, column, class)'}."
            )
        if self.columns is None:
            return logits.index_select(0, self.rows.to(logits.device))
        return logits[self.rows.to(logits.device), self.columns.to(logits.device)]


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


def _text_of(examples: Examples) -> Tensor | None:
    """The mask of the text whose columns the labels count."""
    base, layout = examples.runs["base"], examples.layout or NEXT_TOKEN
    if isinstance(base, Tensor):
        return None
    if not layout.in_decoder:
        return _attention(base)
    ids, mask = base.get("decoder_input_ids"), base.get("decoder_attention_mask")
    if ids is None:
        return torch.ones_like(examples.labels if examples.labels.ndim == 2 else examples.labels[:, None])
    return torch.ones_like(ids) if mask is None else mask


def _column_of_row(examples: Examples, layout: OutputLayout, text: Tensor | None) -> Tensor | None:
    """Where the one class of each row is read.

    Raises:
        DataError: a model that labels every token, where one label a row names none of them.
    """
    base = examples.runs["base"]
    if text is None or not layout.by_token or isinstance(base, Tensor):
        return None
    if layout.in_decoder:
        return _last_prompt_columns({}, text)
    if not layout.shift:
        raise DataError(
            f"This is {layout.name}, and one label a row does not say which token it is for. Give labels of the shape "
            f"of input_ids, {IGNORED_LABEL} at all other tokens."
        )
    return _last_prompt_columns(base, text)


def _with_prompt_lengths(base: RunInputs, labels: Tensor, layout: OutputLayout | None) -> RunInputs:
    """A text whose labels say where its prompt ends says so itself, so that positions count in the prompt.

    As long as the model is not known, labels from the first token on may be those of a masked language model.
    """
    mask = None if isinstance(base, Tensor) or labels.ndim == 1 else _attention(base)
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


def n_rows(inputs: RunInputs) -> int:
    """How many rows a run's inputs hold."""
    if isinstance(inputs, Tensor):
        return len(inputs)
    return len(next(value for value in inputs.values() if isinstance(value, Tensor) and value.ndim))


def select_rows(inputs: RunInputs, index: Int[Tensor, " row"]) -> RunInputs:
    """Some rows of a run's inputs."""
    if isinstance(inputs, Tensor):
        return inputs.index_select(0, index.to(inputs.device))
    return {key: _select(key, value, index) for key, value in inputs.items()}


def _select(key: str, value: Any, index: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value[index] if value.ndim else value
    if key in OURS and isinstance(value, Mapping):
        return {name: _select_list(rows, index) for name, rows in value.items()}
    return _select_list(value, index) if key in OURS else value


def _select_list(rows: Any, index: Tensor) -> Any:
    return rows[index] if isinstance(rows, Tensor) else [rows[i] for i in index.tolist()]


def _attention(inputs: Mapping[str, Any]) -> Tensor | None:
    if inputs.get("attention_mask") is not None:
        return inputs["attention_mask"]
    return torch.ones_like(inputs["input_ids"]) if "input_ids" in inputs else None


def _kept_columns(inputs: RunInputs) -> slice | None:
    mask = None if isinstance(inputs, Tensor) else inputs.get("attention_mask")
    if mask is None or mask.ndim != 2 or not len(mask):
        return None
    used = (mask != 0).any(0).nonzero().flatten()
    return slice(int(used[0]), int(used[-1]) + 1)


def _trimmed(inputs: RunInputs) -> RunInputs:
    kept = _kept_columns(inputs)
    if kept is None or isinstance(inputs, Tensor):
        return inputs
    shape = inputs["attention_mask"].shape
    return {
        key: value[:, kept]
        if isinstance(value, Tensor) and value.shape[:2] == shape and not key.startswith("decoder_")
        else value
        for key, value in inputs.items()
    }


def _trimmed_labels(labels: Tensor, base: RunInputs) -> Tensor:
    """The labels of the columns that stay; all where they count the columns of another text (the decoder's)."""
    kept = _kept_columns(base)
    if kept is None or isinstance(base, Tensor) or labels.shape != base["attention_mask"].shape:
        return labels
    dropped = torch.ones(labels.shape[1], dtype=torch.bool)
    dropped[kept] = False
    return labels if bool((labels[:, dropped.to(labels.device)] != IGNORED_LABEL).any()) else labels[:, kept]


def _last_prompt_columns(inputs: Mapping[str, Any], mask: Tensor) -> Tensor:
    columns = torch.arange(mask.shape[1], device=mask.device)
    start = (mask != 0).long().argmax(1)
    lengths = inputs.get("prompt_lengths")
    count = (mask != 0).sum(1) if lengths is None else torch.as_tensor(lengths, device=mask.device)
    return columns[start + count - 1]
