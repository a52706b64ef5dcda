"""What a worker does: compute one group of cells from a picklable description. No file is touched but the network's.

The number of threads is fixed while a cell is computed, so that every worker adds in the same order.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from causal_reft.alignment.bases import SubspaceWithin
from causal_reft.alignment.cells import (
    CONTROLS,
    FIT,
    ILLUSION,
    PERMUTED,
    SHUFFLED,
    Cell,
    FeaturizerRecipe,
    Group,
)
from causal_reft.alignment.controls import (
    effective_rank,
    full_patch,
    pca_graphs,
    random_scores_each,
    shuffled,
)
from causal_reft.alignment.found import stored
from causal_reft.alignment.illusion import illusion_report
from causal_reft.alignment.metrics import summary
from causal_reft.alignment.network import LoadedSource, place_of
from causal_reft.alignment.row_scores import NO_EDIT, score_each
from causal_reft.errors import CausalReftWarning, StudyError
from causal_reft.execution import Examples, IntervenedModel, JointPlan, plan_all
from causal_reft.featurizers import Featurizer, StackedFeaturizer, Subspace, random_frames
from causal_reft.graph import Collect, Interchange, InterventionGraph
from causal_reft.sites import Site
from causal_reft.sweeps import Result, tick
from causal_reft.tensors import Tensor
from causal_reft.training import History, Recipe, fit_many, frozen

_kept = threading.local()


@dataclass(frozen=True)
class Part:
    """The rows of one split as the network reads them, their targets, what they share (`factors_of`), and of each row
    its kind and weight.
    """

    examples: Examples
    target: Examples | None
    clusters: Mapping[str, np.ndarray]
    kinds: np.ndarray
    weights: np.ndarray

    def shares(self, right: np.ndarray) -> dict[str, float]:
        """Every score that these rows measure, from what is right in them."""
        found = summary({"iia": right}, self.kinds, self.weights)
        return {name: value for name, value in found.items() if not np.isnan(value)}


@dataclass(frozen=True)
class VariableData:
    """Everything about one variable alternative: its variables with their runs, and the rows of each split.

    `permuted`: for each control seed, training and report rows whose labels are permuted. `shuffled_report`: the report
    rows as networks with shuffled weights are scored on them.
    """

    runs: Mapping[str, str]
    train: Examples
    select: Part
    report: Part
    shuffled_report: Examples
    permuted: Mapping[int, tuple[Examples, Examples]]


@dataclass(frozen=True)
class Work:
    """What every cell of a study needs."""

    source: LoadedSource
    sites: Sequence[Site]
    widths: Sequence[int]
    featurizers: Sequence[FeaturizerRecipe]
    data: Mapping[str, VariableData]
    recipe: Recipe
    draws: int
    batch_size: int
    threads: int
    memory: int

    def for_group(self, group: Group) -> Work:
        """The same without the data of other variables, which a worker need not be sent."""
        return replace(self, data={group[0].variable: self.data[group[0].variable]})


def run_group(work: Work, group: Group) -> list[Result]:
    """The results of the cells of a group, in order."""
    with with_threads(work.threads), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Flow\(", CausalReftWarning)  # said once, when the study is made
        outcomes = {FIT: _fits, CONTROLS: _controls, ILLUSION: _illusions}[group[0].kind](work, group)
    return [Result(*found) for found in outcomes]


def compute_group(work: Work, is_sent: bool, group: Group) -> list[Result]:
    """The same; a worker in another process is sent the data of the group's variable only."""
    return run_group(work.for_group(group) if is_sent else work, group)


def explained(work: Work, group: Group) -> tuple[str, dict[Cell, float]]:
    """How a group of fits is computed, as text; and for each cell the FLOPs of one row in one training step, 0 where
    its edit changes no logit that is read and nothing is trained.

    Nothing is recorded for it.
    """
    data, network = work.data[group[0].variable], _network(work, group)
    models = [IntervenedModel(network, graph) for graph in build_graphs(work, group, network, data.train)]
    with frozen(network):
        ineffective = _ineffective(plan_all(models, data.train, memory=work.memory))
        alive = [number for number in range(len(models)) if number not in ineffective] or list(range(len(models)))
        plan = plan_all([models[number] for number in alive], data.train, memory=work.memory)
        sizes = dict(zip((group[number] for number in alive), plan.row_flops, strict=True))
        return plan.explain(), {cell: 0.0 if n in ineffective else sizes[cell] for n, cell in enumerate(group)}


def build_graphs(work: Work, group: Group, network: nn.Module, train: Examples) -> list[InterventionGraph]:
    """The untrained graphs of fits: one featurizer each, cut into equal slices where there are several variables.

    The rows that confine a search are those of this network and these training rows, for all sites from the same
    passes.
    """
    rows: dict[int, Mapping[Site, Tensor]] = {}
    for number in dict.fromkeys(cell.featurizer for cell in group):
        if isinstance(recipe := work.featurizers[number], SubspaceWithin):
            sites = list(dict.fromkeys(work.sites[cell.site] for cell in group if cell.featurizer == number))
            rows[number] = recipe.rows_at(network, sites, train, work.batch_size)
    return [_graph(work, cell, rows.get(cell.featurizer, {})) for cell in group]


def _graph(work: Work, cell: Cell, rows: Mapping[Site, Tensor]) -> InterventionGraph:
    site, runs, recipe = work.sites[cell.site], work.data[cell.variable].runs, work.featurizers[cell.featurizer]
    if isinstance(recipe, SubspaceWithin):
        featurizer: Featurizer = Subspace.within(rows[site].cpu(), recipe.rank, cell.seed)
    else:
        featurizer = recipe(work.widths[cell.site], cell.seed)
    return InterventionGraph(
        **{name: Interchange(site, part, Collect(runs[name])) for name, part in slices(featurizer, list(runs)).items()}
    )


def slices(featurizer: Featurizer, names: Sequence[str]) -> Mapping[str, Featurizer]:
    """One featurizer for one variable; equal orthogonal slices of a subspace for several.

    Raises:
        StudyError: several variables with coordinates that cannot be cut equally.
    """
    if len(names) == 1:
        return {names[0]: featurizer}
    if not isinstance(featurizer, Subspace) or featurizer.rank % len(names):
        raise StudyError(
            f"{featurizer!r} cannot be cut into {len(names)} equal slices for {', '.join(names)}. Use a Subspace whose "
            f"rank is a multiple of {len(names)}, e.g. Subspace.of_rank({4 * len(names)})."
        )
    return featurizer.split(**dict.fromkeys(names, featurizer.rank // len(names)))


Outcome = tuple[dict[str, np.ndarray], dict[str, Any]]


def _fits(work: Work, group: Group) -> list[Outcome]:
    data, network, shared = work.data[group[0].variable], _network(work, group), group[0]
    is_permuted = shared.labels == PERMUTED
    train, report = data.permuted[shared.seed] if is_permuted else (data.train, data.report.examples)
    report = data.shuffled_report if shared.network == SHUFFLED else report
    graphs = build_graphs(work, group, network, train)
    trained = _trained(work, network, graphs, train, shared.seed)
    score = partial(score_each, network, graphs, batch_size=work.batch_size, memory=work.memory)
    reported = score(report, target=None if is_permuted else data.report.target)
    chosen_by = [found["iia"] for found in score(data.select.examples)] if shared.is_plain else []
    outcomes = []
    for number, (graph, (history, ineffective)) in enumerate(zip(graphs, trained, strict=True)):
        tensors, settings = stored(graph)
        arrays = {f"report.{metric}": values for metric, values in reported[number].items()} | tensors
        arrays |= {"select.iia": chosen_by[number]} if chosen_by else {}
        ranks = {name: effective_rank(node.featurizer) for name, node in graph.edits.items()}
        facts = {
            "steps": len(history.steps),
            "final_loss": history.final_loss,
            "ranks": ranks,
            "ineffective": ineffective,
            **settings,
        }
        facts |= {"selection": data.select.shares(chosen_by[number])} if chosen_by else {}
        outcomes.append((arrays, facts))
    return outcomes


def _trained(
    work: Work, network: nn.Module, graphs: Sequence[InterventionGraph], train: Examples, seed: int
) -> list[tuple[History, str]]:
    """For each graph its history, and why there was nothing to train: its edit changes no logit that is read.

    Such a site stays in the grid with its first random subspace, which scores what no edit scores. Whole vectors have
    nothing to train either.
    """
    models = [IntervenedModel(network, graph) for graph in graphs]
    passes = partial(plan_all, memory=work.memory)
    ineffective = _ineffective(passes(models, train))
    given = {number for number, graph in enumerate(graphs) if not graph.n_trainable_parameters}
    alive = [model for number, model in enumerate(models) if number not in {*ineffective, *given}]
    settings = {"progress": _tick_training, "passes": passes, "interruptible": False}
    found = iter(fit_many(alive, train, recipe=replace(work.recipe, seed=seed), **settings) if alive else [])
    return [
        (History(), ineffective.get(number, "")) if number in {*ineffective, *given} else (next(found), "")
        for number in range(len(graphs))
    ]


def _tick_training(share: float) -> None:
    tick(0.9 * share)  # the rest is scoring


def _ineffective(joint: JointPlan) -> dict[int, str]:
    return {number: next(iter(why.values())) for number, why in joint.ineffective.items()}


def _controls(work: Work, group: Group) -> list[Outcome]:
    data, network = work.data[group[0].variable], _network(work, group)
    examples, graphs = data.report.examples, [_any_subspace(work, cell) for cell in group]
    rivals = [{"full_patch": full_patch(graph)} for graph in graphs]
    narrow = [number for number, cell in enumerate(group) if cell.rank < work.widths[cell.site]]
    some = [graphs[number] for number in narrow]  # a whole vector has no rivals of its rank
    for number, pca in zip(narrow, pca_graphs(network, some, data.train) if some else (), strict=True):
        rivals[number] = {"pca": pca, **rivals[number]}
    patches = [NO_EDIT, *(patch for named in rivals for patch in named.values() if patch is not None)]
    no_edit, *scores = score_each(network, patches, examples, work.batch_size, memory=work.memory)
    options = {"draws": work.draws, "seed": group[0].seed, "memory": work.memory}
    random = random_scores_each(network, some, examples, **options) if some else []
    drawn = {number: {"random": {"iia": one["iia"]}} for number, one in zip(narrow, random, strict=True)}
    found, outcomes = iter(scores), []
    for number, named in enumerate(rivals):
        patched = {name: next(found) for name, patch in named.items() if patch is not None}
        outcomes.append((_flat({"no_edit": no_edit, **patched, **drawn.get(number, {})}), {}))
    return outcomes


def _any_subspace(work: Work, cell: Cell) -> InterventionGraph:
    """The cell's sites, ranks and sources, which are all that controls take from a graph."""
    site, width, runs = work.sites[cell.site], work.widths[cell.site], work.data[cell.variable].runs
    frames = random_frames(1, min(cell.rank, width), width, 0).split(max(1, cell.rank // len(runs)), dim=1)
    nodes = zip(runs.items(), frames, strict=False)
    return InterventionGraph(
        **{name: Interchange(site, StackedFeaturizer(rows), Collect(run)) for (name, run), rows in nodes}
    )


def _flat(found: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {f"{name}.{metric}": rows for name, metrics in found.items() for metric, rows in metrics.items()}


def _illusions(work: Work, group: Group) -> list[Outcome]:
    """Fits the subspaces again (in a batch of their own: the same up to rounding) and reports on them."""
    data, network = work.data[group[0].variable], _network(work, group)
    graphs = build_graphs(work, group, network, data.train)
    _trained(work, network, graphs, data.train, group[0].seed)
    return [({}, _illusion(work, network, graph, data.report)) for graph in graphs]


def _illusion(work: Work, network: nn.Module, graph: InterventionGraph, report: Part) -> dict[str, Any]:
    found = illusion_report(network, graph, report.examples, report.clusters, batch_size=work.batch_size)
    return {
        **vars(found),
        "effects": found.effects.to_dict("list"),
        "projections": found.projections.round(6).to_dict("list"),
    }


def _network(work: Work, group: Group) -> nn.Module:
    """The network of a group; the shuffled one of a seed is kept from group to group, until another is asked for."""
    network = work.source.network()
    if group[0].network != SHUFFLED:
        _kept.shuffled = None
        return network
    kept, key = getattr(_kept, "shuffled", None), (work.source.digest, place_of(network), group[0].seed)
    if kept is None or kept[0] != key:
        _kept.shuffled = None  # before the next one is made: there is never room for two
        _kept.shuffled = kept = key, shuffled(network, group[0].seed)
    return kept[1]


@contextmanager
def with_threads(number: int) -> Iterator[None]:
    """A fixed number of torch's threads inside, so that every worker adds in the same order."""
    was = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(was)
