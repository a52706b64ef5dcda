"""Kill -9 a study of 62 cells five times at random moments; its table must equal the uninterrupted one bit for bit.

python benchmarks/kill_study.py [--kills 5]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from causal_reft import Controls, Study
from causal_reft.alignment.store import Store
from tests.alignment.small import small_study

TABLES = ("table", "grid", "records", "control_fits")


def make(folder: Path) -> Study:
    """2 sites x 10 seeds, as many fits to permuted labels and on shuffled weights, 2 sites of controls."""
    return small_study(folder, seeds=range(10), controls=Controls(random=5, seeds=10, ladder=False, illusion=False))


def run(folder: Path) -> None:
    """What the killed process does."""
    torch.set_num_threads(1)
    make(folder).run(progress=False)


def finished(folder: Path) -> dict[str, tuple[int, int]]:
    """Finished cells, with what would change if they were written again."""
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in Store(folder).files()}


def main() -> None:
    """Kill, resume, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    scratch = Path(tempfile.mkdtemp(prefix="causal_reft-kill-"))
    seen: dict[str, tuple[int, int]] = {}
    for number in range(options.kills):
        child = multiprocessing.get_context("fork").Process(target=run, args=(scratch / "killed",))
        child.start()
        wanted = len(seen) + random.randint(1, 10)
        while child.is_alive() and len(finished(scratch / "killed")) < wanted:
            time.sleep(0.002)
        time.sleep(0.05 * random.random())
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        now = finished(scratch / "killed")
        again = sum(now.get(name) != stamp for name, stamp in seen.items())
        print(f"kill {number + 1}: {len(now)} cells finished, {again} of the earlier {len(seen)} written again")
        seen = now
    study = make(scratch / "killed")
    resumed, whole = study.run(progress=False), make(scratch / "whole").run(progress=False)
    now = finished(scratch / "killed")
    again = sum(now[name] != stamp for name, stamp in seen.items())
    equal = {name: getattr(resumed, name).equals(getattr(whole, name)) for name in TABLES}
    print(f"{len(study.cells)} cells; {again} of {len(seen)} finished ones written again; equal: {equal}")
    if again or not all(equal.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
