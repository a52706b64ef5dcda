"""What a study will cost with its shortcuts: FLOPs that are counted and seconds that are taken on a few real steps.

A group of each kind is computed on few rows with one epoch, with two, and on twice as many rows; cost is
constant + rows * (once + epochs * each epoch), which these three runs determine. `print(study.plan())`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from causal_reft.alignment.cells import CONTROLS, FIT, Cell, Grid, Group, grouped
from causal_reft.alignment.compute_cells import Part, VariableData, Work, explained, run_group
from causal_reft.display import counted, html_text
from causal_reft.execution import Examples

FEW = 16


@dataclass(frozen=True)
class StagePlan:
    """One stage: `flops` and `seconds` (of one worker) for all of its cells, from those of a few groups."""

    name: str
    cells: int
    groups: int
    flops: float
    seconds: float

    def __repr__(self) -> str:
        each = f"{counted(self.cells, 'cell')} in {counted(self.groups, 'group')}"
        return f"{self.name}: {each}, {_rounded(self.flops)}, {_duration(self.seconds)}"


@dataclass(frozen=True)
class StudyPlan:
    """What a study will compute. Print it to read it.

    Attributes:
        stages: of fits, controls and follow-ups (whose site is not known before: the middle one of the grid is taken).
        first_group: how the first group's passes are computed.
        ineffective: sites at which an edit changes no logit that is read; they are not trained.
    """

    stages: tuple[StagePlan, ...]
    first_group: str
    ineffective: tuple[str, ...]

    @property
    def flops(self) -> float:
        """Of all stages."""
        return sum(stage.flops for stage in self.stages)

    @property
    def hours(self) -> float:
        """Of all stages, for one worker on this machine."""
        return sum(stage.seconds for stage in self.stages) / 3600

    def __repr__(self) -> str:
        total = f"{_rounded(self.flops)}, {_duration(3600 * self.hours)} for one worker on this machine"
        not_trained = f"An edit changes no logit that is read at {', '.join(self.ineffective)}: not trained."
        return "\n".join(
            [
                f"With its shortcuts, by counting and timing a few steps: about {total}",
                *(f"  {stage!r}" for stage in self.stages),
                "The first group of fits:",
                *(f"  {line}" for line in self.first_group.splitlines()),
                *([not_trained] if self.ineffective else []),
            ]
        )

    def _repr_html_(self) -> str:
        return html_text(repr(self))


def plan_of(work: Work, grid: Grid, cells_at_once: int) -> StudyPlan:
    """Count and time a group of each kind (of fits: those of the first seed); the others are taken to cost as much."""
    fits = grouped(grid.fits, cells_at_once)
    first = [group for group in fits if (group[0].role, group[0].seed) == ("study", grid.seeds[0])]
    controls = grouped([_controls_at(grid, cell) for group in first for cell in group], cells_at_once)
    middle = len(grid.positions) // 2
    follow_ups = grouped([c for name in grid.variables for c in grid.follow_ups_at(name, middle, 0)], cells_at_once)
    kinds = {(group[0].kind, group[0].featurizer, group[0].variable): group for group in reversed(follow_ups)}
    plans = [explained(work, group) for group in first]
    sites = dict.fromkeys(cell.site for _, left_out in plans for cell in left_out)
    return StudyPlan(
        stages=(
            _stage("fits", work, fits, first),
            _stage("controls", work, controls, controls[:1]),
            _stage("follow-ups", work, follow_ups, list(kinds.values())),
        ),
        first_group=plans[0][0],
        ineffective=tuple(f"{work.sites[n].name} at {work.sites[n].where}" for n in sites),
    )


def _controls_at(grid: Grid, cell: Cell) -> Cell:
    return Cell(CONTROLS, cell.variable, cell.site, rank=grid.ranks[cell.featurizer], role="control")


def _stage(name: str, work: Work, groups: Sequence[Group], measured: Sequence[Group]) -> StagePlan:
    cells, seen = sum(map(len, groups)), sum(map(len, measured))
    costs = [_cost(work, group) for group in measured]
    flops, seconds = (sum(cost[number] for cost in costs) * cells / max(seen, 1) for number in (0, 1))
    return StagePlan(name, cells, len(groups), flops, seconds)


def _cost(work: Work, group: Group) -> tuple[float, float]:
    """FLOPs and seconds of a group, from three small runs."""
    data, recipe = work.data[group[0].variable], work.recipe
    share = min(0.5, max(FEW, 2 * recipe.batch_size) / len(data.train))
    epochs = recipe.steps(len(data.train)) * recipe.batch_size * recipe.accumulate / len(data.train)
    once = _measured(work, group, share, 1)
    twice = _measured(work, group, share, 2) if group[0].kind == FIT else once
    more = _measured(work, group, 2 * share, 1)
    found = []
    for one, two, wide in zip(once, twice, more, strict=True):
        each_epoch, rows = max(two - one, 0.0), max(wide - one, 0.0)
        found.append(max(one - rows, 0.0) + (rows + (epochs - 1) * each_epoch) / share)
    return found[0], found[1]


def _measured(work: Work, group: Group, share: float, epochs: int) -> tuple[float, float]:
    name = group[0].variable
    small = replace(
        work,
        data={name: _few(work.data[name], share)},
        recipe=replace(work.recipe, epochs=epochs, max_steps=None),
    )
    start = time.perf_counter()
    with FlopCounterMode(display=False) as counter:
        run_group(small, group)
    return float(counter.get_total_flops()), time.perf_counter() - start


def _few(data: VariableData, share: float) -> VariableData:
    def part(of: Part) -> Part:
        target = None if of.target is None else _rows(of.target, share)
        count = _count(of.examples, share)
        clusters = {name: codes[:count] for name, codes in of.clusters.items()}
        return Part(_rows(of.examples, share), target, clusters, of.kinds[:count], of.weights[:count])

    return VariableData(
        runs=data.runs,
        train=_rows(data.train, share),
        select=part(data.select),
        report=part(data.report),
        shuffled_report=_rows(data.shuffled_report, share),
        permuted={seed: (_rows(a, share), _rows(b, share)) for seed, (a, b) in data.permuted.items()},
    )


def _rows(examples: Examples, share: float) -> Examples:
    return examples.rows(torch.arange(_count(examples, share)))


def _count(examples: Examples, share: float) -> int:
    return max(1, round(share * len(examples)))


def _rounded(number: float) -> str:
    for size, word in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.3g} {word}FLOPs"
    return f"{number:.0f} FLOPs"


def _duration(seconds: float) -> str:
    for size, word in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {word}"
    return counted(max(round(seconds), 1), "second")
