"""A sweep of 24 cells in groups of two, with arrays, facts and table rows: python -m tests.sweeps.example FOLDER"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from causal_reft.sweeps import Result, Store, run, tick

DESCRIPTION = {"what": "example", "settings": {"scale": 0.1, "sizes": [3, 4]}}


@dataclass(frozen=True)
class Cell:
    rank: int
    kind: str = "plain"
    sizes: tuple[int, ...] = (3, 4)
    seconds: float = 0.0


CELLS = [Cell(rank, kind) for rank in range(12) for kind in ("plain", "other")]
GROUPS = [(CELLS[i], CELLS[i + 1]) for i in range(0, len(CELLS), 2)]


def compute(cell: Cell) -> Result:
    """Numbers that depend on every field."""
    drawn = 0.1 * np.random.default_rng([cell.rank, len(cell.kind)]).normal(size=cell.sizes)
    rows = [{"row": number, "mean": float(row.mean())} for number, row in enumerate(drawn)]
    return Result({"drawn": drawn, "positive": drawn > 0}, {"rows": rows, "nothing": float("nan")})


def compute_group(cells: tuple[Cell, ...]) -> list[Result]:
    time.sleep(0.02)
    tick(0.5)
    return [compute(cell) for cell in cells]


def claimed(folder: Any, **changes: Any) -> Store:
    return Store.claim(folder, {**DESCRIPTION, **changes}, {"device": "cpu"}, rows=[1, 2, {"three": 3}])


def results(folder: Any, how: Callable[..., Any] = compute_group, **settings: Any) -> dict[Cell, Result]:
    return run(GROUPS, how, claimed(folder), progress=False, **settings)


if __name__ == "__main__":
    results(sys.argv[1])
