"""A study is a value: making it runs nothing; what is wrong with it is said then; its plan says what it will cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from causal_reft.alignment import Controls, Sampling, StudyResult
from causal_reft.alignment.cells import CONTROLS, Cell
from causal_reft.alignment.controls import full_patch
from causal_reft.alignment.report import _beyond_whole
from causal_reft.alignment.row_scores import score_rows
from causal_reft.alignment.study_plan import _runs, extrapolated, terms
from causal_reft.errors import CausalReftWarning, StudyError
from causal_reft.featurizers import Identity, Subspace
from causal_reft.sweeps import Store
from causal_reft.training import Recipe
from tests.alignment import planted
from tests.alignment.small import SPLITS, small_study


def never() -> torch.nn.Module:
    raise AssertionError("the model was loaded")


def test_making_and_printing_a_study_loads_nothing_and_writes_nothing(tmp_path):
    study = small_study(tmp_path / "s", model=never)
    assert "4 fits" in repr(study) and "rows are drawn by study.prepare()" in repr(study)
    assert not (tmp_path / "s").exists()
    with pytest.raises(AssertionError, match="was loaded"):
        study.prepare()


def test_printing_a_study_never_runs_the_model(tmp_path):
    network, calls = planted.truth(), []
    network.register_forward_hook(lambda *_: calls.append(1))
    study = small_study(tmp_path / "s", model=network, sampling=Sampling())
    repr(study)
    assert not calls
    study.prepare(progress=False)
    seen = len(calls)
    assert seen > 0 and "training" in repr(study) and len(calls) == seen


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [0, 1.5]}, "1.5 is none; a seed is an integer"),
        ({"seeds": [0, 2**32]}, "4294967296 is none"),
        ({"seeds": [-1]}, "-1 is none"),
        ({"seeds": [True]}, "True is none"),
        ({"variable": "right"}, "variable='right', but the data hold rows for left"),
        ({"data": {"left": SPLITS}, "variable": ["left", "rigth"]}, "variable='rigth'"),
        ({"model": 3}, "not int"),
    ],
)
def test_what_is_wrong_with_a_study_is_said_when_it_is_made(tmp_path, changes, message):
    with pytest.raises(StudyError, match=message):
        small_study(tmp_path / "s", **{"model": never, **changes})
    assert not (tmp_path / "s").exists()


def test_a_seed_of_sampling_that_would_alias_is_refused():
    with pytest.raises(StudyError, match=r"Sampling\(seed=4294967297\)"):
        Sampling(seed=2**32 + 1)


def test_variable_selects_among_the_data(tmp_path):
    data = {"left": SPLITS, "again": SPLITS}
    assert small_study(tmp_path / "s", data=data, variable="left").variables == ("left",)
    assert small_study(tmp_path / "s", data=data).variables == ("left", "again")


@pytest.mark.parametrize("given", [{"epochs": 3}, Recipe(epochs=3)])
def test_a_recipe_changes_only_what_it_names(tmp_path, given):
    study = small_study(tmp_path / "s", recipe=given)
    assert study.recipe == Recipe(epochs=3, batch_size=32, lr=1e-2, schedule="cosine")
    assert "schedule='cosine'" in repr(study)


@pytest.fixture
def interrupted(tmp_path, monkeypatch) -> Path:
    """The folder of a study that was interrupted in its third group of fits."""
    study, steps, step = small_study(tmp_path / "s", cells_at_once=1), [], torch.optim.AdamW.step

    def counted(self, *args, **settings):
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return step(self, *args, **settings)

    monkeypatch.setattr(torch.optim.AdamW, "step", counted)
    with pytest.raises(KeyboardInterrupt):
        study.run(progress=False)
    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    return tmp_path / "s"


def test_ctrl_c_in_a_study_goes_up_once_said_and_stores_nothing_half_trained(interrupted, capsys):
    assert len(Store.read(interrupted).files()) == 2
    result = small_study(interrupted, cells_at_once=1).run(progress=False)
    assert result.missing.empty and len(result.table) == 4


def test_a_folder_goes_on_with_other_threads_and_each_cell_says_which(interrupted):
    small_study(interrupted, cells_at_once=1, threads=2, device="cpu").run(progress=False)
    cells = Store.read(interrupted).results(Cell).values()
    assert {found.provenance["threads"] for found in cells} == {1, 2}
    assert {found.provenance["device"] for found in cells} == {"cpu"}


def test_a_partial_result_says_what_is_missing(interrupted):
    result = StudyResult.load(interrupted, partial=True)
    assert len(result.table) == 2 and result.table["separation"].isna().all()
    assert len(result.missing) == 6 and set(result.missing["kind"]) == {"fit"}
    assert "PARTIAL: 2 cells are finished; 6 fit cells are missing" in result.report()
    assert "PARTIAL" in repr(result) and "nothing is compared yet, as no cell has its controls" in repr(result)
    assert "nan" not in result.report() and "no effect" not in result.report()
    with pytest.raises(StudyError, match="2 of 4 fits; 6 fit cells are missing"):
        StudyResult.load(interrupted)


def test_a_lost_control_is_missed_and_never_left_out_of_the_comparison(tmp_path):
    study = small_study(tmp_path / "s")
    whole = study.run(progress=False)
    for path in study.prepare().store.files():
        if "permuted" in path.name:
            path.write_bytes(path.read_bytes()[:-1])
    with (
        pytest.warns(CausalReftWarning, match="is damaged"),
        pytest.raises(StudyError, match="2 fit cells are missing"),
    ):
        StudyResult.load(tmp_path / "s")
    with pytest.warns(CausalReftWarning, match="is damaged"):
        again = small_study(tmp_path / "s").run(progress=False)
    assert again.report() == whole.report()


def test_the_plan_says_what_the_run_costs(tmp_path):
    splits = planted.counterfactuals(300, 1).split(0.6, 0.2, 0.2)
    few = Controls(random=10, seeds=1, ladder=False)
    study = small_study(tmp_path / "s", data=splits, recipe=Recipe(epochs=3, batch_size=64), controls=few)
    plan = study.plan()
    with FlopCounterMode(display=False) as counter:
        result = study.run(progress=False)
    assert plan.flops == pytest.approx(counter.get_total_flops(), rel=0.3)
    assert plan.hours > plan.construction / 3600 > 0
    assert [stage.cells for stage in plan.stages] == [8, 2, len(study.prepare().cells) - 10]
    assert "processor-hours" in repr(plan)
    named = [(stage.name, stage.cells) for stage in plan.stages]
    assert list(result.stages[["stage", "cells"]].itertuples(index=False, name=None)) == named
    assert result.stages["seconds"].sum() == pytest.approx(result.seconds)


def test_what_groups_cost_follows_from_a_few_cells():
    sizes = {("v", site): float(size) for site, size in enumerate([1, 2, 3, 10, 20, 40])}
    grid = [tuple(Cell(CONTROLS, "v", site) for site in sites) for sites in ((0, 1, 2), (3, 4, 5))]

    def cost(group, draws):
        found = [sizes["v", cell.site] for cell in group]
        return 5 + 0.1 * max(found) + 2 * len(group) + 0.3 * sum(found) + 0.01 * draws * sum(found)

    runs = list(_runs(grid, sizes, 100))
    assert [([cell.site for cell in run], draws) for run, draws in runs] == [
        ([0], 13), ([0, 1], 13), ([5], 13), ([4, 5], 13), ([4, 5], 39),
    ]  # fmt: skip
    known = [terms(run, sizes, draws) for run, draws in runs]
    need = np.sum([terms(group, sizes, 100) for group in grid], 0)
    found = extrapolated(known, [cost(*run) for run in runs], need)
    assert found == pytest.approx(sum(cost(group, 100) for group in grid))


def test_the_table_says_what_the_whole_vector_does_of_the_gain(tmp_path):
    result = small_study(tmp_path / "s").run(progress=False)
    whole = result.controls.query("control == 'full_patch'").set_index("site")["cause"]
    table = result.table
    np.testing.assert_allclose(table["whole_share"], whole[table["site"]].to_numpy() / table["cause"])


SHARES = [([0.2, 0.9, 0.4], "at 2 of these 3"), ([0.1, 0.2], "at each of"), ([0.1], "but there"), ([0.5], None)]


@pytest.mark.parametrize(("shares", "said"), SHARES)
def test_the_headline_says_where_the_whole_vector_does_less_than_half(shares, said):
    import pandas as pd

    text = _beyond_whole(pd.DataFrame({"whole_share": shares}))
    assert (said in text and "less than half" in text) if said else text == ""


def test_identity_is_a_patching_sweep_without_fits_and_random_subspaces(tmp_path):
    both = {"whole": Identity, "two": Subspace.of_rank(2)}
    few = Controls(random=5, seeds=1, ladder=False, illusion=False)
    study = small_study(tmp_path / "s", controls=few, featurizer=both)
    assert "no edit as its only control" in repr(study)
    result = study.run(progress=False)
    whole, two = (result.table[result.table["featurizer"] == label] for label in both)
    assert len(whole) == 2 and len(two) == 4 and not whole["steps"].any()
    assert set(whole["best_control"]) == {"no_edit"} and set(result.control_fits["featurizer"]) == {"two"}
    assert whole[["random_mean", "random_percentile", "pca", "permuted", "shuffled"]].isna().all(None)
    assert (two["random_best"] >= 0).all()
    np.testing.assert_array_equal(whole["iia"], whole["full_patch"])
    site = two["site"].iloc[0]
    patch = full_patch(result.graph(featurizer="two", site=site))
    assert patch is not None
    scores = score_rows(study.source.load()[0], patch, study.prepare().work.data["left"].report.examples)
    assert whole.set_index("site")["iia"].to_dict()[site] == pytest.approx(scores["iia"].mean())
    assert "random subspaces of rank" in result.report()


def test_a_sweep_of_identity_only_has_a_report_and_a_page(tmp_path):
    study = small_study(tmp_path / "s", featurizer=Identity)
    assert "a patching sweep of 2 sites, nothing trained" in repr(study) and "random subspaces" not in repr(study)
    result = study.run(progress=False)
    page = tmp_path / "report.html"
    assert len(result.table) == 2 and "random subspaces of rank 16 not measured" in result.report(page)
    assert "whole vector" in page.read_text() and "Ladder" not in page.read_text()
