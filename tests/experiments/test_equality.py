"""The equality experiment: a row for each fit, kept, growing, and one experiment a folder."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from causal_reft.errors import StudyError
from causal_reft.experiments import equality as experiment
from causal_reft.experiments.equality import TESTED, alignment_distribution, summary
from tests.experiments.small import EFFORT, NETWORK, equality


def test_every_fit_has_a_row_and_random_weights_stand_beside(tmp_path):
    table = equality(tmp_path, networks=2)
    trained = table[table["weights"] == "trained"]
    assert len(trained) == 2 * len(TESTED) * 3
    assert trained["layer"].unique().tolist() == [1, 2, 3]
    assert trained.groupby("network_seed")["task_accuracy"].nunique().tolist() == [1, 1]
    random = table[table["weights"] == "random"]
    assert len(random) == 2 * len(TESTED)
    assert random["task_accuracy"].isna().all()
    found = summary(table)
    assert found.loc[found["weights"] == "trained", "networks"].eq(2).all()
    assert found["fits"].sum() == len(table)


def test_a_folder_grows_and_computes_only_what_is_new(tmp_path, monkeypatch):
    first, real, fits = equality(tmp_path), experiment.align, []
    monkeypatch.setattr(experiment, "align", lambda *given: fits.append(given) or real(*given))
    second = equality(tmp_path, seeds=2)
    assert len(fits) == len(TESTED) * 3
    kept = second[(second["das_seed"] == 0) | (second["weights"] == "random")].reset_index(drop=True)
    pd.testing.assert_frame_equal(first, kept, check_exact=True)


def test_a_folder_holds_one_experiment(tmp_path):
    equality(tmp_path)
    with pytest.raises(StudyError, match=r"effort\.steps: 3 -> 4"):
        alignment_distribution(range(1), range(1), tmp_path, effort=replace(EFFORT, steps=4), recipe=NETWORK)
