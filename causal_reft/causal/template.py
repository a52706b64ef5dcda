"""A template writes a setting as a prompt and remembers the characters of each variable in it.

    Template("Once upon a time, there was a little {gender} named {name}.")
    Template("{who=subject} and {io} met. {again=subject} gave a book to", show={"subject": NAMES, "io": NAMES})
    Template({0: "In {city}", 1: "Near {city}"}, by="wording")

`{variable}` shows a variable and names its span after it; `{span=variable}` names the span. A span holds the value
without white space at its ends, and is not called like a position word ("first", "l2"). `show` gives a value's text: a
mapping, or a function of the value; without it, `str(value)`. Literal braces are doubled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from string import Formatter
from typing import Any

import pandas as pd

from causal_reft.causal.preview import Preview, preview
from causal_reft.errors import CausalModelError, nearest
from causal_reft.reserved_names import is_position_word

Piece = tuple[str, str | None, str | None]
Show = Mapping[Any, str] | Callable[[Any], str]


@dataclass(frozen=True)
class Template:
    """Text with variables in it; with `by`, one of several texts, chosen by that variable's value."""

    text: str | Mapping[Any, str]
    show: Mapping[str, Any] = field(default_factory=dict)
    by: str | None = None

    def __post_init__(self) -> None:
        if (self.by is None) != isinstance(self.text, str):
            raise CausalModelError(
                "A template is one text, or several with the variable that chooses: "
                "Template({0: 'In {city}', 1: 'Near {city}'}, by='wording')."
            )
        named = {key: tuple(span for _, span, _ in parse(text) if span) for key, text in self.texts.items()}
        first = next(iter(named.values()))
        for key, spans in named.items():
            if set(spans) != set(first):
                raise CausalModelError(
                    f"The texts of one template name the same spans, but {key!r} has {spans} and another has {first}."
                )
        unused = [name for name in self.show if name not in self.fields]
        if unused:
            raise CausalModelError(
                f"show={{{unused[0]!r}: ...}}, but the text never shows it. {nearest(unused[0], self.fields)}"
            )

    @property
    def texts(self) -> dict[Any, str]:
        """The texts by the value of `by` (a single text under None)."""
        return {None: self.text} if isinstance(self.text, str) else dict(self.text)

    @property
    def spans(self) -> tuple[str, ...]:
        """The names of the spans."""
        return tuple(span for _, span, _ in parse(next(iter(self.texts.values()))) if span)

    @property
    def fields(self) -> tuple[str, ...]:
        """The variables that the texts show."""
        return tuple(dict.fromkeys(v for text in self.texts.values() for _, _, v in parse(text) if v))

    def render(self, frame: pd.DataFrame) -> tuple[list[str], pd.DataFrame]:
        """The prompt of each row, and the character range of each span in it (one column per span)."""
        needed = (*self.fields, *([self.by] if self.by else []))
        missing = [name for name in needed if name not in frame]
        if missing:
            raise CausalModelError(
                f"The template shows {missing[0]!r}, which the settings lack. {nearest(missing[0], map(str, frame))}"
            )
        words = {name: [self._word(name, value) for value in frame[name]] for name in self.fields}
        choices = frame[self.by] if self.by else [None] * len(frame)
        pieces = {key: parse(text) for key, text in self.texts.items()}
        rows = [_fill(self._chosen(pieces, key), words, row) for row, key in enumerate(choices)]
        ranges = {name: pd.Series([spans[name] for _, spans in rows], dtype=object) for name in self.spans}
        return [prompt for prompt, _ in rows], pd.DataFrame(ranges, index=pd.RangeIndex(len(frame)))

    def preview(self, frame: pd.DataFrame, tokenizer: Callable[..., Any], rows: int = 3) -> Preview:
        """The first prompts as the tokenizer cuts them, spans coloured (in Jupyter) or marked (in a terminal)."""
        prompts, spans = self.render(frame.head(rows))
        return preview(tokenizer, prompts, spans)

    def _chosen(self, pieces: Mapping[Any, list[Piece]], key: Any) -> list[Piece]:
        if key not in pieces:
            raise CausalModelError(f"No text for {self.by}={key!r}. {nearest(str(key), map(str, pieces))}")
        return pieces[key]

    def _word(self, name: str, value: Any) -> str:
        show = self.show.get(name, str)
        if isinstance(show, Mapping):
            if value not in show:
                raise CausalModelError(
                    f"show[{name!r}] has no words for {value!r}. {nearest(str(value), map(str, show))}"
                )
            return show[value]
        return show(value)


def parse(text: str) -> list[Piece]:
    """A text as pieces: (literal before, span name or None, variable or None)."""
    try:
        parts = list(Formatter().parse(text))
    except ValueError as failure:
        raise CausalModelError(f"This template cannot be read ({failure}): {text!r}. Double literal braces.") from None
    pieces: list[Piece] = []
    for literal, name, spec, conversion in parts:
        span, _, variable = (name or "").rpartition("=")
        is_plain = variable.isidentifier() and (span or "x").isidentifier() and not spec and not conversion
        if name is not None and not is_plain:
            raise CausalModelError(
                f"{{{name}{':' + spec if spec else ''}}} is neither {{variable}} nor {{span=variable}} in {text!r}. "
                "Double literal braces; say how a value is written with show={...}."
            )
        pieces.append((literal, (span or variable) or None, variable or None))
    spans = [span for _, span, _ in pieces if span]
    for _, span, variable in pieces:
        if span and is_position_word(span):
            raise CausalModelError(
                f"The span {span!r} in {text!r} is called like a position: positions={span!r} names tokens by their "
                f"place in the prompt. Give the span another name: {{{span}_span={variable}}}."
            )
    twice = next((span for span in spans if spans.count(span) > 1), None)
    if twice:
        raise CausalModelError(
            f"The span {twice!r} appears twice in {text!r}; name the second one, e.g. {{second_{twice}={twice}}}."
        )
    return pieces


def _without_edges(word: str, start: int) -> range:
    """The characters of a word without white space at its ends, which a tokenizer joins with the next word."""
    text = word.strip() or word
    before = word.index(text)
    return range(start + before, start + before + len(text))


def _fill(pieces: list[Piece], words: Mapping[str, list[str]], row: int) -> tuple[str, dict[str, range]]:
    prompt, spans = "", {}
    for literal, span, variable in pieces:
        prompt += literal
        if span is not None and variable is not None:
            word = words[variable][row]
            spans[span] = _without_edges(word, len(prompt))
            prompt += word
    return prompt, spans
