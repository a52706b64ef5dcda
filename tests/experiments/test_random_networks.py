"""Networks with random weights: a row for each width, kept; a width that takes too long says how long."""

from __future__ import annotations

import pytest

from causal_reft.experiments import random_networks as experiment
from causal_reft.experiments.equality import align
from causal_reft.experiments.random_networks import random_networks
from causal_reft.seeds import derive
from causal_reft.tasks.equality import hypothesis
from causal_reft.tasks.equality_network import EqualityNetwork
from tests.experiments.small import EFFORT


def test_a_row_for_each_width_is_kept(tmp_path, monkeypatch):
    table = random_networks([4, 8], 2, EFFORT, folder=tmp_path)
    assert table["width"].tolist() == [4, 8]
    assert table["k"].tolist() == [2, 4]
    for row in table.itertuples():
        again = [
            align(EqualityNetwork(row.width, seed=derive(seed, "random weights")), hypothesis("both relations"), 1,
                  row.k, seed, EFFORT)["iia"] for seed in (0, 1)
        ]  # fmt: skip
        assert (row.lowest, row.highest) == (min(again), max(again))
        assert float(row.iia.split()[0]) == pytest.approx(sum(again) / 2, abs=6e-4)
    monkeypatch.setattr(experiment, "align", None)
    assert random_networks([4, 8], 2, EFFORT, folder=tmp_path).equals(table)


def test_a_width_that_takes_too_long_is_not_run(tmp_path):
    table = random_networks([16, 4], 2, EFFORT, hours=1e-9, folder=tmp_path)
    assert table["cost"].str.startswith("not run: about 0.0 processor-hours").all()
    assert table["iia"].isna().all()
    assert table["paper"].tolist()[0] == 0.5
