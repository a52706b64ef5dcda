"""From alignment to finetuning and back: fixed subspaces stay, moving ones are scored where they end."""

from __future__ import annotations

import pandas as pd
import pytest

import causal_reft as cr
from causal_reft.experiments.transfer import STARTS, Setting, reading, summary, transfer

FEW = Setting(pairs=24, examples=4, held_out=4, steps=2)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return transfer(cr.load_embedded(), FEW, 1, tmp_path_factory.mktemp("transfer") / "run")


def test_a_fixed_subspace_stays_and_a_free_one_moves(table: pd.DataFrame) -> None:
    rows = table.set_index("start")
    assert list(rows.index) == list(STARTS)
    fixed = rows[rows.index.str.endswith("fixed")]
    assert fixed.angle.max() < 0.1 and (fixed.iia == fixed.iia_before).all()
    assert rows.loc[["random", "aligned"], "angle"].min() > 0.5 and table.angle.max() <= 90
    assert (rows.loss != rows.loss_before).all()


def test_no_edit_is_where_all_starts_begin(table: pd.DataFrame) -> None:
    assert table.loss_before.max() - table.loss_before.min() < 1e-4
    assert table.groupby(table.start.str.startswith("aligned")).iia_before.nunique().eq(1).all()


def test_the_reading_pairs_seeds_and_says_what_cannot_be_told_apart() -> None:
    rows = []
    for start in STARTS:
        for seed in range(6):
            loss = 1.0 + seed - 0.5 * (start == "aligned") + 0.01 * seed * (start == "random")
            iia = {"iia": 0.5, "iia_before": 0.5, "random_iia": 0.5 + 0.1 * (-1) ** seed}
            rows.append({"start": start, "seed": seed, "loss": loss, "angle": 1.0, **iia})
    lines = reading(pd.DataFrame(rows))
    assert "-0.525" in lines[0] and lines[0].endswith(": lower.")
    assert "'aligned, fixed' minus that from 'random, fixed'" in lines[1] and lines[1].endswith("not told apart.")
    assert lines[2].endswith(": lower.") and "-0.025" in lines[2]
    assert lines[3].endswith("not told apart from random.")
    assert summary(pd.DataFrame(rows)).set_index("start").loss["aligned"].startswith("3.000 [")
