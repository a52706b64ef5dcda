"""A composition experiment: ways of learning x subsets of skills x measured behaviours x adapter seeds.

    table = run_composition(embedded_experiment(cr.load_embedded()), folder="runs/composition", seeds=range(5))

A cell of the sweep is one way of learning and one seed. It keeps the continuations; what they show is read off them
afterwards, so a folder can also be read with other behaviours.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pandas as pd
from torch import nn

import causal_reft as cr
from causal_reft.analysis.behaviours import Behaviour, Row, continuation_rows, with_behaviours
from causal_reft.analysis.composition import DEFAULTS, Skill
from causal_reft.errors import DataError, nearest
from causal_reft.experiments.composition.methods import METHODS
from causal_reft.experiments.models import identity_of
from causal_reft.sweeps import Result, Store, digest_of, run, table_of


@dataclass(frozen=True)
class Experiment:
    """Everything that determines a composition table.

    Args:
        model, tokenizer: a causal language model.
        skills: what is learned; two or more.
        prompts: held-out rows: `prompt`, what the behaviours read, and `task` for the breakdown.
        behaviours: what is measured on each continuation.
        site: where the edits are.
        settings: of `fit`.
        max_new_tokens: the longest continuation.

    Raises:
        DataError: held-out prompts that are training prompts.
    """

    model: nn.Module
    tokenizer: Any
    skills: Sequence[Skill]
    prompts: Sequence[Row]
    behaviours: Sequence[Behaviour]
    site: cr.Site
    settings: Mapping[str, Any] = field(default_factory=dict)
    max_new_tokens: int = 24

    def __post_init__(self) -> None:
        seen = {prompt for skill in self.skills for prompt, _ in skill.pairs}
        repeated = [row["prompt"] for row in self.prompts if row["prompt"] in seen]
        if repeated:
            raise DataError(f"{len(repeated)} held-out prompts are training prompts too, e.g. {repeated[0]!r}.")

    def description(self) -> dict[str, Any]:
        """What all cells have in common and that determines their continuations."""
        skills = {skill.name: {"rank": skill.rank, "pairs": digest_of(list(skill.pairs))} for skill in self.skills}
        return {
            "what": "composition",
            **identity_of(self.model, self.tokenizer),
            "skills": [*skills.items()],
            "prompts": digest_of([dict(row) for row in self.prompts]),
            "site": repr(self.site),
            "settings": {**DEFAULTS, **self.settings},
            "max_new_tokens": self.max_new_tokens,
        }


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
