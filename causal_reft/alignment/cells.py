"""Which cells a study has: every fit with its twins, the controls that fits ask for, and follow-ups at the best site.

Cells that look at the same rows with the same weights share their passes, so many cost little more than one. Which
cells form a group follows from the study alone and never from what happens to be missing, so the numbers are the same
to the last bit in whatever order, and by whomever, groups are computed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from causal_reft.alignment.bases import SubspaceWithin
from causal_reft.display import html_fields
from causal_reft.errors import CausalReftWarning
from causal_reft.featurizers import Featurizer, Flow, Identity, Subspace
from causal_reft.sweeps import Result

FeaturizerRecipe = Callable[[int, int], Featurizer] | SubspaceWithin

GIVEN, SHUFFLED = "given", "shuffled"
TRUE, PERMUTED = "true", "permuted"
LEFT_OUT = "left out"
STAGES = ("fits", "controls", "follow-ups")
FIT, CONTROLS, ILLUSION = "fit", "controls", "illusion"


@dataclass(frozen=True)
class Cell:
    """One fit, the controls of one site and rank, or one illusion report. Sites and featurizers by number.

    Attributes:
        variable: the name of the variable alternative ("left" or "left+right").
        rank: of the controls, the total over the variables; 0 for fits.
        seed: of the featurizer, the data order, the permutation and the shuffled weights of a fit.
        network: "given", or "shuffled" weights.
        labels: "true" or "permuted".
        role: what it is for: "study", "control" or "follow-up".
    """

    kind: str
    variable: str
    site: int
    featurizer: int = 0
    rank: int = 0
    seed: int = 0
    network: str = GIVEN
    labels: str = TRUE
    role: str = field(default="study", compare=False)

    @property
    def stage(self) -> str:
        """In which of the `STAGES` it is computed."""
        return STAGES[1] if self.kind == CONTROLS else STAGES[2] if self.role == "follow-up" else STAGES[0]

    @property
    def is_plain(self) -> bool:
        """Whether it is about the given weights and the true labels."""
        return (self.network, self.labels) == (GIVEN, TRUE)


Group = tuple[Cell, ...]


def grouped(cells: Sequence[Cell], most: int) -> list[Group]:
    """Cells of one kind, variable, seed, network and labels, at most `most` of them, of nearly equal size, in order."""
    alike: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells:
        alike.setdefault((cell.kind, cell.variable, cell.seed, cell.network, cell.labels), []).append(cell)
    return [tuple(part) for found in alike.values() for part in _cut(found, -(-len(found) // most))]


def _cut(cells: Sequence[Cell], parts: int) -> list[Sequence[Cell]]:
    ends = [len(cells) * number // parts for number in range(parts + 1)]
    return [cells[start:end] for start, end in pairwise(ends)]


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

    def _repr_html_(self) -> str:
        return html_fields(self)


@dataclass(frozen=True)
class Grid:
    """The cells of a study, from what its folder says of it.

    Attributes:
        variables: each variable alternative, with the number of variables in it.
        positions: of each site.
        is_linear, ranks: of each featurizer.
        trains: of each featurizer, whether it has anything to train; one that has not (`Identity`) is scored once, and
            has no twins.
        n_main: how many of the featurizers are fitted everywhere; the others are the ladder's.
        metric: by which the best site is chosen.
        shuffles: whether fits on networks with shuffled weights say anything.
    """

    variables: Mapping[str, int]
    positions: Sequence[str]
    is_linear: Sequence[bool]
    ranks: Sequence[int]
    trains: Sequence[bool]
    n_main: int
    seeds: Sequence[int]
    controls: Controls
    metric: str = "iia"
    shuffles: bool = True

    @staticmethod
    def of(description: Mapping[str, Any]) -> Grid:
        """The grid of a study with this description."""
        maps = description["featurizers"]
        return Grid(
            variables={name: len(runs) for name, runs in description["variables"].items()},
            positions=[site["positions"] for site in description["sites"]],
            is_linear=[one["is_linear"] for one in maps],
            ranks=[one["rank"] for one in maps],
            trains=[one.get("trains", True) for one in maps],
            n_main=description["n_main"],
            seeds=description["seeds"],
            controls=Controls(**description["controls"]),
            metric=description["metric"],
            shuffles=description["shuffled"] != LEFT_OUT,
        )

    @cached_property
    def fits(self) -> list[Cell]:
        """Every fit of the grid, and its twins on permuted labels and shuffled weights for the first seeds.

        Sites with the same tokens come one after the other: they share the most.
        """
        sites = sorted(range(len(self.positions)), key=lambda number: self.positions.index(self.positions[number]))
        grid = [(v, s, f) for v in self.variables for f in range(self.n_main) for s in sites]
        main = [Cell(FIT, v, s, f, seed=n) for v, s, f in grid for n in self.seeds[: None if self.trains[f] else 1]]
        twins = [
            Cell(FIT, v, s, f, seed=seed, role="control")
            for v, s, f in grid
            if self.trains[f]
            for seed in self.seeds[: self.controls.seeds]
        ]
        return (
            main
            + [replace(cell, labels=PERMUTED) for cell in twins]
            + [replace(cell, network=SHUFFLED) for cell in twins if self.shuffles]
        )

    def controls_of(self, found: Mapping[Cell, Result]) -> list[Cell]:
        """The controls of every site for every total rank that a finished fit used there."""
        fits = [cell for cell in self.fits if cell.role == "study" and cell in found]
        used = dict.fromkeys((cell.variable, cell.site, sum(found[cell].facts["ranks"].values())) for cell in fits)
        return [Cell(CONTROLS, variable, site, rank=rank, role="control") for variable, site, rank in used]

    def follow_ups(self, found: Mapping[Cell, Result]) -> list[Cell]:
        """Ladder and illusion report at the best site of each variable, chosen on the selection rows."""
        return [c for variable in self.variables for c in self.follow_ups_at(variable, *self._best(variable, found))]

    def follow_ups_at(self, variable: str, site: int, featurizer: int) -> list[Cell]:
        """The same for one variable at a site and featurizer."""
        cells: list[Cell] = []
        for number in range(self.n_main, len(self.ranks)):
            cells += self._ladder_fits(variable, site, number)
        has_subspace = self.is_linear[featurizer] and self.trains[featurizer]
        if self.controls.illusion and self.variables[variable] == 1 and has_subspace:
            cells.append(Cell(ILLUSION, variable, site, featurizer, seed=self.seeds[0], role="follow-up"))
        return cells

    def _ladder_fits(self, variable: str, site: int, number: int) -> list[Cell]:
        """One step of the ladder with every seed; a map that can align anything also on shuffled weights."""
        parts, is_linear = self.variables[variable], self.is_linear[number]
        if parts > 1 and (not is_linear or self.ranks[number] % parts):
            return []
        fits = [Cell(FIT, variable, site, number, seed=seed, role="follow-up") for seed in self.seeds]
        if is_linear or not self.shuffles:
            return fits
        return fits + [replace(cell, network=SHUFFLED) for cell in fits[: self.controls.seeds]]

    def _best(self, variable: str, found: Mapping[Cell, Result]) -> tuple[int, int]:
        scores: dict[tuple[int, int], list[float]] = {}
        for cell in sorted(self.fits, key=lambda cell: (cell.featurizer, cell.site)):
            if cell.variable == variable and cell.role == "study":
                score = found[cell].facts["selection"][self.metric]
                scores.setdefault((cell.site, cell.featurizer), []).append(score)
        return max(scores, key=lambda key: float(np.mean(scores[key])))


def whole_vector(d_model: int, seed: int = 0) -> Featurizer:
    """`Identity` as a recipe."""
    return Identity(d_model)


@dataclass(frozen=True)
class FlowOfRank:
    """Builds `Flow(d_model, rank, seed=seed)` without its warning: the report says it."""

    rank: int

    def __call__(self, d_model: int, seed: int = 0) -> Featurizer:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CausalReftWarning)
            return Flow(d_model, min(self.rank, d_model), seed=seed)


def everywhere(recipe: FeaturizerRecipe) -> Callable[[int, int], Featurizer]:
    """A recipe without the rows that confine it, which only a site's states give: the same rank and seeds."""
    return Subspace.of_rank(recipe.rank) if isinstance(recipe, SubspaceWithin) else recipe


def label_of(recipe: FeaturizerRecipe, width: int) -> str:
    """A recipe's name in tables, where the user gives none: "Subspace of rank 4"."""
    built = everywhere(recipe)(width, 0)
    inside = f" {recipe.inside}" if isinstance(recipe, SubspaceWithin) else ""
    return f"{type(built).__name__} of rank {built.rank}{inside}"


def ladder_recipes(recipes: Mapping[str, FeaturizerRecipe], width: int) -> Mapping[str, FeaturizerRecipe]:
    """The capacity ladder by label: ranks 1, 2, 4, ... below the study's own, and a `Flow` of its rank.

    What a low rank reaches is worth more than what a high one does, and what the Flow reaches on a network with
    shuffled weights says what capacity alone buys. Empty unless the study fits a subspace.
    """
    built = [(everywhere(build)(width, 0), build) for build in recipes.values()]
    fitted = {featurizer.rank: build for featurizer, build in built if isinstance(featurizer, Subspace)}
    if not fitted:
        return {}
    most, widest = max(fitted), fitted[max(fitted)]
    steps = sorted({2**k for k in range(most.bit_length()) if 2**k < most} - set(fitted))
    found: dict[str, FeaturizerRecipe] = {}
    for rank in steps:
        build = replace(widest, rank=rank) if isinstance(widest, SubspaceWithin) else Subspace.of_rank(rank)
        found[label_of(build, width)] = build
    found |= {f"Flow of rank {most}": FlowOfRank(most)}
    return {label: build for label, build in found.items() if label not in recipes}
