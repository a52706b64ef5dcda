"""How the rows of a study are drawn.

Settings are split first, so that no setting (or no value of `split_by`) is ever in two parts, and pairs are drawn
inside each part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from causal_reft.causal import CausalModel, Splits, Task, split_settings
from causal_reft.errors import StudyError
from causal_reft.seeds import SEEDS_ARE, derive, is_seed

PARTS = ("train", "select", "test")
LARGEST_POOL = 20_000


@dataclass(frozen=True)
class Sampling:
    """How the rows of a study are drawn.

    Attributes:
        rows: how many to draw for training, selection and report.
        fractions: of the settings that each of the three may use.
        strategy: see `causal_reft.causal.strategies`.
        split_by: columns whose values are never shared by two parts; by default whole settings.
        seed: of the split, the draws, and the permutations of labels.
        solved: whether rows that the network fails without any edit are dropped.
        unit: what a cluster is: a "pair" of base and source, or a "base".
    """

    rows: tuple[int, int, int] = (256, 128, 256)
    fractions: tuple[float, float, float] = (0.5, 0.2, 0.3)
    strategy: str = "balanced"
    split_by: str | tuple[str, ...] | None = None
    seed: int = 0
    solved: bool = True
    unit: str = "pair"

    def __post_init__(self) -> None:
        if not is_seed(self.seed):
            raise StudyError(f"Sampling(seed={self.seed!r}): {SEEDS_ARE}")


def sampled(task: Task | CausalModel, variables: Sequence[str], how: Sampling) -> Splits:
    """Training, selection and report rows without a common setting."""
    causal = task.causal_model if isinstance(task, Task) else task
    pool = _pool(task, causal, how.seed)
    pool = task.write(pool)[0] if isinstance(task, Task) else causal.run(pool)
    parts = split_settings(
        pool, *how.fractions, by=list(_columns(how.split_by, causal)), seed=derive(how.seed, "split")
    )
    drawn = []
    for name, settings, rows in zip(PARTS, parts, how.rows, strict=True):
        if len(settings) < 2:
            raise StudyError(
                f"The split leaves {len(settings)} settings for {name!r}. Give it more: "
                "sampling=Sampling(fractions=..., split_by=None), or a task with more settings."
            )
        among = settings[list(causal.inputs)]
        drawn.append(task.counterfactuals(list(variables), rows, derive(how.seed, name), how.strategy, among=among))
    return Splits(*drawn, dropped=0, by=_columns(how.split_by, causal))


def _pool(task: Task | CausalModel, causal: CausalModel, seed: int) -> pd.DataFrame:
    if isinstance(task, Task) and task.among is not None:
        return task.among[list(causal.inputs)]
    if causal.size <= LARGEST_POOL:
        return causal.settings()
    return causal.sample(LARGEST_POOL, derive(seed, "pool")).drop_duplicates(ignore_index=True)


def _columns(split_by: str | tuple[str, ...] | None, causal: CausalModel) -> tuple[str, ...]:
    return tuple(causal.inputs) if split_by is None else (split_by,) if isinstance(split_by, str) else tuple(split_by)
