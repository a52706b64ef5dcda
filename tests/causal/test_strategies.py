"""What a strategy promises about its pairs holds for every seed, and labels always equal the causal model's word."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from causal_reft.causal import CausalModel, CounterfactualDataset

MODEL = CausalModel(
    inputs=dict.fromkeys("wxyz", range(4)),
    mechanisms={
        "left": lambda w, x: w == x,
        "right": lambda y, z: y == z,
        "answer": lambda left, right: left == right,
    },
)
RIVAL = CausalModel(
    dict.fromkeys("wxyz", range(4)),
    {"first": lambda w: w.copy(), "answer": lambda first, x, y, z: (first == x) == (y == z)},
)
STRATEGIES = {
    "uniform": {},
    "balanced": {},
    "distinguishing": {"against": (RIVAL, "first")},
    "per_variable": {},
}
seeds = st.integers(0, 2**31)


def plain_labels(data: CounterfactualDataset) -> list[bool]:
    """The label of each row from the definition, in Python."""
    labels = []
    for row in range(len(data)):
        runs = {name: frame.iloc[row] for name, frame in {"base": data.base, **data.sources}.items()}
        left, right = runs.get("left", runs["base"]), runs.get("right", runs["base"])
        labels.append(bool((left.w == left.x) == (right.y == right.z)))
    return labels


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(seed=seeds)
@settings(max_examples=10)
def test_labels_are_those_of_the_definition(strategy: str, seed: int) -> None:
    data = MODEL.counterfactuals("left", 40, seed, strategy, **STRATEGIES[strategy])
    assert len(data) == 40
    assert data.labels["answer"].tolist() == plain_labels(data)


@given(seed=seeds)
@settings(max_examples=10)
def test_two_variables_take_two_sources(seed: int) -> None:
    data = MODEL.counterfactuals(["left", "right"], 60, seed)
    assert list(data.runs) == ["base", "source_left", "source_right"]
    assert data.labels["answer"].tolist() == plain_labels(data)
    assert not data.sources["left"].equals(data.sources["right"])


@given(seed=seeds)
@settings(max_examples=10)
def test_a_shared_source_is_one_run(seed: int) -> None:
    data = MODEL.counterfactuals(["left", "right"], 60, seed, shared_source=True)
    assert list(data.runs) == ["base", "source"]
    assert data.labels["answer"].tolist() == data.sources["left"]["answer"].tolist()


@given(seed=seeds, n=st.integers(4, 300))
@settings(max_examples=15)
def test_balanced_makes_every_outcome_equally_frequent(seed: int, n: int) -> None:
    data = MODEL.counterfactuals("left", n, seed, "balanced")
    cells = pd.DataFrame({"label": data.labels["answer"], "changed": data.changed}).value_counts()
    assert len(data) == n and len(cells) == 4
    assert cells.max() - cells.min() <= 1


@given(seed=seeds)
@settings(max_examples=10)
def test_balanced_over_named_variables_balances_their_values_on_base_and_source(seed: int) -> None:
    data = MODEL.counterfactuals("left", 80, seed, "balanced", over=["left"])
    cells = pd.DataFrame({"base": data.base["left"], "source": data.sources["left"]["left"]}).value_counts()
    assert cells.tolist() == [20, 20, 20, 20]


@given(seed=seeds)
@settings(max_examples=10)
def test_distinguishing_pairs_are_those_on_which_the_hypotheses_disagree(seed: int) -> None:
    data = MODEL.counterfactuals("left", 50, seed, "distinguishing", against=(RIVAL, "first"))
    source = data.sources["left"]
    rival = (source["w"] == data.base["x"]) == (data.base["y"] == data.base["z"])
    assert (rival != data.labels["answer"]).all()


@given(seed=seeds, n=st.integers(2, 101))
@settings(max_examples=15)
def test_per_variable_moves_at_most_one_variable_per_row_and_each_as_often(seed: int, n: int) -> None:
    data = MODEL.counterfactuals(["left", "right"], n, seed, "per_variable")
    moved = np.stack([(data.sources[v] != data.base).any(axis=1).to_numpy() for v in ("left", "right")])
    assert (moved.sum(axis=0) <= 1).all()
    assert abs(int(moved[0].sum()) - int(moved[1].sum())) <= n // 2 + 1
    assert (moved.sum(axis=1) <= -(-n // 2)).all()


def test_exhaustive_holds_every_pair_once() -> None:
    small = CausalModel({"a": range(3), "b": range(2)}, {"s": lambda a, b: a + b})
    data = small.counterfactuals("s", None, 0, "exhaustive")
    both = pd.concat([data.base[["a", "b"]], data.sources["s"][["a", "b"]].add_suffix("_source")], axis=1)
    assert len(data) == 36 == len(both.drop_duplicates())
    two = small.counterfactuals(["a", "b"], None, 0, "exhaustive")
    assert len(two) == 216 and list(two.runs) == ["base", "source_a", "source_b"]
    assert two.labels["s"].tolist() == (two.sources["a"]["a"] + two.sources["b"]["b"]).tolist()
    assert len(small.counterfactuals(["a", "b"], None, 0, "exhaustive", shared_source=True)) == 36


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_among_restricts_base_and_sources(strategy: str) -> None:
    among = MODEL.settings().query("w < 2")
    data = MODEL.counterfactuals("left", 100, 0, strategy, among=among, **STRATEGIES[strategy])
    assert all((frame["w"] < 2).all() for frame in data.runs.values())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_seed_decides_everything(strategy: str) -> None:
    def digest(seed: int) -> str:
        return MODEL.counterfactuals("left", 50, seed, strategy, **STRATEGIES[strategy]).digest

    assert digest(1) == digest(1) != digest(2)


def test_base_and_source_streams_are_independent() -> None:
    data = MODEL.counterfactuals("left", 4000, 0)
    agree = (data.base["w"] == data.sources["left"]["w"]).mean()
    assert abs(agree - 0.25) < 0.03


def test_outputs_say_what_is_asked_for() -> None:
    inputs, mechanisms = {"x": range(3)}, {"side": lambda x: x + 1, "answer": lambda x: x * 2}
    assert CausalModel(inputs, mechanisms).outputs == ("side", "answer")
    asked = CausalModel(inputs, mechanisms, outputs=("answer",))
    assert list(asked.counterfactuals("x", 5, 0).labels) == ["answer"]
