"""The words of the positions language; no span can have such a name, because `positions=` would not find it."""

from __future__ import annotations

import re

_WORD = re.compile(r"^(first|last|all|generated|[fl]\d+(<half)?|-?\d+)$")


def is_position_word(name: str) -> bool:
    """Whether `positions=name` names tokens by their place: "first", "last", "all", "generated", "f2", "l3", "-1"."""
    return _WORD.match(name) is not None
