"""What a field of a saved document may hold: checked, with its type, before anything is built from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from causal_reft.errors import StorageError, nearest

LARGEST = 2**53  # the whole numbers that every JSON reader keeps exact


@dataclass(frozen=True)
class Field:
    """Which values are allowed, in words and as a test."""

    allowed: str
    accepts: Callable[[Any], bool]


def whole(low: int = -LARGEST, high: int = LARGEST) -> Field:
    """A whole number."""
    bounds = f" of at least {low}" if low > -LARGEST else ""
    return Field(f"a whole number{bounds}", lambda value: type(value) is int and low <= value <= high)


def number(allowed: str, accepts: Callable[[float], bool]) -> Field:
    """A finite number with a condition."""
    return Field(allowed, lambda value: type(value) in (int, float) and abs(value) < 1e300 and accepts(value))


def one_of(*values: object) -> Field:
    """One of some words (or None)."""
    words = ", ".join(map(repr, values))
    return Field(words, lambda value: any(type(value) is type(word) and value == word for word in values))


def maybe(field: Field) -> Field:
    """The same, or null."""
    return Field(f"{field.allowed}, or null", lambda value: value is None or field.accepts(value))


TEXT = Field("a string", lambda value: type(value) is str)
FLAG = Field("true or false", lambda value: type(value) is bool)
RECORD = Field("an object", lambda value: type(value) is dict)
NAMES = Field("a list of strings", lambda value: type(value) is list and all(type(name) is str for name in value))
SEED = whole(-(2**63), 2**64)
SIZE = whole(1)
SLICE = Field(
    "two whole numbers, the first and the last row + 1",
    lambda value: type(value) is list and len(value) == 2 and all(whole(0).accepts(end) for end in value),
)


def checked(data: object, fields: Mapping[str, Field], where: str) -> dict[str, Any]:
    """The document, in which every field is there, known, and holds what it may.

    Raises:
        StorageError: which does not, and what is allowed.
    """
    if type(data) is not dict:
        raise StorageError(f"{where} is {_short(data)}, but must be an object with the fields {', '.join(fields)}.")
    unknown, missing = set(data) - set(fields), set(fields) - set(data)
    if unknown:
        name = sorted(unknown)[0]
        raise StorageError(
            f"{where} has an unknown field {name!r}. {nearest(name, fields)} Was it written by a newer version?"
        )
    if missing:
        raise StorageError(f"{where} lacks the field {sorted(missing)[0]!r}.")
    for name, field in fields.items():
        if not field.accepts(data[name]):
            raise StorageError(f"{where}: {name} is {_short(data[name])}; allowed: {field.allowed}.")
    return data


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."
