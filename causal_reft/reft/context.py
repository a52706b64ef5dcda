"""The longest text that a model was made for: longer ones are refused, because the model itself fails there."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from causal_reft.errors import DataError
from causal_reft.sites import model_config


def context_length(model: nn.Module) -> int | None:
    """The longest text in tokens that the model was made for, where its config says so."""
    length = getattr(model_config(model), "max_position_embeddings", None)
    return length if isinstance(length, int) and length > 0 else None


def check_context(rows: Sequence[Sequence[int]], model: nn.Module, kind: str = "Record") -> None:
    """Refuse token rows beyond the model's context.

    Raises:
        DataError: with the number of the first such row, its length and the context.
    """
    limit = context_length(model)
    for number, row in enumerate(rows):
        if limit is not None and len(row) > limit:
            raise DataError(
                f"{kind} {number} has {len(row)} tokens, and {type(model).__name__} was made for {limit}. Shorten it."
            )
