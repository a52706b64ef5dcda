"""A causal model agrees with the plainest possible reading of it: one Python call per variable and per row."""

from __future__ import annotations

import inspect
import itertools
import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from causal_reft.causal import CausalModel, rowwise
from causal_reft.tasks.addition import addition_model


def equality(n: int = 12) -> CausalModel:
    return CausalModel(
        inputs=dict.fromkeys("wxyz", range(n)),
        mechanisms={
            "left": lambda w, x: w == x,
            "right": lambda y, z: y == z,
            "answer": lambda left, right: left == right,
        },
    )


def by_hand(model: CausalModel, setting: dict[str, Any], fixed: dict[str, Any]) -> dict[str, Any]:
    """Every variable for one setting, by recursion over argument names."""

    def value(name: str) -> Any:
        if name in fixed:
            return fixed[name]
        if name in model.inputs:
            return setting[name]
        mechanism = model.mechanisms[name]
        arguments = {parent: np.array([value(parent)]) for parent in inspect.signature(mechanism).parameters}
        return np.atleast_1d(mechanism(**arguments))[0]

    return {name: value(name) for name in (*model.inputs, *model.mechanisms)}


OPERATIONS = {
    0: lambda: None,
    1: lambda a: (a + 1) % 3,
    2: lambda a, b: (a + 2 * b) % 3,
    3: lambda a, b, c: (a * b + c) % 3,
}


def renamed(operation: Any, parents: list[str]) -> Any:
    """The operation under other argument names."""
    if not parents:
        return lambda: 1
    return eval(f"lambda {', '.join(parents)}: operation({', '.join(parents)})", {"operation": operation})


@st.composite
def specs(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """Domains and mechanisms of a random graph (the model is built in the test: type checks draw random numbers)."""
    inputs = [f"i{k}" for k in range(draw(st.integers(1, 3)))]
    names = list(inputs)
    mechanisms = {}
    for k in range(draw(st.integers(1, 5))):
        parents = draw(st.lists(st.sampled_from(names), unique=True, max_size=3))
        mechanisms[f"m{k}"] = renamed(OPERATIONS[len(parents)], parents)
        names.append(f"m{k}")
    order = draw(st.permutations(list(mechanisms)))
    return dict.fromkeys(inputs, range(3)), {name: mechanisms[name] for name in order}


@given(specs(), st.integers(0, 1000))
def test_run_equals_one_python_call_per_variable_and_row(spec: Any, seed: int) -> None:
    model = CausalModel(*spec)
    settings = model.sample(20, seed)
    result = model.run(settings)
    expected = [by_hand(model, row, {}) for row in settings.to_dict("records")]
    assert result.to_dict("records") == [{name: row[name] for name in model.variables} for row in expected]


@given(specs(), st.integers(0, 1000), st.data())
def test_interchange_of_several_variables_from_several_sources_equals_by_hand(
    spec: Any, seed: int, data: st.DataObject
) -> None:
    model = CausalModel(*spec)
    chosen = data.draw(st.lists(st.sampled_from(model.variables), unique=True, min_size=1, max_size=3))
    base = model.sample(15, seed)
    sources = {name: model.sample(15, seed + 1 + k) for k, name in enumerate(chosen)}
    result = model.interchange(base, **sources)
    for row in range(15):
        fixed = {name: by_hand(model, source.iloc[row].to_dict(), {})[name] for name, source in sources.items()}
        expected = by_hand(model, base.iloc[row].to_dict(), fixed)
        assert result.iloc[row].to_dict() == {name: expected[name] for name in model.variables}


@given(specs(), st.integers(0, 1000), st.data())
def test_interchange_with_itself_changes_nothing(spec: Any, seed: int, data: st.DataObject) -> None:
    model = CausalModel(*spec)
    base = model.sample(15, seed)
    chosen = data.draw(st.lists(st.sampled_from(model.variables), unique=True, min_size=1))
    pd.testing.assert_frame_equal(model.interchange(base, **dict.fromkeys(chosen, base)), model.run(base))


@given(specs(), st.integers(0, 1000))
def test_interchange_of_all_inputs_is_the_source_run(spec: Any, seed: int) -> None:
    model = CausalModel(*spec)
    base, source = model.sample(15, seed), model.sample(15, seed + 1)
    pd.testing.assert_frame_equal(model.interchange(base, **dict.fromkeys(model.inputs, source)), model.run(source))


def test_every_interchange_of_equality_over_a_small_domain_equals_brute_force() -> None:
    model = equality(3)
    settings = list(itertools.product(range(3), repeat=4))
    pairs = list(itertools.product(settings, settings))
    base = pd.DataFrame([b for b, _ in pairs], columns=list("wxyz"))
    source = pd.DataFrame([s for _, s in pairs], columns=list("wxyz"))
    left = [(s[0] == s[1]) == (b[2] == b[3]) for b, s in pairs]
    both = [(s[0] == s[1]) == (s[2] == s[3]) for _, s in pairs]
    assert model.interchange(base, left=source)["answer"].tolist() == left
    assert model.interchange(base, left=source, right=source)["answer"].tolist() == both


def test_a_hypothesis_variable_named_base_is_no_special_case() -> None:
    model = CausalModel({"x": range(3)}, {"base": lambda x: x + 1, "y": lambda base: base * 2})
    assert model.interchange({"x": [0, 1]}, base={"x": [2, 2]})["y"].tolist() == [6, 6]


def test_settings_lists_every_setting_once_and_settings_at_numbers_them() -> None:
    model = equality(3)
    settings = model.settings()
    assert len(settings) == model.size == 81 == len(settings.drop_duplicates())
    pd.testing.assert_frame_equal(model.settings_at(np.array([5, 80])), settings.iloc[[5, 80]].reset_index(drop=True))


def test_equivalence_classes_partition_the_settings() -> None:
    classes = equality(3).equivalence_classes("left")
    assert {value: len(frame) for value, frame in classes.items()} == {True: 27, False: 54}
    assert (classes[True]["w"] == classes[True]["x"]).all()
    assert not (classes[False]["w"] == classes[False]["x"]).any()


def test_vector_valued_inputs_reach_mechanisms_as_matrices() -> None:
    vectors = np.random.default_rng(0).normal(size=(5, 4))
    model = CausalModel({"a": vectors, "b": vectors}, {"same": lambda a, b: (a == b).all(axis=-1)})
    assert model.size == 25
    everything = model.run(model.settings())
    assert everything["same"].tolist() == [i == j for i in range(5) for j in range(5)]
    assert everything["a"].iloc[7].shape == (4,)
    again = model.interchange(everything, a=everything)
    assert again["same"].tolist() == everything["same"].tolist()
    assert [frame.shape for frame in model.equivalence_classes("same").values()] == [(5, 2), (20, 2)]


def test_tuples_and_strings_stay_whole() -> None:
    model = CausalModel(
        {"pair": [("a", "b"), ("c", "d")], "word": ["x", "yy"]},
        {"first": rowwise(lambda pair: pair[0]), "both": lambda first, word: first + word},
    )
    assert model.run(model.settings())["both"].tolist() == ["ax", "ayy", "cx", "cyy"]


def test_do_fixes_a_variable_and_single_values_are_repeated() -> None:
    frame = equality().run({"w": 1, "x": [1, 2], "y": 0, "z": 0}, do={"right": False})
    assert frame["answer"].tolist() == [False, True]


def test_sampling_depends_on_the_seed_alone() -> None:
    model = equality()
    pd.testing.assert_frame_equal(model.sample(50, 3), model.sample(50, 3))
    assert not model.sample(50, 3).equals(model.sample(50, 4))


def test_an_argument_with_a_default_is_a_constant_not_a_parent() -> None:
    model = CausalModel({"x": range(3)}, {"y": lambda x, step=2: x + step})
    assert model.parents["y"] == ("x",)
    assert model.run({"x": [1]})["y"].tolist() == [3]


def test_a_model_of_functions_pickles() -> None:
    model = addition_model()
    copy = pickle.loads(pickle.dumps(model))
    pd.testing.assert_frame_equal(copy.run(copy.sample(9, 0)), model.run(model.sample(9, 0)))


def test_an_undeclared_domain_can_be_run_but_not_sampled() -> None:
    model = CausalModel({"x": None}, {"y": lambda x: x > 0})
    assert model.run({"x": [1.5, -2.0]})["y"].tolist() == [True, False]
    with pytest.raises(ValueError, match="has no list of values"):
        model.sample(3, 0)
