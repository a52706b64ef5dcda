"""RAVEL's Cause and Isolate against loops over rows, prompts and attributes, on its real cities."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import numpy as np
import pytest

from causal_reft.causal import CausalModel, CounterfactualDataset, Task, row_kinds
from causal_reft.errors import DataError
from causal_reft.tasks import load_ravel, ravel_scores, with_own_answers
from tests.tasks.test_loaders import write_ravel


@pytest.fixture(params=["by hand", "real"])
def task(request: pytest.FixtureRequest, tmp_path: Path) -> Task:
    if request.param == "by hand":
        return load_ravel(write_ravel(tmp_path)).task()
    return load_ravel(request.getfixturevalue("shared") / "data" / "ravel" / "city").task()


def rows(task: Task) -> CounterfactualDataset:
    return task.counterfactuals("Country", 2000, seed=0)


def kind_by_hand(task: Task, data: CounterfactualDataset, row: int) -> str:
    """Ask the base prompt about the source entity."""
    base, source = data.base.iloc[row], data.sources["Country"].iloc[row]
    asked = task.causal_model.run({"entity": [source["entity"]], "wording": [base["wording"]]})
    if asked["answer"][0] == base["answer"]:
        return "unscored"
    return "cause" if base["asked"] == "Country" else "isolate"


def test_rows_are_scored_where_the_base_prompt_about_the_source_entity_has_another_answer(task: Task) -> None:
    data = rows(task)
    kinds = row_kinds(data, task.causal_model)
    assert [kind_by_hand(task, data, row) for row in range(0, 2000, 10)] == kinds[::10].tolist()
    assert {"cause", "isolate", "unscored"} == set(kinds)


def test_prompts_are_averaged_before_attributes(task: Task) -> None:
    data = rows(task)
    right = np.random.default_rng(0).random(2000) < 0.6
    found, kinds = ravel_scores(task, data, right), row_kinds(data, task.causal_model)

    def averaged(kind: str) -> float:
        by_attribute: dict[str, dict[int, list[bool]]] = {}
        for row in np.flatnonzero(kinds == kind):
            base = data.base.iloc[row]
            by_attribute.setdefault(base["asked"], {}).setdefault(base["wording"], []).append(bool(right[row]))
        return mean(mean(mean(scores) for scores in prompts.values()) for prompts in by_attribute.values())

    assert found.cause == pytest.approx(averaged("cause"), abs=1e-12)
    assert found.isolate == pytest.approx(averaged("isolate"), abs=1e-12)
    assert found.disentangle == (found.cause + found.isolate) / 2
    assert found.prompts["rows"].sum() == (kinds != "unscored").sum()
    assert f"disentangle {found.disentangle:.3f}" in repr(found)


def test_a_swap_of_the_whole_entity_isolates_nothing(task: Task) -> None:
    """What a leak of every attribute gives: each scored row that asks for another attribute is wrong."""
    data = rows(task)
    asked = data.base["asked"].tolist()
    leaked = [data.sources["Country"][name][row] for row, name in enumerate(asked)]
    found = ravel_scores(task, data, np.array(leaked, dtype=object) == data.labels["answer"].to_numpy(dtype=object))
    assert (found.cause, found.isolate, found.disentangle) == (1.0, 0.0, 0.5)


def test_the_target_is_the_networks_own_answer(task: Task) -> None:
    data = rows(task)[:50]
    own = with_own_answers(task, data, lambda frame: [f" <{prompt}>" for prompt in frame["prompt"]])
    template = task.template.texts
    for row, kind in enumerate(row_kinds(data, task.causal_model)):
        base, source = data.base.iloc[row], data.sources["Country"].iloc[row]
        entity = (source if kind == "cause" else base)["entity"]
        assert own.labels["text"][row] == f" <{template[base['wording']].format(entity=entity)}>"
    assert own.base.equals(data.base) and own.labels["answer"].equals(data.labels["answer"])


def test_other_rows_and_other_verdicts_are_refused(task: Task) -> None:
    with pytest.raises(DataError, match=r"right has the shape \(3,\) for 2000 rows"):
        ravel_scores(task, rows(task), [True] * 3)
    equal = CausalModel({"a": range(3)}, {"b": lambda a: a}).counterfactuals("a", 9, 0)
    with pytest.raises(DataError, match="RAVEL's scores are of one attribute"):
        ravel_scores(task, equal, [True] * 9)
