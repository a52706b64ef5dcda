"""What a study will cost with its shortcuts: FLOPs are counted, processor time is taken on a few real steps.

Of the cells of a kind a few are computed: the smallest, it with its neighbour, the largest, it with its neighbour. With
the size s(c) of cell c in FLOPs of a row in a step, a group G of cells costs

    once + shared max s(c) + Σ (each + rate s(c) + draw rate * draws * s(c)),  c in G, the constants not negative,

which these runs determine. Seconds are `time.process_time`, all rows with three steps, after a first run that counts
FLOPs on few rows; the counting itself takes time, so nothing is timed meanwhile. `print(study.plan())`.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from causal_reft.alignment.cells import CONTROLS, Cell, Grid, Group, everywhere, grouped
from causal_reft.alignment.compute_cells import Part, VariableData, Work, explained, run_group
from causal_reft.display import counted, html_text
from causal_reft.errors import CausalReftWarning
from causal_reft.execution import Examples
from causal_reft.sweeps import ticking

STEPS = 3
FEW, FEW_PLAIN = 4, 32  # rows, of texts and of tensors: the self-check takes two of texts and up to 32 of tensors

Sizes = Mapping[tuple[str, int], float]


@dataclass(frozen=True)
class StagePlan:
    """One stage: `flops` and `seconds` of processor time for all of its cells, from those of a few."""

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
        construction: seconds of processor time that loading the model and drawing the rows took.
        seconds: of processor time that the plan itself took; they are no part of the study.
    """

    stages: tuple[StagePlan, ...]
    first_group: str
    ineffective: tuple[str, ...]
    construction: float
    seconds: float

    @property
    def flops(self) -> float:
        """Of all stages."""
        return sum(stage.flops for stage in self.stages)

    @property
    def hours(self) -> float:
        """Processor-hours of construction and all stages on this machine; a process of one thread has one core."""
        return (self.construction + sum(stage.seconds for stage in self.stages)) / 3600

    def __repr__(self) -> str:
        total = f"{_rounded(self.flops)}, {self.hours:.3g} processor-hours ({_duration(3600 * self.hours)} of one core)"
        not_trained = f"An edit changes no logit that is read at {', '.join(self.ineffective)}: not trained."
        return "\n".join(
            [
                f"With its shortcuts, by counting and timing a few steps: about {total}",
                f"  construction: {_duration(self.construction)}, taken already",
                *(f"  {stage!r}" for stage in self.stages),
                f"  besides, this plan took {_duration(self.seconds)}",
                "The first group of fits:",
                *(f"  {line}" for line in self.first_group.splitlines()),
                *([not_trained] if self.ineffective else []),
            ]
        )

    def _repr_html_(self) -> str:
        return html_text(repr(self))


def plan_of(work: Work, grid: Grid, cells_at_once: int, construction: float) -> StudyPlan:
    """Count and time a few cells of each kind (of fits: plain ones of the first seed; their twins cost as much)."""
    began = time.process_time()
    fits = grouped(grid.fits, cells_at_once)
    first = [group for group in fits if (group[0].role, group[0].seed) == ("study", grid.seeds[0])]
    controls = grouped(list(dict.fromkeys(_controls_at(grid, c) for group in first for c in group)), cells_at_once)
    middle = len(grid.positions) // 2
    follow_ups = grouped([c for name in grid.variables for c in grid.follow_ups_at(name, middle, 0)], cells_at_once)
    plans = [explained(work, group) for group in first]
    sizes = {(cell.variable, cell.site): size for _, found in plans for cell, size in found.items()}
    sites = dict.fromkeys(site for (_, site), size in sizes.items() if size == 0)
    stages = (
        _stage("fits", work, fits, first, sizes),
        _stage("controls", work, controls, controls, sizes),
        _follow_ups(work, follow_ups),
    )
    return StudyPlan(
        stages,
        first_group=plans[0][0],
        ineffective=tuple(f"{work.sites[n].name} at {work.sites[n].where}" for n in sites),
        construction=construction,
        seconds=time.process_time() - began,
    )


def _controls_at(grid: Grid, cell: Cell) -> Cell:
    return Cell(CONTROLS, cell.variable, cell.site, rank=grid.ranks[cell.featurizer], role="control")


def _stage(name: str, work: Work, groups: Sequence[Group], typical: Sequence[Group], sizes: Sizes) -> StagePlan:
    """The cost of all groups, from runs of a few cells of the typical ones, for each variable and featurizer."""
    draws = work.draws if name == "controls" else 0
    flops, seconds = 0.0, 0.0
    for kind in dict.fromkeys(_kind(cell) for group in typical for cell in group):
        runs = list(_runs([_of(kind, group) for group in typical], sizes, draws))
        known = [terms(run, sizes, some) for run, some in runs]
        parts = [(_of(kind, group), group) for group in groups]
        need = np.sum([terms(part, sizes, draws, len(part) / len(group)) for part, group in parts if part], 0)
        flops += extrapolated(known, [_flops(replace(work, draws=some), run) for run, some in runs], need)
        seconds += extrapolated(known, [_seconds(replace(work, draws=some), run) for run, some in runs], need)
    return StagePlan(name, sum(map(len, groups)), len(groups), flops, seconds)


def _kind(cell: Cell) -> tuple[object, ...]:
    return cell.variable, cell.featurizer, cell.rank


def _of(kind: tuple[object, ...], group: Group) -> Group:
    return tuple(cell for cell in group if _kind(cell) == kind)


def _runs(groups: Sequence[Group], sizes: Sizes, draws: int) -> Iterator[tuple[Group, int]]:
    """What is computed: the smallest and the largest cell that is trained, each also beside its neighbour in its group;
    of controls with few random subspaces, and the last once more with more of them.
    """
    ordered = [sorted(group, key=lambda cell: sizes[cell.variable, cell.site]) for group in groups if group]
    ordered = [[c for c in group if sizes[c.variable, c.site] > 0] or group for group in ordered]
    low = min(ordered, key=lambda group: sizes[group[0].variable, group[0].site])
    high = max(ordered, key=lambda group: sizes[group[-1].variable, group[-1].site])
    some = (draws + 7) // 8
    found = [(tuple(part), some) for part in (low[:1], low[:2], high[-1:], high[-2:])]
    yield from dict.fromkeys([*found, (found[-1][0], min(draws, 3 * some))])


def terms(cells: Sequence[Cell], sizes: Sizes, draws: int, share: float = 1.0) -> np.ndarray:
    """What the constants of the formula are multiplied by, for cells that are `share` of a group; sizes in largest
    ones."""
    largest = max(sizes.values()) or 1.0
    found = [sizes[cell.variable, cell.site] / largest for cell in cells]
    return np.array([share, share * max(found), len(cells), sum(found), draws * sum(found)])


def extrapolated(known: Sequence[np.ndarray], costs: Sequence[float], need: np.ndarray) -> float:
    """The cost of what is needed, where runs with `known` terms cost `costs`."""
    return float(nnls(np.array(known), np.array(costs))[0] @ need)


def _follow_ups(work: Work, groups: Sequence[Group]) -> StagePlan:
    """One group of each kind and featurizer stands for those like it."""
    alike: dict[tuple[object, ...], list[Group]] = {}
    for group in groups:
        alike.setdefault((group[0].kind, *_kind(group[0])), []).append(group)
    flops, seconds = (
        sum((cost(work, some[0]) * sum(map(len, some)) / len(some[0]) for some in alike.values()), 0.0)
        for cost in (_flops, _seconds)
    )
    return StagePlan("follow-ups", sum(map(len, groups)), len(groups), flops, seconds)


def _seconds(work: Work, group: Group) -> float:
    """Processor time of a group, from its first steps and all else."""
    steps = work.recipe.steps(len(work.data[group[0].variable].train))
    stamps: list[float] = []
    start = time.process_time()
    with ticking(lambda share: stamps.append(time.process_time())):
        run_group(replace(work, recipe=replace(work.recipe, max_steps=min(steps, STEPS))), group)
    each = float(np.diff(stamps).mean()) if len(stamps) > 1 else 0.0
    return time.process_time() - start + each * (steps - len(stamps))


def _flops(work: Work, group: Group) -> float:
    """FLOPs of a group, constant + rows * (once + epochs * each epoch), from three runs on few rows.

    The passes that make the rows of a `SubspaceWithin` are not among them.
    """
    data, recipe = work.data[group[0].variable], work.recipe
    few = FEW_PLAIN if isinstance(data.train.runs["base"], torch.Tensor) else FEW
    share = min(0.5, few / len(data.train))
    epochs = recipe.steps(len(data.train)) * recipe.batch_size * recipe.accumulate / len(data.train)
    once, more = _counted(work, group, share, 1), _counted(work, group, 2 * share, 1)
    twice = once if group[0].kind == CONTROLS else _counted(work, group, share, 2)
    return once - (more - once) + (more - once + (epochs - 1) * (twice - once)) / share


def _counted(work: Work, group: Group, share: float, epochs: int) -> float:
    name = group[0].variable
    few = replace(
        work,
        data={name: _few(work.data[name], share)},
        recipe=replace(work.recipe, epochs=epochs, max_steps=None),
        featurizers=[everywhere(build) for build in work.featurizers],  # few rows may not confine a search
    )
    with Flops() as counter, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No PCA control", CausalReftWarning)  # few rows have few directions
        run_group(few, group)
    return counter.total


class Flops(TorchDispatchMode):
    """Counts as torch's `FlopCounterMode`, without its table by modules, which takes longer than a small model."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func._overloadpacket):
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


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
