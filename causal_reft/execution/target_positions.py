"""Which logits a loss reads: from the labels of a dataset to rows and columns of the model's output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from causal_reft.errors import DataError
from causal_reft.execution.examples import Examples
from causal_reft.execution.inputs import IGNORED_LABEL
from causal_reft.execution.output_layout import NEXT_TOKEN, OutputLayout
from causal_reft.execution.run_rows import attention
from causal_reft.tensors import Int, Num, Tensor


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


def _text_of(examples: Examples) -> Tensor | None:
    """The mask of the text whose columns the labels count."""
    base, layout = examples.runs["base"], examples.layout or NEXT_TOKEN
    if isinstance(base, Tensor):
        return None
    if not layout.in_decoder:
        return attention(base)
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


def _last_prompt_columns(inputs: Mapping[str, Any], mask: Tensor) -> Tensor:
    columns = torch.arange(mask.shape[1], device=mask.device)
    start = (mask != 0).long().argmax(1)
    lengths = inputs.get("prompt_lengths")
    count = (mask != 0).sum(1) if lengths is None else torch.as_tensor(lengths, device=mask.device)
    return columns[start + count - 1]
