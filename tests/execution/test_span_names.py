"""A span that a call brings is not called like a position: `positions="first"` would name the first token instead."""

from __future__ import annotations

import pytest

import causal_reft as cr
from causal_reft.errors import PositionError
from tests.models import gpt2, prompts


@pytest.mark.parametrize("name", ["first", "last", "all", "generated", "f2", "l3", "7", "-1"])
def test_a_call_with_a_span_called_like_a_position_is_refused(name: str) -> None:
    edited = cr.IntervenedModel(gpt2(), cr.InterventionGraph(seen=cr.Collect("base", cr.Site(1, positions="last"))))
    batch = prompts([5, 6], "right")
    with pytest.raises(PositionError, match=rf"run 'base' brings a span called '{name}'.*spans=\{{'{name}_span': "):
        edited.collect(batch | {"spans": {"who": [[0], [1]], name: [[2], [3]]}})
    assert edited.collect(batch | {"spans": {f"{name}_span": [[2], [3]]}})["seen"].shape == (2, 1, 16)
