"""From characters to tokens: which tokens of a prompt hold a span of it, by the tokenizer's own offsets.

A token belongs to a span when they share a character. Token numbers count from the first token of the unpadded prompt,
special tokens included (a beginning-of-sequence token is number 0), so they mean the same for either padding side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from causal_reft.errors import PositionError

Offsets = list[tuple[int, int]]


def token_offsets(tokenizer: Callable[..., Any], prompts: Sequence[str]) -> list[Offsets]:
    """The character range of every token of every prompt; special tokens have empty ranges."""
    if not getattr(tokenizer, "is_fast", False):
        raise PositionError(
            f"{type(tokenizer).__name__} cannot say which characters a token came from, so spans cannot be found. "
            "Use a fast tokenizer: AutoTokenizer.from_pretrained(name, use_fast=True)."
        )
    encoded = tokenizer(list(prompts), return_offsets_mapping=True)
    return [[(int(start), int(end)) for start, end in row] for row in encoded["offset_mapping"]]


def tokens_of(span: range, offsets: Offsets) -> range:
    """The tokens that share a character with the span (empty when none does)."""
    inside = [i for i, (start, end) in enumerate(offsets) if start < span.stop and end > span.start and start < end]
    return range(inside[0], inside[-1] + 1) if inside else range(0)


def token_spans(tokenizer: Callable[..., Any], prompts: Sequence[str], spans: pd.DataFrame) -> pd.DataFrame:
    """Character ranges (one column per span name) as token ranges; raises where a span has no token of its own."""
    offsets = token_offsets(tokenizer, prompts)
    found = {name: [tokens_of(s, o) for s, o in zip(spans[name], offsets, strict=True)] for name in spans}
    for name, ranges in found.items():
        lost = next((row for row, tokens in enumerate(ranges) if not tokens), None)
        if lost is not None:
            span, prompt = spans[name].iloc[lost], prompts[lost]
            raise PositionError(
                f"No token holds the span {name!r} = {prompt[span.start : span.stop]!r} (characters {span.start} to "
                f"{span.stop}) of row {lost}: {prompt!r}. Is its text empty, or dropped by the tokenizer?"
            )
    return pd.DataFrame({name: pd.Series(ranges, dtype=object) for name, ranges in found.items()})
