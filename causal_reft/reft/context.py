"""The longest text that a model was made for: longer ones are refused, because the model itself fails there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Limit:
    """The longest record, why, and whether completions beyond it are cut."""

    length: int | None
    reason: str
    cut: bool

    @staticmethod
    def of(max_length: int | None, model: nn.Module | None, cut: bool) -> Limit:
        context = None if model is None else context_length(getattr(model, "base_model", model))
        if max_length is not None and (type(max_length) is not int or max_length < 1):
            raise DataError(f"max_length={max_length!r} is no number of tokens. Give a whole number such as 512.")
        if cut and max_length is None and context is None:
            raise DataError("truncate=True needs max_length=..., or model=... with a context in its config.")
        if max_length is not None and (context is None or max_length <= context):
            return Limit(max_length, f"max_length={max_length}", cut)
        return Limit(context, f"the model's context of {context}", cut)

    def beyond(self, length: int) -> bool:
        return self.length is not None and length > self.length
