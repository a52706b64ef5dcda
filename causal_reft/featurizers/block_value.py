"""A value that is known inside of a `with` block, in the thread that opened it, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Generic, TypeVar

Value = TypeVar("Value")


class BlockValue(Generic[Value]):
    """`get()` inside `with during(value)` gives the value, elsewhere `None`. It travels empty when the code is
    sent to a server."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._current: ContextVar[Value | None] = ContextVar(name, default=None)

    def get(self) -> Value | None:
        """The value of the innermost block."""
        return self._current.get()

    @contextmanager
    def during(self, value: Value | None) -> Iterator[None]:
        """Inside, `get` gives this value."""
        token = self._current.set(value)
        try:
            yield
        finally:
            self._current.reset(token)

    def __reduce__(self) -> tuple[type[BlockValue[Value]], tuple[str]]:
        return BlockValue, (self.name,)
