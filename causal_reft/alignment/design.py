"""Which cells a study has: every fit with its twins, the controls that fits ask for, and the closer look at the best
site.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from causal_reft.alignment.cell import CONTROLS, FIT, ILLUSION, PERMUTED, SHUFFLED, Cell, CellResult
from causal_reft.alignment.work import Work


@dataclass(frozen=True)
class Controls:
    """How much is spent on controls.

    Attributes:
        random: random subspaces for each site and rank, in stacked passes; at least 100 for a percentile.
        seeds: how many of the study's seeds also fit permuted labels and a network with shuffled weights.
        ladder: whether the best site is fitted again at ranks 1, 2, 4, ... and with a `Flow`.
        illusion: whether the best site's subspace gets an illusion report.
    """

    random: int = 100
    seeds: int = 2
    ladder: bool = True
    illusion: bool = True


@dataclass(frozen=True)
class Design:
    """The grid of a study. `n_main`: how many of the work's featurizers are in it; the others are the ladder's."""

    work: Work
    seeds: Sequence[int]
    controls: Controls
    n_main: int

    @cached_property
    def fits(self) -> list[Cell]:
        """Every fit of the grid, and its twins on permuted labels and shuffled weights for the first seeds.

        Sites with the same tokens come one after the other: they share the most.
        """
        tokens = [site.where for site in self.work.sites]
        sites = sorted(range(len(tokens)), key=lambda number: tokens.index(tokens[number]))
        grid = [(v, s, f) for v in self.work.data for f in range(self.n_main) for s in sites]
        main = [Cell(FIT, v, s, f, seed=seed) for v, s, f in grid for seed in self.seeds]
        twins = [
            Cell(FIT, v, s, f, seed=seed, role="control")
            for v, s, f in grid
            for seed in self.seeds[: self.controls.seeds]
        ]
        return (
            main
            + [replace(cell, labels=PERMUTED) for cell in twins]
            + [replace(cell, network=SHUFFLED) for cell in twins]
        )

    def controls_of(self, found: Mapping[Cell, CellResult]) -> list[Cell]:
        """The controls of every site for every total rank that a fit used there."""
        fits = [cell for cell in self.fits if cell.role == "study"]
        used = dict.fromkeys((cell.variable, cell.site, sum(found[cell].facts["ranks"].values())) for cell in fits)
        return [Cell(CONTROLS, variable, site, rank=rank, role="control") for variable, site, rank in used]

    def closer_look(self, found: Mapping[Cell, CellResult]) -> list[Cell]:
        """Ladder and illusion report at the best site of each variable, chosen on the selection rows."""
        cells: list[Cell] = []
        for variable in self.work.data:
            site, featurizer = self._best(variable, found)
            for number in range(self.n_main, len(self.work.featurizers)):
                cells += self._ladder_fits(variable, site, number)
            if self.controls.illusion and len(self.work.data[variable].runs) == 1 and self._is_linear(featurizer):
                cells.append(Cell(ILLUSION, variable, site, featurizer, seed=self.seeds[0], role="ladder"))
        return cells

    def _ladder_fits(self, variable: str, site: int, number: int) -> list[Cell]:
        """One step of the ladder with every seed; a map that can align anything also on shuffled weights."""
        parts, is_linear = len(self.work.data[variable].runs), self._is_linear(number)
        if parts > 1 and (not is_linear or self.work.featurizers[number](self.work.widths[site], 0).rank % parts):
            return []
        fits = [Cell(FIT, variable, site, number, seed=seed, role="ladder") for seed in self.seeds]
        return fits if is_linear else fits + [replace(cell, network=SHUFFLED) for cell in fits[: self.controls.seeds]]

    def _best(self, variable: str, found: Mapping[Cell, CellResult]) -> tuple[int, int]:
        scores: dict[tuple[int, int], list[float]] = {}
        for cell in sorted(self.fits, key=lambda cell: (cell.featurizer, cell.site)):
            if cell.variable == variable and cell.role == "study":
                rows = found[cell].arrays["select.iia"]
                scores.setdefault((cell.site, cell.featurizer), []).append(float(rows.mean()))
        return max(scores, key=lambda key: float(np.mean(scores[key])))

    def _is_linear(self, featurizer: int) -> bool:
        return self.work.featurizers[featurizer](self.work.widths[0], 0).rows() is not None
