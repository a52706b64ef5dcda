"""A dataset that an intervened model is fitted to or scored on: rows of every run, and what the loss reads.

`labels` is either one class for each row (the output of a plain module; the token after the prompt of a text), or one
label for each token in the transformers convention (-100 is not read; logits at column c - 1 predict column c).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from causal_reft.errors import DataError
from causal_reft.execution.inputs import IGNORED_LABEL, OURS, RunInputs, before_labels
from causal_reft.tensors import Int, Tensor


@dataclass(frozen=True)
class Examples:
    """Rows of every run with their labels.

    Args:
        runs: run -> inputs of all rows (see `IntervenedModel.forward`); the first axis of every tensor is the row.
        labels: (row,) or, for texts, (row, column of the padded base); the prompt ends where they begin, unless the
            base says so itself in `prompt_lengths`.
        info: further columns, one entry a row, kept for tables (pair ids, tasks, ...).

    Raises:
        DataError: runs or labels of unequal length; no base run.
    """

    runs: Mapping[str, RunInputs]
    labels: Int[Tensor, "row *column"]
    info: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if "base" not in self.runs:
            raise DataError(f"Examples need a run named 'base'; given: {', '.join(self.runs) or 'none'}.")
        lengths = {run: n_rows(inputs) for run, inputs in self.runs.items()}
        lengths |= {"labels": len(self.labels)} | {f"info[{key!r}]": len(values) for key, values in self.info.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"Examples of unequal length: {', '.join(f'{k} {n}' for k, n in lengths.items())}.")
        object.__setattr__(self, "runs", {**self.runs, "base": _with_prompt_lengths(self.runs["base"], self.labels)})

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, index: Int[Tensor, " row"]) -> Examples:
        """Some rows, in the given order, without columns that are padding in all of them."""
        runs = {run: select_rows(inputs, index) for run, inputs in self.runs.items()}
        labels = self.labels[index]
        kept = _kept_columns(runs["base"])
        if labels.ndim == 2 and kept is not None:
            labels = labels[:, kept]
        info = {key: [values[i] for i in index.tolist()] for key, values in self.info.items()}
        return Examples({run: _trimmed(inputs) for run, inputs in runs.items()}, labels, info)

    def n_reads(self, index: Int[Tensor, " row"]) -> int:
        """How many logits the loss reads in some rows."""
        labels = self.labels[index]
        return len(labels) if labels.ndim == 1 else int((labels[:, 1:] != IGNORED_LABEL).sum())

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
    targets: Int[Tensor, " read"]

    @staticmethod
    def of(examples: Examples) -> TargetPositions:
        """From the labels of a batch.

        Raises:
            DataError: token labels that do not fit the base's columns; a row in which nothing is read.
        """
        base, labels = examples.runs["base"], examples.labels
        mask = None if isinstance(base, Tensor) else _attention(base)
        if labels.ndim == 1:
            rows = torch.arange(len(labels))
            if isinstance(base, Tensor) or mask is None:
                return TargetPositions(rows, None, labels)
            return TargetPositions(rows, _last_prompt_columns(base, mask), labels)
        if mask is None or labels.shape != mask.shape:
            raise DataError(f"labels of shape {tuple(labels.shape)} need base tokens of the same shape.")
        read = labels[:, 1:] != IGNORED_LABEL
        if not bool(read.any(1).all()):
            raise DataError(
                f"Row {int((~read.any(1)).nonzero()[0])} has no label that is read (all are {IGNORED_LABEL})."
            )
        rows, columns = read.nonzero(as_tuple=True)
        return TargetPositions(rows, columns, labels[rows, columns + 1])

    def take(self, logits: Tensor) -> Tensor:
        """The logits that are read, (read, classes), from (row, classes) or (row, column, classes)."""
        if self.columns is None:
            return logits.index_select(0, self.rows.to(logits.device))
        return logits[self.rows.to(logits.device), self.columns.to(logits.device)]


def _with_prompt_lengths(base: RunInputs, labels: Tensor) -> RunInputs:
    """A text whose labels say where its prompt ends says so itself, so that positions count in the prompt."""
    mask = None if isinstance(base, Tensor) or labels.ndim == 1 else _attention(base)
    if mask is None or isinstance(base, Tensor) or base.get("prompt_lengths") is not None or labels.shape != mask.shape:
        return base
    return {**base, "prompt_lengths": before_labels(labels, mask)}


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
        key: value[:, kept] if isinstance(value, Tensor) and value.shape[:2] == shape else value
        for key, value in inputs.items()
    }


def _last_prompt_columns(inputs: Mapping[str, Any], mask: Tensor) -> Tensor:
    columns = torch.arange(mask.shape[1], device=mask.device)
    start = (mask != 0).long().argmax(1)
    lengths = inputs.get("prompt_lengths")
    count = (mask != 0).sum(1) if lengths is None else torch.as_tensor(lengths, device=mask.device)
    return columns[start + count - 1]
