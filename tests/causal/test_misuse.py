"""Causal models, templates and sampling under misuse: refused with the mechanism, the span or the argument by name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from causal_reft.causal import CausalModel, Template, rowwise, strategies
from causal_reft.errors import CausalModelError

ROOT = Path(__file__).parents[2]


def _adds_in_place(x: np.ndarray) -> np.ndarray:
    x += 1
    return x


def _sorts_in_place(x: np.ndarray) -> np.ndarray:
    x.sort()
    return x


def _writes_a_cell(x: np.ndarray) -> np.ndarray:
    x[:] = 0
    return x


@pytest.mark.parametrize("mechanism", [_adds_in_place, _sorts_in_place, _writes_a_cell])
def test_a_mechanism_that_changes_its_argument_is_refused_by_name(mechanism: Callable[..., Any]) -> None:
    with pytest.raises(
        CausalModelError, match=r"(?s)mechanism of 'more' changes one of its arguments \(x\) in place.*copy"
    ):
        CausalModel({"x": range(4)}, {"more": mechanism})


def test_the_users_frame_and_the_parents_column_stay_as_they_were() -> None:
    """An input without a list of values is not tried when the model is built."""
    model = CausalModel({"x": None}, {"more": _adds_in_place})
    frame = pd.DataFrame({"x": [1, 2, 3]})
    with pytest.raises(CausalModelError, match="changes one of its arguments"):
        model.run(frame)
    assert frame["x"].tolist() == [1, 2, 3]


def test_a_mechanism_may_change_a_copy() -> None:
    def more(x: np.ndarray) -> np.ndarray:
        x = x.copy()
        x += 1
        return x

    ran = CausalModel({"x": range(3)}, {"more": more, "twice": lambda x, more: x + more}).run({"x": [0, 1, 2]})
    assert ran["x"].tolist() == [0, 1, 2] and ran["twice"].tolist() == [1, 3, 5]


MIXES: dict[str, Callable[..., Any]] = {
    "the largest": lambda x: x == x.max(),
    "centred": lambda x: x - x.mean(),
    "the number of rows": lambda x: x * len(x),
    "ranks": lambda x: np.argsort(np.argsort(x)),
    "the first row": lambda x: x == x[0],
    "more than half": lambda x: (x > 2) & (np.count_nonzero(x > 2) > 8),
}


@pytest.mark.parametrize("what", MIXES)
def test_a_mechanism_that_looks_at_other_rows_is_refused(what: str) -> None:
    with pytest.raises(CausalModelError, match="mechanism of 'y' gives a setting another value when its neighbours"):
        CausalModel({"x": range(6)}, {"y": MIXES[what]})
    model = CausalModel({"x": None}, {"y": MIXES[what]})
    with pytest.raises(CausalModelError, match="neighbours change"):
        model.run({"x": np.arange(32) % 6})


RARE = CausalModel({"x": range(100_000)}, {"y": lambda x: x == 77_777})


def test_balanced_says_which_outcome_it_never_drew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategies, "MOST_ROUNDS", 2)
    with pytest.raises(CausalModelError, match="True is a value of 'y', and none of 2 rounds of 4,096 pairs has it"):
        RARE.counterfactuals("x", 100, 0, "balanced")
    with pytest.raises(CausalModelError, match="True is a value of 'y in base'"):
        RARE.counterfactuals("x", 100, 0, "balanced", over=["y"])


def test_balanced_over_more_settings_than_can_be_listed_needs_two_outcomes() -> None:
    model = CausalModel({"x": range(2000), "z": range(1000)}, {"y": lambda x, z: (x == 7) & (z == 7)})
    with pytest.raises(CausalModelError, match="all pairs that were drawn have one outcome"):
        model.counterfactuals("x", 100, 0, "balanced")


def test_balanced_draws_until_a_rare_outcome_is_there() -> None:
    """One setting in twenty thousand: not always among the first rounds."""
    model = CausalModel({"x": range(20_000)}, {"y": lambda x: x == 777})
    for seed in range(5):
        assert set(model.counterfactuals("x", 4, seed, "balanced").labels["y"]) == {True, False}


EQUAL = CausalModel({"a": range(3), "b": range(3)}, {"same": lambda a, b: a == b})


def test_one_source_for_all_and_one_variable_a_row_exclude_each_other() -> None:
    with pytest.raises(CausalModelError, match=r"per_variable.*Leave out shared_source=True"):
        EQUAL.counterfactuals(["a", "b"], 9, 0, "per_variable", shared_source=True)


@pytest.mark.parametrize("value", [[1, 2], {1, 2}, {"a": 1}, ([1], 2)])
def test_lists_sets_and_dicts_are_no_values(value: Any) -> None:
    said = "is compared as a whole. Write a number, a string, a tuple"
    with pytest.raises(CausalModelError, match=said):
        CausalModel({"x": [value, (3, 4)]}, {"y": lambda x: x})
    with pytest.raises(CausalModelError, match=rf"mechanism of 'y': .*{said}"):
        CausalModel({"x": range(2)}, {"y": rowwise(lambda x: value)})
    with pytest.raises(CausalModelError, match=said):
        CausalModel({"x": None}, {"y": lambda x: x}).run({"x": pd.Series([value, value])})


def test_vectors_of_other_lengths_are_no_values_of_one_variable() -> None:
    with pytest.raises(CausalModelError, match=r"vectors of one variable have one length.*\[\(2,\), \(3,\)\]"):
        CausalModel({"x": [np.zeros(2), np.zeros(3)]}, {"y": lambda x: x})


UNCHECKED = """
import pandas as pd
from causal_reft.causal import CausalModel
equal = CausalModel({"a": range(3), "b": range(3)}, {"same": lambda a, b: a == b})
for strategy in ("uniform", "balanced", "per_variable"):
    for options in ({"n": 1.5}, {"seed": None}, {"seed": 0.5}):
        try:
            equal.counterfactuals("a", **{"n": 9, "seed": 0, "strategy": strategy, **options})
        except Exception as error:
            print(type(error).__name__, error)
"""


def test_numbers_of_the_wrong_kind_are_refused_where_no_type_checker_runs() -> None:
    ran = subprocess.run([sys.executable, "-c", UNCHECKED], capture_output=True, text=True, check=True, cwd=ROOT)
    lines = ran.stdout.splitlines()
    assert len(lines) == 9 and all(line.startswith("CausalModelError") for line in lines)
    assert all("n=1.5 is no number of rows" in line for line in lines[::3])
    assert all("is no seed" in line for line in (*lines[1::3], *lines[2::3]))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n": True}, "n=True is no number"),
        ({"n": 0}, "n=0 is no number"),
        ({"among": pd.DataFrame({"a": [], "b": []})}, "among= holds no setting"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options: dict[str, Any], said: str) -> None:
    for strategy in ("uniform", "balanced", "per_variable"):
        with pytest.raises(CausalModelError, match=said):
            EQUAL.counterfactuals("a", **{"n": 9, "seed": 0, "strategy": strategy, **options})
    if "among" not in options:
        with pytest.raises(CausalModelError, match=said):
            EQUAL.sample(**{"n": 9, "seed": 0, **options})


@pytest.mark.parametrize("name", ["prompt", "text"])
def test_a_variable_called_like_a_column_of_a_task_is_refused(name: str) -> None:
    with pytest.raises(CausalModelError, match=rf"cannot be called '{name}'.*Call it '{name}_id'"):
        CausalModel({name: range(3)}, {"same": lambda: 1})
    with pytest.raises(CausalModelError, match=rf"cannot be called '{name}'"):
        CausalModel({"a": range(3)}, {name: lambda a: a})


@pytest.mark.parametrize("name", ["first", "last", "all", "generated", "f2", "l13"])
def test_a_span_called_like_a_position_is_refused(name: str) -> None:
    with pytest.raises(CausalModelError, match=rf"span '{name}' .*positions='{name}' .*\{{{name}_span=who\}}"):
        Template(f"{{{name}=who}} left")
    with pytest.raises(CausalModelError, match=rf"\{{{name}_span={name}\}}"):
        Template(f"{{{name}}} left")


@pytest.mark.parametrize("value", ["Ann ", " Ann", "Ann  ", "\tAnn "])
def test_white_space_around_a_value_takes_no_token_of_the_next_word(value: str) -> None:
    template = Template("{who}went {place}", show={"who": {0: value}})
    prompts, spans = template.render(pd.DataFrame({"who": [0], "place": ["home"]}))
    span = spans["who"][0]
    assert prompts[0][span.start : span.stop] == "Ann"
    assert prompts[0] == f"{value}went home"
