"""Every mistake in a causal model is a sentence that shows the line and says what to type."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from causal_reft.causal import CausalModel
from causal_reft.errors import CausalModelError

X = {"x": range(3)}
STATE = {"calls": 0}


def counts_calls(x: np.ndarray) -> np.ndarray:
    STATE["calls"] += 1
    return x + STATE["calls"]


# Messages stand apart from the lambdas: an error shows the line of the lambda, and must not match by quoting the test.
MISTAKES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "cycle": (X, {"a": lambda b: b, "b": lambda a: a}),
    "unknown parent": ({"left": range(2)}, {"y": lambda lefft: lefft}),
    "clash": (X, {"x": lambda: 1}),
    "no input": ({}, {"y": lambda: 1}),
    "bad name": ({"2x": range(2)}, {}),
    "keyword": ({"class": range(2)}, {}),
    "string domain": ({"x": "abc"}, {}),
    "number domain": ({"x": 3}, {}),
    "empty domain": ({"x": []}, {}),
    "repeated value": ({"x": [1, 2, 1]}, {}),
    "endless domain": ({"x": range(10**7)}, {}),
    "not a function": (X, {"y": 3}),
    "star arguments": (X, {"y": lambda *x: x}),
    "not vectorised": (X, {"y": lambda x: 1 if x else 0}),
    "a single value": (X, {"y": lambda x: x.sum()}),
    "too few values": (X, {"y": lambda x: x[:-1]}),
    "mixes rows": (X, {"y": lambda x: np.cumsum(x)}),
    "is random": (X, {"y": counts_calls}),
    "hidden names": (X, {"y": np.add}),
}
MESSAGES = {
    "cycle": r"cycle: (a -> b -> a|b -> a -> b)\..*test_model_errors\.py:\d+: .*lambda",
    "unknown parent": r"reads 'lefft'.*test_model_errors\.py:\d+: .*lambda lefft.*Did you mean 'left'",
    "clash": "both an input and a mechanism",
    "no input": "at least one input",
    "bad name": "cannot name a variable",
    "keyword": "cannot name a variable",
    "string domain": r"not a collection of values.*\['abc', ...\]",
    "number domain": "not a collection of values",
    "empty domain": "is empty",
    "repeated value": "more than once",
    "endless domain": "more than 1,000,000",
    "not a function": "not a function",
    "star arguments": r"\*x, which names no parent",
    "not vectorised": r"np\.where instead of and, or",
    "a single value": "must give one value per setting",
    "too few values": "gave 31 values for 32 settings",
    "mixes rows": r"mixes rows or is random.*np\.cumsum",
    "is random": "mixes rows or is random",
    "hidden names": "hides its argument names|reads 'x1'",
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_at_construction_is_explained(name: str) -> None:
    with pytest.raises(CausalModelError, match=re.compile(MESSAGES[name], re.DOTALL)):
        CausalModel(*MISTAKES[name])


def test_an_unknown_output_is_explained() -> None:
    with pytest.raises(CausalModelError, match=r"'answr' is no mechanism here. Did you mean 'answer'"):
        CausalModel(X, {"answer": lambda x: x}, outputs=("answr",))


@pytest.fixture
def model() -> CausalModel:
    return CausalModel({"x": range(3), "y": range(3)}, {"total": lambda x, y: x + y})


SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "missing input": ({"x": [1]}, "leave out input 'y'"),
    "unknown name": ({"x": [1], "yy": [1]}, "'yy' is no variable.*Did you mean 'y'"),
    "outside the domain": ({"x": [1, 7], "y": 0}, "'x' is .*7.* in row 1.*0, 1, 2"),
    "unequal lengths": ({"x": [1, 2], "y": [0, 1, 2]}, "differ in length"),
    "stale column": ({"x": [1], "y": [1], "total": [3]}, r"disagrees with its mechanism in 1 of 1 rows"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_wrong_settings_are_explained(model: CausalModel, name: str) -> None:
    settings, message = SETTINGS[name]
    with pytest.raises(CausalModelError, match=re.compile(message, re.DOTALL)):
        model.run(settings)


def test_wrong_interchanges_are_explained(model: CausalModel) -> None:
    base = model.sample(4, 0)
    with pytest.raises(CausalModelError, match=r"'totl' is no variable.*Did you mean 'total'"):
        model.interchange(base, totl=base)
    with pytest.raises(CausalModelError, match="source of 'total' has 3 settings and the base has 4"):
        model.interchange(base, total=base.head(3))
    with pytest.raises(CausalModelError, match="'z' is no variable"):
        model.run(base, do={"z": 1})


def test_listing_too_many_settings_is_refused() -> None:
    big = CausalModel(dict.fromkeys("abcdefgh", range(100)), {"s": lambda a, b: a + b})
    with pytest.raises(CausalModelError, match="Sample instead"):
        big.settings()


REQUESTS: dict[str, tuple[dict[str, Any], str]] = {
    "strategy": ({"strategy": "balancd"}, "Did you mean 'balanced'"),
    "variable": ({"variables": "totall"}, "Did you mean 'total'"),
    "twice": ({"variables": ["total", "total"]}, "one or more different variables"),
    "unused over": ({"over": ["x"]}, "does not use over"),
    "unused against": ({"against": (CausalModel(X, {"t": lambda x: x}), "t")}, "does not use against"),
    "no rival": ({"strategy": "distinguishing"}, "needs the rival"),
    "no rows": ({"n": 0}, "n=0 is no number of rows"),
    "rows of all": ({"strategy": "exhaustive"}, "does not use n="),
    "other question": (
        {"strategy": "distinguishing", "against": (CausalModel(X, {"t": lambda x: x}), "t")},
        "same inputs and outputs",
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_wrong_requests_for_counterfactuals_are_explained(model: CausalModel, name: str) -> None:
    request, message = REQUESTS[name]
    with pytest.raises(CausalModelError, match=message):
        model.counterfactuals(**{"variables": "total", "n": 10, "seed": 0, **request})


def test_a_model_without_a_mechanism_expects_nothing() -> None:
    with pytest.raises(CausalModelError, match="no mechanism"):
        CausalModel(X, {}).counterfactuals("x", 5, 0)


def test_hypotheses_that_always_agree_cannot_be_distinguished(model: CausalModel) -> None:
    with pytest.raises(CausalModelError, match="disagree on 0 of"):
        model.counterfactuals("total", 5, 0, "distinguishing", against=(model, "total"))


def test_outcomes_too_rare_to_balance_are_named() -> None:
    needle = CausalModel({"x": range(200_000)}, {"hit": lambda x: x < 2, "answer": lambda hit: hit})
    with pytest.raises(
        CausalModelError, match=re.compile(r"the rarest has \d+.*balance something coarser", re.DOTALL)
    ) as caught:
        needle.counterfactuals("hit", 1000, 0, "balanced")
    assert "changed by the interchange" in str(caught.value)
