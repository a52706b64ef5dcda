"""A few random calls of each kind; `python -m tests.differential 500` makes many."""

from __future__ import annotations

import random

import pytest

from tests.differential import KINDS


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_random_call_is_equal_to_plain_hooks_or_refused(kind: str, seed: int) -> None:
    assert KINDS[kind](random.Random(seed)) in ("equal", "refused")
