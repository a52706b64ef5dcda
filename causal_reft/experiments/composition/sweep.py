"""A composition table: ways of learning x subsets of skills x measured behaviours x adapter seeds.

    table = run_composition(embedded_experiment(cr.load_embedded()), folder="runs/composition", seeds=range(5))

A cell of the sweep is one way of learning and one seed. It keeps the continuations; what they show is read off them
afterwards, so a folder can also be read with other behaviours.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from causal_reft.analysis.behaviours import continuation_rows, with_behaviours
from causal_reft.errors import DataError, nearest
from causal_reft.experiments.composition.experiment import Experiment
from causal_reft.experiments.composition.methods import METHODS
from causal_reft.sweeps import Result, Store, run, table_of


@dataclass(frozen=True)
class CompositionCell:
    """One way of learning and putting together, and the seed of the adapters."""

    method: str
    seed: int


def run_composition(
    experiment: Experiment,
    folder: str | os.PathLike[str] | None = None,
    seeds: Sequence[int] = range(5),
    methods: Sequence[str] | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """One row for each method x seed x subset x prompt: `method`, `seed`, `subset`, and the columns of
    `behaviour_rows`.

    Raises:
        DataError: an unknown method.
        StudyError: the folder holds another experiment.
    """
    methods = list(METHODS) if methods is None else list(methods)
    for method in methods:
        if method not in METHODS:
            raise DataError(f"There is no way of composing called {method!r}. {nearest(method, METHODS)}")
    cells = [CompositionCell(method, seed) for method in methods for seed in seeds]
    store = Store.claim(folder, experiment.description())
    table = table_of(run(cells, partial(_compute, experiment), store, progress=progress, name="composition"))
    rows = list(experiment.prompts) * (len(table) // len(experiment.prompts))
    return with_behaviours(table, rows, experiment.behaviours)


def _compute(experiment: Experiment, cell: CompositionCell) -> Result:
    rows: list[dict[str, Any]] = []
    for subset, model in METHODS[cell.method](experiment, cell.seed):
        table = continuation_rows(model, experiment.prompts, experiment.max_new_tokens)
        table.insert(0, "subset", subset)
        rows += [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
    return Result(facts={"rows": rows})
