"""One mistake that users make: the line, the error that answers it, why, and the line that was meant."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import dedent


@dataclass(frozen=True)
class Mistake:
    """`wrong` raises (or warns with) `error` in its last line; `says`: a regular expression that the message holds.

    Where `untyped`, the type checker of the tests would answer before the library, so the mistake is made without it.
    """

    error: type[Exception]
    title: str
    wrong: str
    says: str
    why: str
    right: str
    untyped: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "wrong", dedent(self.wrong).strip())
        object.__setattr__(self, "right", dedent(self.right).strip())
        object.__setattr__(self, "why", " ".join(self.why.split()))
