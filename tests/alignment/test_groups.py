"""Cells computed together have the numbers that they have alone, for less; only the study decides who is together."""

from __future__ import annotations

import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer

from causal_reft.alignment import Controls, Sampling, Study, compute_cells, controls
from causal_reft.alignment.cells import CONTROLS, FIT, PERMUTED, Cell, Group, grouped
from causal_reft.alignment.compute_cells import run_group
from causal_reft.featurizers import Subspace
from causal_reft.sites import site_grid
from causal_reft.sweeps import Result, Store
from causal_reft.tasks.pronouns import pronouns
from causal_reft.training import Recipe
from tests.alignment.small import small_study


def make(shared: Path, folder: Path) -> Study:
    """Ten sites in five layers: the last layer at `gender` is dead."""
    model = str(shared / "models" / "stories260K-llama")
    return Study(
        model,
        AutoTokenizer.from_pretrained(model),
        task=pronouns(),
        variable="gender",
        sites=site_grid(range(5), ["gender", "last"]),
        featurizer=Subspace.of_rank(4),
        seeds=range(2),
        folder=folder,
        sampling=Sampling(rows=(64, 32, 48)),
        recipe=Recipe(epochs=2, batch_size=16, lr=1e-2, schedule="cosine"),
        controls=Controls(random=10, seeds=1, ladder=False, illusion=False),
        match="choices",
    )


@pytest.fixture(scope="module")
def study(shared, tmp_path_factory) -> Study:
    return make(shared, tmp_path_factory.mktemp("groups") / "study")


def alone(group: Group) -> list[Group]:
    return [(cell,) for cell in group]


def results(study: Study, group: Group, **changes: int) -> dict[Cell, Result]:
    work = replace(study.prepare().work, **changes)
    return dict(zip(group, run_group(work, group), strict=True))


def flops(study: Study, groups: list[Group]) -> tuple[int, list[dict[Cell, Result]]]:
    with FlopCounterMode(display=False) as counter:
        found = [results(study, group) for group in groups]
    return counter.get_total_flops(), found


@pytest.mark.parametrize("kind", [FIT, CONTROLS])
def test_a_group_has_the_numbers_of_its_cells_alone_and_costs_less(study, kind):
    group = study.prepare().groups[0]
    if kind == CONTROLS:
        group = tuple(Cell(CONTROLS, "gender", cell.site, rank=4, role="control") for cell in group)
    together, (shared_by_all,) = flops(study, [group])
    apart, parts = flops(study, alone(group))
    for part in parts:
        for cell, one in part.items():
            many = shared_by_all[cell]
            assert set(one.arrays) == set(many.arrays)
            for name, values in one.arrays.items():
                np.testing.assert_allclose(many.arrays[name], values, rtol=2e-3, atol=2e-3, err_msg=name)
                assert not name.endswith("iia") or np.array_equal(many.arrays[name], values)
            assert {key: value for key, value in one.facts.items() if key != "final_loss"} == {
                key: value for key, value in many.facts.items() if key != "final_loss"
            }
    assert apart > (2 if kind == FIT else 1.1) * together


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_what_is_missing_decides_no_number(study, shared, tmp_path):
    """Groups that are computed later, in other processes, in another folder: the same bits."""
    whole = study.run(progress=False)
    copied = Path(shutil.copytree(study.prepare().store.folder, tmp_path / "copy"))
    groups = Store.read(copied).files()
    assert len(groups) == 5, "two seeds, permuted labels, shuffled weights, controls: ten cells each"
    for path in groups[1::2]:
        path.unlink()
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        result = make(shared, copied).run(executor=pool, progress=False)
    for name in ("table", "grid", "records", "control_fits"):
        pd.testing.assert_frame_equal(getattr(result, name), getattr(whole, name), check_exact=True)


def test_dead_sites_stay_in_the_grid_untrained_and_are_named(study):
    result = study.run(progress=False)
    dead = result.table[(result.table["layer"] == 4) & (result.table["positions"] == "gender")]
    assert len(dead) == 2 and (dead["steps"] == 0).all()
    assert (result.table["steps"] > 0).sum() == 18
    text = repr(study.plan())
    assert "An edit changes no logit that is read at block_output.4 at 'gender': not trained" in text
    assert "fits: 40 cells in 4 groups" in text
    assert "5 graphs as a staircase" in text and "4 graphs as a staircase" in text


def test_groups_hold_what_shares_passes_and_no_more_than_allowed():
    cells = [Cell(FIT, v, site, seed=seed) for v in ("a", "b") for site in range(7) for seed in (0, 1)]
    cells.append(Cell(FIT, "a", 0, seed=0, labels=PERMUTED))
    groups = grouped(cells, 3)
    assert [len(group) for group in groups] == [2, 2, 3] * 4 + [1]
    assert sorted(cells, key=repr) == sorted((cell for group in groups for cell in group), key=repr)
    for group in groups:
        assert len({(cell.variable, cell.seed, cell.labels) for cell in group}) == 1
    assert grouped(cells, 3) == groups


def test_a_budget_that_holds_nothing_gives_the_same_answers(study):
    """What may not be kept is recorded again for each batch."""
    group = study.prepare().groups[0]
    poor = group[:4]
    kept, again = results(study, poor), results(study, poor, memory=1)
    for cell in poor:
        np.testing.assert_array_equal(kept[cell].arrays["report.iia"], again[cell].arrays["report.iia"])


def test_the_shuffled_network_of_a_seed_is_made_once_and_not_kept_beside_others(tmp_path, monkeypatch):
    made: list[int] = []

    def counted(network, seed):
        made.append(seed)
        return controls.shuffled(network, seed)

    monkeypatch.setattr(compute_cells, "shuffled", counted)
    few = Controls(random=2, seeds=2, ladder=False, illusion=False)
    small_study(tmp_path / "s", cells_at_once=1, controls=few).run(progress=False)
    assert made == [0, 1], "two sites each"
    assert compute_cells._kept.shuffled is None
