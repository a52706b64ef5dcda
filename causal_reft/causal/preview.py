"""See what the tokenizer makes of a prompt, with the tokens of each span in a colour of their own.

In Jupyter the tokens are boxes; in a terminal they are between bars, and the spans are listed with their numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd

from causal_reft.causal.spans import token_offsets, tokens_of

COLOURS = ("#ffd6a5", "#caffbf", "#9bf6ff", "#bdb2ff", "#ffadad", "#fdffb6", "#ffc6ff")
BOX = (
    "border:1px solid rgba(128,128,128,.5);border-radius:3px;padding:1px 3px;margin:1px;white-space:pre;"
    "font-family:monospace"
)
MARKED = ";color:#111;background:"  # dark on a light colour, in every theme


@dataclass(frozen=True, repr=False)
class Preview:
    """Per row: the tokens as text, and the token range of each span."""

    tokens: tuple[tuple[str, ...], ...]
    spans: tuple[dict[str, range], ...]

    def __repr__(self) -> str:
        return "\n".join(self._plain(row) for row in range(len(self.tokens)))

    def _plain(self, row: int) -> str:
        tokens = self.tokens[row]
        texts = {name: "|".join(tokens[i] for i in span) for name, span in self._of(row)}
        marks = [f"  {name}: tokens {_numbers(span)} = {texts[name]}" for name, span in self._of(row)]
        return "\n".join([f"|{'|'.join(tokens)}|  ({len(tokens)} tokens)", *marks])

    def _repr_html_(self) -> str:
        return "".join(f"<div style='line-height:2'>{self._boxes(row)}</div>" for row in range(len(self.tokens)))

    def _boxes(self, row: int) -> str:
        owner = {i: name for name, span in self._of(row) for i in span}
        colour = {name: COLOURS[k % len(COLOURS)] for k, (name, _) in enumerate(self._of(row))}
        return "".join(
            f"<span style='{BOX}{MARKED + colour[owner[i]] if i in owner else ''}' "
            f"title='token {i}{': ' + escape(owner[i]) if i in owner else ''}'>{escape(token)}</span>"
            for i, token in enumerate(self.tokens[row])
        )

    def _of(self, row: int) -> list[tuple[str, range]]:
        return list(self.spans[row].items())


def preview(tokenizer: Callable[..., Any], prompts: Sequence[str], spans: pd.DataFrame) -> Preview:
    """Cut prompts into tokens and find the tokens of each span (empty where no token holds it)."""
    offsets = token_offsets(tokenizer, prompts)
    ids = tokenizer(list(prompts))["input_ids"]
    names = [tokenizer.convert_ids_to_tokens(row) for row in ids]  # pyright: ignore[reportFunctionMemberAccess]
    tokens = [
        tuple(prompt[start:end] if end > start else name for (start, end), name in zip(row, named, strict=True))
        for prompt, row, named in zip(prompts, offsets, names, strict=True)
    ]
    found = [{str(n): tokens_of(spans[n].iloc[i], row) for n in spans} for i, row in enumerate(offsets)]
    return Preview(tuple(tokens), tuple(found))


def _numbers(span: range) -> str:
    return "none" if not span else str(span[0]) if len(span) == 1 else f"{span[0]} to {span[-1]}"
