"""A sweep's folder holds finished cells or nothing: kills, flipped bits, several writers, full disks, Ctrl-C."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from causal_reft.errors import CausalReftError, CausalReftWarning, StorageError, StudyError
from causal_reft.sweeps import Result, Store, going_on, run, table_of, tick
from causal_reft.sweeps.bar import Bar
from tests.killing import ROOT, finished, kill_and_resume, same_cells
from tests.sweeps import example
from tests.sweeps.example import CELLS, GROUPS, Cell, claimed, compute, compute_group, results

EXAMPLE = [sys.executable, "-m", "tests.sweeps.example"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sweep") / "whole"
    results(folder)
    return folder


@pytest.mark.slow
def test_kill_9_five_times_and_every_cell_is_computed_once_and_equal_to_the_bit(tmp_path):
    kill_and_resume(EXAMPLE, tmp_path, kills=5, most=2)


def test_what_is_computed_is_what_is_read(whole):
    found = Store.read(whole).results(Cell)
    assert set(found) == set(CELLS)
    for cell in CELLS:
        computed = compute(cell)
        for name in computed.arrays:
            np.testing.assert_array_equal(found[cell].arrays[name], computed.arrays[name], strict=True)
        assert repr(found[cell].facts) == repr(computed.facts)
        assert found[cell].seconds > 0
        assert found[cell].provenance["device"] == "cpu" and "platform" in found[cell].provenance
    assert Store.read(whole).data("rows") == [1, 2, {"three": 3}]
    assert Store.read(whole).get([replace(CELLS[0], rank=99)]) == {}


def test_zeros_and_ones_are_kept_small_and_come_back_to_the_bit(tmp_path):
    scores = np.random.default_rng(0).integers(0, 2, (100, 200)).astype(float)
    arrays = {"scores": scores, "signs": np.array([0.0, -0.0, 1.0]), "counts": np.array([0, 1]), "nan": scores * np.nan}
    kept, store = Result(arrays), Store.claim(tmp_path / "s", {"what": "bits"})
    store.put({CELLS[0]: kept})
    assert bits(Store.read(tmp_path / "s").results(Cell)[CELLS[0]])[1:] == bits(kept)[1:]
    (path,) = store.files()
    assert path.stat().st_size < 1.2 * (scores.size + scores.nbytes)


def test_a_table_has_the_rows_of_all_cells(whole):
    table = table_of(Store.read(whole).get(CELLS))
    assert len(table) == 3 * len(CELLS)
    assert list(table.columns) == ["rank", "kind", "sizes", "seconds", "row", "mean"]


def test_finished_cells_are_not_computed_again(whole):
    before = finished(whole)

    def never(cells):
        raise AssertionError("computed again")

    assert len(results(whole, never)) == len(CELLS)
    assert finished(whole) == before


def bits(found: Result) -> tuple[object, ...]:
    arrays = [(name, array.dtype, array.shape, array.tobytes()) for name, array in sorted(found.arrays.items())]
    return repr(found.facts), *arrays


@pytest.mark.slow
def test_2000_flipped_bits_of_each_kind_of_file_change_nothing_in_silence(tmp_path):
    folder, stream = tmp_path / "s", np.random.default_rng(0)
    original = {cell: bits(found) for cell, found in run(GROUPS[:1], compute_group, claimed(folder)).items()}
    cells = Store.read(folder).files()[0]
    kinds = {"description": folder / "experiment.json", "data": folder / "rows.json", "cells": cells}
    for name, path in kinds.items():
        content, silent, noticed = path.read_bytes(), 0, 0
        for _ in range(2000):
            place, bit = int(stream.integers(len(content))), int(stream.integers(8))
            flipped = bytearray(content)
            flipped[place] ^= 1 << bit
            path.write_bytes(bytes(flipped))
            try:
                with warnings.catch_warnings(record=True) as said:
                    warnings.simplefilter("always", CausalReftWarning)
                    store = Store.read(folder)
                    found, data = store.results(Cell), store.data("rows")
            except CausalReftError:
                noticed += 1
                continue
            right = all(bits(result) == original[cell] for cell, result in found.items())
            assert right and data == [1, 2, {"three": 3}], f"{name}: byte {place}, bit {bit} changed a result"
            if said:
                noticed += 1
                assert found == {}
            else:
                silent += 1
        path.write_bytes(content)
        assert (silent, noticed) == (0, 2000), name


def test_a_damaged_or_missing_cell_is_said_and_computed_again(tmp_path):
    results(tmp_path / "s")
    damaged, missing = Store.read(tmp_path / "s").files()[:2]
    before = finished(tmp_path / "s")
    damaged.write_bytes(damaged.read_bytes()[:-3])
    missing.unlink()
    with pytest.warns(CausalReftWarning, match=r"is damaged.*computed again"):
        results(tmp_path / "s")
    now = finished(tmp_path / "s")
    assert {name for name in now if now[name] != before[name]} == {damaged.name, missing.name}


def test_a_damaged_description_is_an_error_and_deleting_it_loses_no_cell(tmp_path, whole):
    results(tmp_path / "s")
    path = tmp_path / "s" / "experiment.json"
    path.write_bytes(path.read_bytes().replace(b"example", b"Example"))
    with pytest.raises(StorageError, match=r"is damaged.*delete this file"):
        claimed(tmp_path / "s")
    path.unlink()
    (tmp_path / "s" / "rows.json").unlink()
    before = finished(tmp_path / "s")
    assert len(results(tmp_path / "s")) == len(CELLS)
    assert finished(tmp_path / "s") == before
    same_cells(tmp_path / "s", whole)


def test_damaged_data_is_written_again(tmp_path):
    claimed(tmp_path / "s")
    path = tmp_path / "s" / "rows.json"
    path.write_bytes(path.read_bytes().replace(b"three", b"four!"))
    with pytest.warns(CausalReftWarning, match="written again"):
        claimed(tmp_path / "s")
    assert Store.read(tmp_path / "s").data("rows") == [1, 2, {"three": 3}]


def test_data_of_another_experiment_is_refused_and_written_again(tmp_path):
    """A rows.json copied from another folder was read as this experiment's own."""
    claimed(tmp_path / "s")
    claimed(tmp_path / "other", name="other")
    shutil.copy(tmp_path / "other" / "rows.json", tmp_path / "s" / "rows.json")
    with pytest.raises(StorageError, match="belongs to another experiment"):
        Store.read(tmp_path / "s").data("rows")
    with pytest.warns(CausalReftWarning, match="written again"):
        claimed(tmp_path / "s")
    assert Store.read(tmp_path / "s").data("rows") == [1, 2, {"three": 3}]


def test_another_experiment_is_refused_and_each_difference_is_named(whole):
    with pytest.raises(StudyError, match=r"(?s)there -> here.*settings\.scale: 0\.1 -> 0\.2.*name: null -> \"x\""):
        claimed(whole, settings={"scale": 0.2, "sizes": [3, 4]}, name="x")


def test_another_machine_goes_on(whole):
    store = Store.claim(whole, example.DESCRIPTION, {"device": "cuda", "threads": 8}, rows=[1, 2, {"three": 3}])
    assert len(store.get(CELLS)) == len(CELLS)


def test_cells_of_another_experiment_are_left_out_and_said(tmp_path, whole):
    store = Store.claim(tmp_path / "other", {**example.DESCRIPTION, "what": "other"})
    run(GROUPS[:1], compute_group, store, progress=False)
    (store.folder / "cells" / "copied.safetensors").write_bytes(Store.read(whole).files()[0].read_bytes())
    with pytest.warns(CausalReftWarning, match="another experiment"):
        assert len(Store.read(store.folder).results(Cell)) == 2


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("...")
    with pytest.raises(StudyError, match="holds no study"):
        claimed(tmp_path)
    with pytest.raises(StudyError, match=r"holds no experiment\.json"):
        Store.read(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_several_processes_share_a_folder(tmp_path, whole):
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=results, args=(tmp_path / "s",)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 4
    same_cells(tmp_path / "s", whole)
    assert [path.name for path in (tmp_path / "s").rglob(".unfinished-*")] == []


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("pool", [ProcessPoolExecutor, ThreadPoolExecutor])
def test_an_executor_gives_the_same_cells(tmp_path, whole, pool):
    settings: dict[str, Any] = {}
    if pool is ProcessPoolExecutor:
        settings["mp_context"] = multiprocessing.get_context("fork")
    with pool(2, **settings) as executor:
        results(tmp_path / "s", executor=executor)
    same_cells(tmp_path / "s", whole)


def test_ctrl_c_goes_up_and_says_what_is_kept(tmp_path):
    script = (
        "import itertools, sys, time, tests.sweeps.example as e\n"
        "count = itertools.count(1)\n"
        "def how(cells):\n"
        "    print('cell', flush=True); time.sleep(0 if next(count) < 3 else 100); return e.compute_group(cells)\n"
        "e.results(sys.argv[1], how)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "s")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    for _ in range(3):
        child.stdout.readline()
    child.send_signal(signal.SIGINT)
    said = "".join(child.communicate())
    assert child.returncode != 0
    assert said.count("Interrupted:") == 1
    kept = re.search(rf"(\d+) finished cells are kept in {re.escape(str(tmp_path / 's'))}\. Run the same again", said)
    assert kept is not None, said
    assert int(kept[1]) == 2 * len(finished(tmp_path / "s"))
    assert 4 <= int(kept[1]) < 24


def test_only_the_outermost_run_speaks_of_an_interruption(tmp_path, capsys):
    def outer(cell):
        with going_on(claimed(tmp_path / "inner")):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(CELLS, outer, claimed(tmp_path / "outer"), progress=False)
    said = "".join(capsys.readouterr())
    assert said.count("Interrupted") == 1 and "outer" in said


def test_an_error_goes_up_after_saying_what_is_kept(tmp_path, capsys):
    def fails(cells):
        if cells == GROUPS[2]:
            raise ValueError("broken")
        return compute_group(cells)

    with pytest.raises(ValueError, match="broken"):
        results(tmp_path / "s", fails)
    assert "Stopped by ValueError: 4 finished cells are kept" in "".join(capsys.readouterr())


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes into read-only folders")
def test_a_read_only_folder_says_what_is_kept(tmp_path):
    store = claimed(tmp_path / "s")
    run(GROUPS[:2], compute_group, store, progress=False)
    (store.folder / "cells").chmod(0o500)
    with pytest.raises(StorageError, match=r"cannot be written.*4 finished cells are kept"):
        run(GROUPS, compute_group, store, progress=False)
    (store.folder / "cells").chmod(0o700)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_full_or_read_only_disk_says_what_is_kept_and_leaves_nothing_half_written(number, tmp_path, monkeypatch):
    store, write = claimed(tmp_path / "s"), os.fsync
    run(GROUPS[:2], compute_group, store, progress=False)

    def full(handle):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=rf"{os.strerror(number)}.*4 finished cells are kept"):
        run(GROUPS, compute_group, store, progress=False)
    monkeypatch.setattr(os, "fsync", write)
    assert len(list((tmp_path / "s" / "cells").iterdir())) == 2
    assert len(run(GROUPS, compute_group, store, progress=False)) == len(CELLS)


def test_partial_results_are_read_while_it_runs(tmp_path):
    seen = []

    def looks(cells):
        seen.append(len(Store.read(tmp_path / "s").results(Cell)))
        return compute_group(cells)

    results(tmp_path / "s", looks)
    assert seen == list(range(0, len(CELLS), 2))


def test_the_bar_moves_inside_a_group_and_ends_at_the_number_of_cells(tmp_path, monkeypatch):
    bars: list[Bar] = []

    class Recorded(Bar):
        def __init__(self, *args, **settings):
            super().__init__(*args, **settings)
            bars.append(self)

    monkeypatch.setattr("causal_reft.sweeps.runner.Bar", Recorded)
    places = []

    def watched(cells):
        tick(0.5)
        places.append(bars[0].n)
        return compute_group(cells)

    run(GROUPS, watched, claimed(tmp_path / "s"))
    assert places == [2 * number + 1 for number in range(len(GROUPS))]
    assert bars[0].n == bars[0].total == len(CELLS)


def test_a_part_of_a_group_can_be_taken_over_from_other_groups(tmp_path):
    store = claimed(tmp_path / "s")
    run(CELLS[:3], compute, store, progress=False)
    asked: list[Cell] = []

    def asks(cells):
        asked.extend(cells)
        return compute_group(cells)

    run(GROUPS, asks, store, progress=False)
    assert asked == CELLS[3:]


def test_without_a_folder_cells_are_kept_as_long_as_the_store():
    store = claimed(None)
    folder = store.folder
    run(GROUPS, compute_group, store, progress=False)
    assert len(store.get(CELLS)) == len(CELLS)
    del store
    assert not folder.exists()


@dataclass(frozen=True)
class WithNote:
    rank: int
    note: str = "x"


@dataclass
class Mutable:
    rank: int


@dataclass(frozen=True)
class WithArray:
    rank: object


@pytest.mark.parametrize(
    ("cells", "how", "message"),
    [
        ([CELLS[0], CELLS[0]], compute, "given twice"),
        ([WithArray(np.float64)], compute, "rank is a type"),
        ([3], compute, "3 is no cell"),
        (GROUPS, lambda cells: [], r"compute gave \[\] for 2 cells"),
        (CELLS, lambda cell: {"iia": 1}, r"compute gave \['dict'\]"),
        (CELLS, lambda cell: Result(facts={"when": time}), "facts.when is a module"),
        (CELLS, lambda cell: Result(facts={"a": {1: 2}}), "only strings can be kept"),
        (CELLS, lambda cell: Result({"words": np.array(["a"])}), "Put text into facts"),
    ],
)
def test_mistakes_are_errors_of_our_kind(tmp_path, cells, how, message):
    with pytest.raises(StudyError, match=message):
        run(cells, how, claimed(tmp_path / "s"), progress=False)
    assert finished(tmp_path / "s") == {}


def test_every_field_and_the_kind_of_a_cell_determine_it(tmp_path):
    store = claimed(tmp_path / "s")
    run([Cell(1, "x")], compute, store, progress=False)
    others = [Cell(2, "x"), Cell(1, "y"), Cell(1, "x", (3, 5)), Cell(1, "x", seconds=1.0), WithNote(1)]
    assert store.get(others) == {} and len(store.get([Cell(1, "x")])) == 1


def test_the_table_of_an_empty_sweep_is_empty():
    pd.testing.assert_frame_equal(table_of({}), pd.DataFrame())
