"""A study resumes, refuses what is not its own, and gives one table however it is run."""

from __future__ import annotations

import multiprocessing
import shutil
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from causal_reft.alignment import COLUMNS, Controls, StudyResult
from causal_reft.alignment.compute_cells import run_group, slices
from causal_reft.alignment.row_facts import factors_of
from causal_reft.alignment.statistics import mean_interval
from causal_reft.causal import Splits
from causal_reft.errors import StudyError
from causal_reft.featurizers import Mask, Subspace
from causal_reft.sites import Site
from causal_reft.sweeps import Store
from causal_reft.training import Recipe
from tests.alignment import planted
from tests.alignment.small import SPLITS, small_study
from tests.killing import kill_and_resume

CHEAP = Controls(random=5, seeds=0, ladder=False, illusion=False)
FORK = multiprocessing.get_context("fork")


def same(one: StudyResult, two: StudyResult) -> None:
    for name in ("table", "grid", "records", "ladder", "control_fits"):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(two, name), check_exact=True)
    assert one.report() == two.report()


def files(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in Store.read(folder).files()}


def test_the_table_has_a_row_for_each_fit_and_documented_columns(finished):
    table, grid = finished.table, finished.grid
    assert len(table) == 2 * 2
    assert set(table["seed"]) == {0, 1}
    assert set(table.columns) | set(grid.columns) | {"kl"} == set(COLUMNS)
    assert ((table["iia_low"] <= table["iia"]) & (table["iia"] <= table["iia_high"])).all()
    np.testing.assert_allclose(table["separation"], table["iia"] - table["control"])
    assert len(grid) == 2
    assert (grid["p_corrected"] >= grid["p"] - 0.02).all()


def test_records_have_a_row_for_each_example_and_fit(finished):
    records = finished.records
    assert len(records) == 4 * len(SPLITS.test)
    mean = records.groupby(["site", "seed"])["iia"].mean()
    for _, row in finished.table.iterrows():
        assert mean[row["site"], row["seed"]] == pytest.approx(row["iia"])
    assert {"base_setting", "source_setting", "expected_answer", "kind", "cluster"} <= set(records)


def test_intervals_of_the_grid_know_which_pairs_share_a_base_or_a_source(finished):
    records, row = finished.records, finished.grid.iloc[0]
    mine = records[records["site"] == row["site"]]
    scores = np.stack([part["iia"].to_numpy() for _, part in mine.groupby("seed")])
    found = mean_interval(scores, factors_of(SPLITS.test))
    assert (found.value, found.low, found.high) == (row["iia"], row["iia_low"], row["iia_high"])


def test_a_study_of_one_seed_warns_of_it_in_grid_and_report(tmp_path):
    result = small_study(tmp_path / "one", seeds=[0], controls=CHEAP).run(progress=False)
    assert result.grid["warning"].str.contains("1 seed").all()
    assert "2 of 2 cells with care: 1 seed: the interval says nothing of other seeds" in result.report()


def test_two_sites_that_hold_one_tensor_score_alike(finished):
    assert finished.grid["iia"].nunique() == 1
    assert finished.difference({"site": "hidden"}, {"site": "read:input"})["difference"] == 0


def test_what_the_repr_promises_is_what_is_done(study):
    text, prepared = repr(study), study.prepare()
    assert "2 sites x 1 featurizer x 2 seeds x 1 variable = 4 fits" in text
    assert "4 more fits to permuted labels and on shuffled weights" in text
    assert "48 training, 24 selection, 48 report rows" in text
    assert prepared.finished == len(prepared.cells) == 16
    assert "16 of 16 known cells finished" in text


def test_the_best_so_far_of_all_cells_is_that_of_the_report(study, finished):
    best = finished.best()
    score = f"IIA {best.iia:.3f} [{best.iia_low:.3f}, {best.iia_high:.3f}]"
    place = f"{best.site} at {best.positions} ({best.featurizer})"
    assert study.prepare().so_far() == {"left, best so far:": f"{score}, {place}"}


def test_the_report_says_everything_in_words_and_in_html(finished):
    text = finished.report()
    for words in (
        "separate",
        "identity patch",
        "random subspaces",
        "PCA",
        "permuted labels",
        "shuffled weights",
        "ladder",
    ):
        assert words in text
    assert "A Flow can align almost anything" in text
    assert "Illusion report" in text
    assert f"Scored on {len(SPLITS.test)} report rows" in text
    assert all(f"<p>{escape(line)}</p>" in finished._repr_html_() for line in text.splitlines() if line)
    assert finished.heatmap("iia", ax=None).get_title() is not None


def test_ladder_and_control_fits_have_tables(finished):
    assert set(finished.ladder["featurizer"]) == {"Subspace of rank 1", "Subspace of rank 2", "Flow of rank 2"}
    shuffled = finished.ladder[finished.ladder["network"] == "shuffled"]
    assert set(shuffled["featurizer"]) >= {"Flow of rank 2"}
    assert set(finished.control_fits["labels"]) == {"true", "permuted"}


@pytest.mark.slow
def test_kill_9_five_times_and_the_tables_are_the_same_bit_for_bit(tmp_path):
    killed, whole = kill_and_resume([sys.executable, "-m", "tests.alignment.small"], tmp_path)
    same(StudyResult.load(killed), StudyResult.load(whole))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_process_pool_gives_the_serial_table(finished, tmp_path):
    with ProcessPoolExecutor(2, mp_context=FORK) as pool:
        same(small_study(tmp_path / "pool").run(executor=pool, progress=False), finished)


def test_threads_have_a_network_each_and_give_the_serial_table(finished, tmp_path):
    loaded: list[int] = []

    class Counting:
        def __call__(self):
            loaded.append(threading.get_ident())
            return planted.truth()

        def __reduce__(self):
            return planted.truth, ()

    study = small_study(tmp_path / "threads", model=Counting())
    with ThreadPoolExecutor(2) as pool:
        same(study.run(executor=pool, progress=False), finished)
    assert len(loaded) == len(set(loaded)) <= 3


def test_dask_gives_the_serial_table(finished, tmp_path):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(1, processes=False, threads_per_worker=2, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        same(small_study(tmp_path / "dask").run(executor=client.get_executor(), progress=False), finished)


def test_another_study_is_refused_and_the_difference_is_named(finished, tmp_path):
    small_study(tmp_path / "s").prepare()
    with pytest.raises(StudyError, match=r"(?s)holds another study.*seeds: \[0, 1\] -> \[0, 1, 2\]"):
        small_study(tmp_path / "s", seeds=range(3)).prepare()
    with pytest.raises(StudyError, match="featurizers"):
        small_study(tmp_path / "s", featurizer=lambda d, seed: Subspace(d, 2, seed + 1)).prepare()
    with pytest.raises(StudyError, match=r"model.weights"):
        small_study(tmp_path / "s", model=planted.Planted("independent", 1)).prepare()


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("...")
    with pytest.raises(StudyError, match="holds no study"):
        small_study(tmp_path).prepare()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_unfinished_study_has_no_result(tmp_path):
    study = small_study(tmp_path / "s")
    study.prepare()
    with pytest.raises(StudyError, match=r"0 of 4 fits.*not finished"):
        study.result()
    with pytest.raises(StudyError, match="no finished fit yet"):
        study.result(partial=True)


def test_a_cell_that_was_written_over_another_is_missed(study, tmp_path):
    copied = Path(shutil.copytree(study.prepare().store.folder, tmp_path / "s"))
    one, two = [path for path in Store.read(copied).files() if path.name.startswith("fit-")][:2]
    one.replace(two)
    with pytest.raises(StudyError, match="2 fit cells are missing"):
        StudyResult.load(copied)


def test_an_interrupted_fit_is_no_finished_cell(tmp_path, monkeypatch):
    study = small_study(tmp_path / "s")

    def interrupted(*args, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.optim.AdamW, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        study.run(progress=False)
    assert study.prepare().finished == 0


def test_a_live_network_is_for_this_process_alone(tmp_path):
    study = small_study(tmp_path / "s", model=planted.Planted("independent", 0))
    with ThreadPoolExecutor(1) as pool, pytest.raises(StudyError, match="folder or hub id"):
        study.run(executor=pool)


def test_a_factory_must_be_sendable(tmp_path):
    study = small_study(tmp_path / "s", model=lambda: planted.Planted("independent", 0))
    with ThreadPoolExecutor(1) as pool, pytest.raises(StudyError, match="top of a module"):
        study.run(executor=pool)


def test_a_network_that_changed_meanwhile_is_refused(tmp_path):
    network = planted.Planted("independent", 0)
    study = small_study(tmp_path / "s", model=network)
    study.prepare()
    with torch.no_grad():
        network.read.weight.mul_(2)
    with pytest.raises(StudyError, match="weights changed"):
        study.run()


def test_a_factory_that_gives_other_weights_each_time_is_refused(tmp_path):
    made = iter([planted.Planted("independent", 0), planted.Planted("independent", 1)])
    prepared = small_study(tmp_path / "s", model=lambda: next(made)).prepare()
    found: list[BaseException] = []

    def other_thread() -> None:
        try:
            run_group(prepared.work, prepared.groups[0])
        except StudyError as error:
            found.append(error)

    thread = threading.Thread(target=other_thread)
    thread.start()
    thread.join()
    assert "other weights" in str(found[0])


def unread() -> Splits:
    """Pairs that interchange the noise, on which no answer depends."""
    data, model = planted.counterfactuals(100, 0), planted.causal_model()
    noise = {"c": data.sources["left"]}
    labels = model.interchange(data.base, **noise)[["answer"]]
    return replace(data, sources=noise, labels=labels, variables=("c",)).split(0.4, 0.3, 0.3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sites": []}, "0 sites"),
        ({"sites": [planted.SITE, Site.at("hidden")]}, "given twice"),
        ({"cells_at_once": 0}, "at least one cell"),
        ({"data": None}, "needs task=... .*or data="),
        ({"model": 3}, "not int"),
        ({"model": lambda: 3}, "returned a int"),
        ({"data": None, "task": planted.causal_model()}, "Say which variable to look for"),
        ({"match": "choices"}, "for a Task on a language model"),
        ({"data": planted.counterfactuals(12, 0).split(0.4, 0.3, 0.3)}, "Only . of . rows are left"),
        (
            {"data": {"c": unread()}, "task": planted.causal_model()},
            "changes no answer .* depends on a, b, left, right:",
        ),
    ],
)
def test_mistakes_are_answered_by_letters(tmp_path, changes, message):
    with pytest.raises(StudyError, match=message):
        small_study(tmp_path / "s", **changes).prepare()


def test_masks_have_controls_of_the_rank_that_they_learned(tmp_path):
    result = small_study(
        tmp_path / "s",
        sites=[planted.SITE],
        featurizer={"boundless": lambda d, seed: Mask(Subspace(d, d, seed))},
        controls=CHEAP,
    ).run(progress=False)
    assert result.table["rank"].between(6, 10).all(), (
        "the boundary starts at half of the width and one step moves it little"
    )
    assert len(result.control_fits) == 0


def test_a_report_that_was_not_asked_for_is_missed_by_name(finished, tmp_path):
    without = small_study(tmp_path / "s", controls=CHEAP).run(progress=False)
    assert finished.illusion().effects is not None
    with pytest.raises(StudyError, match="holds no illusion report of 'left'"):
        without.illusion()


def test_two_studies_are_compared_pair_by_pair(finished, tmp_path):
    recipe = Recipe(epochs=12, batch_size=24, lr=5e-2)
    longer = small_study(tmp_path / "s", controls=CHEAP, recipe=recipe).run(progress=False)
    found = longer.compare(finished)
    assert len(found) == 2
    row = found.iloc[0]
    assert row["difference"] == pytest.approx(row["here"] - row["there"])
    assert row["difference"] == pytest.approx(longer.grid["iia"][0] - finished.grid["iia"][0])
    assert row["low"] <= row["difference"] <= row["high"]
    assert (found["p_corrected"] >= found["p"] - 0.02).all()
    assert (finished.compare(finished)["difference"] == 0).all()


def test_a_cell_that_is_not_one_cell_is_answered(finished):
    with pytest.raises(StudyError, match="names 2 cells"):
        finished.difference({"variable": "left"}, {"site": "hidden"})
    with pytest.raises(StudyError, match="no column 'sight'"):
        finished.difference({"sight": "hidden"}, {"site": "hidden"})
    with pytest.raises(StudyError, match="looked for left"):
        finished.best("right")


def test_without_a_folder_a_study_keeps_its_cells_in_a_temporary_one():
    study = small_study(None, sites=[planted.SITE], controls=CHEAP)
    assert len(study.run(progress=False).table) == 2


def test_studies_without_anything_in_common_are_not_compared(finished, tmp_path):
    other_map = {"another label": Subspace.of_rank(2)}
    differently = small_study(tmp_path / "a", sites=[planted.SITE], featurizer=other_map, controls=CHEAP)
    with pytest.raises(StudyError, match="no cell in common"):
        finished.compare(differently.run(progress=False))
    others = planted.counterfactuals(120, 9).split(0.4, 0.2, 0.4)
    other_rows = small_study(tmp_path / "b", sites=[planted.SITE], data=others, controls=CHEAP).run(progress=False)
    with pytest.raises(StudyError, match="no base/source pair in common"):
        finished.compare(other_rows)


def test_what_a_result_does_not_hold_is_answered(finished, tmp_path):
    with pytest.raises(StudyError, match="no featurizer 'Subspace of rank 9'"):
        finished.heatmap(featurizer="Subspace of rank 9")
    with pytest.raises(StudyError, match=r"holds no experiment\.json"):
        StudyResult.load(tmp_path)


def test_variables_need_slices_of_equal_rank():
    with pytest.raises(StudyError, match="cannot be cut into 2 equal slices for left, right"):
        slices(Subspace(planted.WIDTH, 3), ["left", "right"])
