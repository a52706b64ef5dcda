"""A study that takes seconds: a planted network, two sites, few rows, one step for each fit.

`python -m tests.alignment.small FOLDER` runs one of 62 cells.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from causal_reft.alignment import Controls, Sampling, Study
from causal_reft.featurizers import Subspace
from causal_reft.training import Recipe
from tests.alignment import planted

SPLITS = planted.counterfactuals(120, 1).split(0.4, 0.2, 0.4)
QUICK = Recipe(epochs=1, batch_size=48, lr=2e-2, warmup=0.0)


def small_study(folder: Path | None, seeds: Iterable[int] = range(2), **changes: Any) -> Study:
    settings: dict[str, Any] = {
        "model": planted.truth,
        "tokenizer": planted.ENCODING,
        "data": SPLITS,
        "sites": [planted.SITE, planted.SAME_SITE],
        "featurizer": Subspace.of_rank(2),
        "sampling": Sampling(solved=False),
        "recipe": QUICK,
        "controls": Controls(random=5, seeds=1),
    }
    return Study(seeds=seeds, folder=folder, **settings | changes)


if __name__ == "__main__":
    few = Controls(random=5, seeds=10, ladder=False, illusion=False)
    small_study(Path(sys.argv[1]), seeds=range(10), controls=few, cells_at_once=2).run(progress=False)
