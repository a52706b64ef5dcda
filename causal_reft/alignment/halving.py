"""Successive halving: which of many sites deserve a whole study, found by short fits.

Every site is fitted with one seed for a fraction of the epochs; the better half by the selection rows is fitted anew
for twice as many, and so on, until few sites are left (Karnin, Koren and Somekh 2013; Jamieson and Talwalkar 2016). The
report rows play no part, so what is tested on them afterwards needs a correction for the sites that are left only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from causal_reft.alignment.cells import Cell, Grid, grouped
from causal_reft.alignment.compute_cells import compute_group
from causal_reft.alignment.prepared_study import PreparedStudy
from causal_reft.display import counted
from causal_reft.errors import StudyError
from causal_reft.sweeps import Store, run
from causal_reft.training import Recipe


@dataclass(frozen=True)
class Rung:
    """One round: how many sites are fitted, and for how long."""

    n_sites: int
    recipe: Recipe


def rungs(n_sites: int, keep: int, recipe: Recipe) -> list[Rung]:
    """The rounds that leave `keep` of the sites, the last one with half of the epochs; none where they are so few.

    Raises:
        StudyError: nothing is to be kept.
    """
    if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
        raise StudyError(f"halving(keep={keep!r}): keep must be a whole number of sites, from 1 on.")
    counts = []
    while n_sites > keep:
        counts.append(n_sites)
        n_sites = _half(n_sites, keep)
    shares = [2 ** (len(counts) - number) for number in range(len(counts))]
    return [Rung(count, _shorter(recipe, share)) for count, share in zip(counts, shares, strict=True)]


def promising(
    first: PreparedStudy, schedule: Sequence[Rung], keep: int, executor: Any, progress: bool
) -> tuple[list[int], list[dict[str, Any]]]:
    """The numbers of the sites that are left, and for each fit its round, epochs, site and score on selection rows.

    `first` is the study of all sites with the recipe of the first round; later rounds have folders beside its own. Of
    several variables and featurizers each keeps its own best sites.
    """
    rows: list[dict[str, Any]] = []
    alive = {kind: list(range(len(first.grid.positions))) for kind in _kinds(first.grid)}
    for number, rung in enumerate(schedule):
        compute = partial(compute_group, replace(first.work, recipe=rung.recipe), executor is not None)
        cells = [c for c in first.grid.fits if c.site in alive[c.variable, c.featurizer]]
        store = first.store if number == 0 else _store(first, number, rung.recipe, alive)
        groups = grouped(cells, first.cells_at_once)
        found = run(groups, compute, store, executor, progress, f"halving, {counted(rung.n_sites, 'site')}")
        scores = {cell: found[cell].facts["selection"][first.grid.metric] for cell in cells}
        facts = {"round": number + 1, "epochs": rung.recipe.epochs}
        rows += [{**facts, "variable": c.variable, "site": c.site, "score": scores[c]} for c in cells]
        alive = {kind: _best(kind, scores, _half(rung.n_sites, keep)) for kind in alive}
    return sorted({site for sites in alive.values() for site in sites}), rows


def _half(n_sites: int, keep: int) -> int:
    return max(keep, -(-n_sites // 2))


def _shorter(recipe: Recipe, share: int) -> Recipe:
    steps = None if recipe.max_steps is None else max(1, recipe.max_steps // share)
    return replace(recipe, epochs=max(1, recipe.epochs // share), max_steps=steps)


def _kinds(grid: Grid) -> list[tuple[str, int]]:
    return [(variable, featurizer) for variable in grid.variables for featurizer in range(grid.n_main)]


def _best(kind: tuple[str, int], scores: dict[Cell, float], count: int) -> list[int]:
    """The sites with the highest scores; of equal ones the earlier."""
    mine = {cell.site: score for cell, score in scores.items() if (cell.variable, cell.featurizer) == kind}
    return sorted(sorted(mine), key=lambda site: -mine[site])[:count]


def _store(first: PreparedStudy, number: int, recipe: Recipe, alive: dict[tuple[str, int], list[int]]) -> Store:
    """The folder of a later round."""
    settings = {key: value for key, value in asdict(recipe).items() if key != "seed"}
    left = [[variable, featurizer, sites] for (variable, featurizer), sites in alive.items()]
    description = {**first.store.description, "what": "halving", "recipe": settings, "left": left}
    folder = None if first.store.is_temporary else first.store.folder.parent / str(number + 1)
    return Store.claim(folder, description, first.store.provenance)
