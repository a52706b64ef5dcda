"""The positions language in plain Python: the tokens that one row names, in the order in which it names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def named_in_order(positions: Any, prompt: int, answer: int, spans: Mapping[str, Sequence[int]]) -> list[int]:
    """Counted from the row's first real token; each token once, at its first mention."""
    parts = positions.split("+") if isinstance(positions, str) else [positions]
    return list(dict.fromkeys(token for part in parts for token in _listed(part, prompt, answer, spans)))


def _listed(word: Any, prompt: int, answer: int, spans: Mapping[str, Sequence[int]]) -> list[int]:
    tokens = list(range(prompt))
    if isinstance(word, slice):
        return tokens[word]
    if isinstance(word, (list, tuple)):
        return [tokens[i] for i in word]
    if isinstance(word, int):
        return [tokens[word]]
    if word == "all":
        return tokens
    if word == "generated":
        return list(range(prompt, prompt + answer))
    if word in ("first", "last"):
        return tokens[:1] if word == "first" else tokens[-1:]
    if word in spans:
        return [tokens[i] for i in spans[word]]
    number = word[1:].removesuffix("<half")
    if word[0] in "fl" and number.isdigit():
        n = min(int(number), prompt // 2 if word.endswith("<half") else prompt)
        return tokens[:n] if word[0] == "f" else tokens[prompt - n :]
    return [tokens[int(word)]]
