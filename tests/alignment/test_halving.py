"""Successive halving keeps the sites that short fits favour on the selection rows, and says so."""

from __future__ import annotations

import numpy as np
import pytest

import causal_reft as cr
from causal_reft.alignment.halving import rungs
from causal_reft.errors import StudyError
from causal_reft.training import Recipe
from tests.alignment import planted
from tests.alignment.small import QUICK, small_study

SITES = [cr.Site.at("hidden", port="input"), planted.SITE, cr.Site.at("read")]
SHORT = Recipe(epochs=4, batch_size=48, lr=5e-2, warmup=0.0)


def halved(folder, **changes):
    return small_study(folder, sites=SITES, recipe=SHORT, featurizer=cr.Subspace.of_rank(1), **changes)


@pytest.mark.parametrize(("n", "keep", "counts", "epochs"), [
    (120, 8, [120, 60, 30, 15], [1, 2, 4, 8]),
    (4, 1, [4, 2], [4, 8]),
    (5, 4, [5], [8]),
    (8, 8, [], []),
])  # fmt: skip
def test_sites_halve_and_epochs_double_up_to_half_of_those_of_a_fit(n, keep, counts, epochs):
    schedule = rungs(n, keep, Recipe(epochs=16, batch_size=8))
    assert [rung.n_sites for rung in schedule] == counts
    assert [rung.recipe.epochs for rung in schedule] == epochs


def test_each_round_keeps_the_better_half_by_the_selection_rows_and_nothing_is_fitted_twice(tmp_path, monkeypatch):
    study = halved(tmp_path / "study").halving(keep=1, progress=False)
    rounds = study.halved["rounds"]
    assert [(row["round"], row["epochs"]) for row in rounds] == [(1, 1)] * 3 + [(2, 2)] * 2
    scores = np.array([row["score"] for row in rounds])
    assert sorted(np.argsort(-scores[:3], kind="stable")[:2]) == [row["site"] for row in rounds[3:]]
    assert study.sites == (SITES[rounds[3 + int(scores[3:].argmax())]["site"]],)
    short = cr.StudyResult.load(tmp_path / "study-halving" / "1", partial=True)
    rows = short.tables.cells.items()
    assert {cell.site: result.facts["selection"]["iia"] for cell, result in rows} == dict(enumerate(scores[:3]))

    monkeypatch.setattr("causal_reft.alignment.compute_cells._fits", None)  # any fit would fail
    assert halved(tmp_path / "study").halving(keep=1, progress=False).halved == study.halved


def test_the_report_says_that_sites_were_chosen_and_the_grid_holds_the_rest(tmp_path):
    result = (
        halved(tmp_path / "study", seeds=[0], controls=cr.Controls(5, 0, False, False))
        .halving(2, progress=False)
        .run(progress=False)
    )
    assert len(result.grid) == 2
    assert "2 sites are left of 3 by successive halving: fits of 2 epochs with seed 0" in str(result.report())
    assert (result.grid.p_corrected <= 2 * result.grid.p + 1e-12).all(), "corrected for the sites that are left"


def test_few_sites_are_left_as_they_are_and_mistakes_are_answered(tmp_path):
    study = small_study(tmp_path / "study")
    assert study.halving(keep=2) is study
    with pytest.raises(StudyError, match="keep must be a whole number"):
        study.halving(keep=0)
    with pytest.raises(StudyError, match="Nothing is trained"):
        small_study(tmp_path / "whole", featurizer=cr.Identity, recipe=QUICK).halving(keep=1, progress=False)
