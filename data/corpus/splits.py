"""Which records are for training and which are held out.

Whole units (an entity with its setting) are held out, so both orders of a comparison fall on the same side. *select*
is for looking at while choosing; *test* is for the figures that are reported. Every entity and every setting of a
held-out unit still occurs in training, only never together in that task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from .tasks import TASKS, Record, all_records

SPLIT_SEED = 20_240
TEST_PROMPTS, SELECT_PROMPTS = 26, 12  # of every task


@dataclass(frozen=True)
class Splits:
    train: tuple[Record, ...]
    select: tuple[Record, ...]
    test: tuple[Record, ...]


def split_records(records: Sequence[Record] | None = None, seed: int = SPLIT_SEED) -> Splits:
    """Deterministic split of every task's units."""
    records = all_records() if records is None else records
    test, select = set(), set()
    for task in TASKS:
        asked = [r.unit for r in records if r.task == task]
        units = sorted(set(asked))
        per_unit = len(asked) // len(units)
        n_test, n_select = TEST_PROMPTS // per_unit, SELECT_PROMPTS // per_unit
        Random(f"{seed} {task}").shuffle(units)
        test |= {(task, unit) for unit in units[:n_test]}
        select |= {(task, unit) for unit in units[n_test : n_test + n_select]}
    held = test | select
    return Splits(
        tuple(r for r in records if (r.task, r.unit) not in held),
        tuple(r for r in records if (r.task, r.unit) in select),
        tuple(r for r in records if (r.task, r.unit) in test),
    )


def prompts_of(records: Sequence[Record]) -> list[tuple[Record, str]]:
    """One prompt per record, questions and requests in turn (two by two, as comparisons come in both orders)."""
    return [(r, r.question if i // 2 % 2 == 0 else r.request) for i, r in enumerate(records)]
