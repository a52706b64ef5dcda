"""Some rows of a run's inputs, without the columns that are padding in all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from causal_reft.execution.input_checks import OURS
from causal_reft.execution.inputs import IGNORED_LABEL, RunInputs
from causal_reft.tensors import Int, Tensor


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


def attention(inputs: Mapping[str, Any]) -> Tensor | None:
    """The mask of a run's text, (row, column); all ones where none is given, `None` where there is no text."""
    if inputs.get("attention_mask") is not None:
        return inputs["attention_mask"]
    return torch.ones_like(inputs["input_ids"]) if "input_ids" in inputs else None


def _kept_columns(inputs: RunInputs) -> slice | None:
    mask = None if isinstance(inputs, Tensor) else inputs.get("attention_mask")
    if mask is None or mask.ndim != 2 or not len(mask):
        return None
    used = (mask != 0).any(0).nonzero().flatten()
    return slice(int(used[0]), int(used[-1]) + 1)


def trimmed(inputs: RunInputs) -> RunInputs:
    """The inputs without columns that are padding in all rows."""
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


def trimmed_labels(labels: Tensor, base: RunInputs) -> Tensor:
    """The labels of the columns that stay; all where they count the columns of another text (the decoder's)."""
    kept = _kept_columns(base)
    if kept is None or isinstance(base, Tensor) or labels.shape != base["attention_mask"].shape:
        return labels
    dropped = torch.ones(labels.shape[1], dtype=torch.bool)
    dropped[kept] = False
    return labels if bool((labels[:, dropped.to(labels.device)] != IGNORED_LABEL).any()) else labels[:, kept]
