"""The kill test: a command that runs a sweep is killed with -9 at random moments, and goes on as if nothing had been.

    kill_and_resume([sys.executable, "-m", "tests.sweeps.example"], tmp_path, kills=5)

The command is given the sweep's folder as its last argument.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from causal_reft.sweeps import Store

ROOT = Path(__file__).parents[1]


def kill_and_resume(command: Sequence[str], scratch: Path, kills: int = 5, most: int = 3) -> tuple[Path, Path]:
    """Kill the command after one to `most` new files, `kills` times; let it finish; compare with an undisturbed run.

    Returns:
        The folders of both runs, whose cells are equal to the bit; no finished file was written twice.
    """
    killed, whole = scratch / "killed", scratch / "whole"
    seen: dict[str, tuple[int, int]] = {}
    for number in range(kills):
        child = _start(command, killed)
        wanted = len(seen) + random.randint(1, most)
        while child.poll() is None and len(finished(killed)) < wanted:
            time.sleep(0.002)
        time.sleep(0.05 * random.random())
        assert child.poll() is None, f"all was finished before kill {number + 1} of {kills}: give it more cells"
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        seen = _unchanged(killed, seen)
    for folder in (killed, whole):
        assert _start(command, folder).wait() == 0
    _unchanged(killed, seen)
    same_cells(killed, whole)
    return killed, whole


def finished(folder: Path) -> dict[str, tuple[int, int]]:
    """Files of finished cells, with what changes where one is written again."""
    found = {path.name: path.stat() for path in (folder / "cells").glob("[!.]*.safetensors")}
    return {name: (stat.st_mtime_ns, stat.st_ino) for name, stat in found.items()}


def same_cells(one: Path, two: Path) -> None:
    """Both folders hold the same cells with the same arrays and facts, to the bit."""
    a, b = _everything(one), _everything(two)
    assert a.keys() == b.keys()
    for digest in a:
        assert a[digest] == b[digest], f"cell {digest} differs"


def _everything(folder: Path) -> Mapping[str, object]:
    def bits(array: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
        return str(array.dtype), array.shape, array.tobytes()

    found = {}
    for digest, stored in Store.read(folder)._stored().items():
        arrays = {name: bits(array) for name, array in stored.result.arrays.items()}
        found[digest] = (stored.kind, stored.fields, repr(stored.result.facts), arrays)
    return found


def _unchanged(folder: Path, seen: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    now = finished(folder)
    assert {name: now.get(name) for name in seen} == seen, "a finished cell was computed again"
    return now


def _start(command: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, str(folder)], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
