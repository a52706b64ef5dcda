"""What a worker does: compute one cell from a picklable description. No file is read or written here but the network's.

The number of threads is fixed while a cell is computed, so that every worker adds in the same order.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from causal_reft.alignment.cell import CONTROLS, FIT, PERMUTED, SHUFFLED, Cell, CellResult
from causal_reft.alignment.controls import (
    StackedSubspaces,
    effective_rank,
    full_patch,
    pca_graph,
    random_scores,
    shuffled,
)
from causal_reft.alignment.illusion import illusion_report
from causal_reft.alignment.network_source import NetworkSource
from causal_reft.alignment.scoring import NO_EDIT, score_rows
from causal_reft.errors import CausalReftWarning, StudyError
from causal_reft.execution import Examples, IntervenedModel, plan
from causal_reft.featurizers import Featurizer, Subspace, random_frames
from causal_reft.graph import Collect, Interchange, InterventionGraph
from causal_reft.sites import Site
from causal_reft.training import History, Recipe, fit

FeaturizerRecipe = Callable[[int, int], Featurizer]


@dataclass(frozen=True)
class Part:
    """The rows of one split as the network reads them, their targets, and a cluster number for each."""

    examples: Examples
    target: Examples | None
    clusters: np.ndarray


@dataclass(frozen=True)
class VariableData:
    """Everything about one variable alternative: its variables with their runs, and the rows of each split.

    `permuted`: for each control seed, training and report rows whose labels are permuted.
    """

    runs: Mapping[str, str]
    train: Examples
    select: Part
    report: Part
    permuted: Mapping[int, tuple[Examples, Examples]]


@dataclass(frozen=True)
class Work:
    """What every cell of a study needs."""

    source: NetworkSource
    sites: Sequence[Site]
    widths: Sequence[int]
    featurizers: Sequence[FeaturizerRecipe]
    data: Mapping[str, VariableData]
    recipe: Recipe
    draws: int
    batch_size: int
    threads: int

    def for_cell(self, cell: Cell) -> Work:
        """The same without the data of other variables, which a worker need not be sent."""
        return replace(self, data={cell.variable: self.data[cell.variable]})


def run_cell(work: Work, cell: Cell) -> CellResult:
    """Compute one cell."""
    start = time.perf_counter()
    with _threads(work.threads), warnings.catch_warnings():
        warnings.simplefilter("ignore", CausalReftWarning)  # a Flow says its word when the study is made
        arrays, facts = {FIT: _fit, CONTROLS: _controls}.get(cell.kind, _illusion)(work, cell)
    return CellResult(arrays, facts, time.perf_counter() - start)


def build_graph(work: Work, cell: Cell) -> InterventionGraph:
    """The untrained graph of a fit: one featurizer, cut into equal slices where there are several variables."""
    site, runs = work.sites[cell.site], work.data[cell.variable].runs
    featurizer = work.featurizers[cell.featurizer](work.widths[cell.site], cell.seed)
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
            f"{featurizer!r} cannot be cut into {len(names)} equal slices for {', '.join(names)}. Use a Subspace "
            "whose rank is a "
            f"multiple of {len(names)}, e.g. Subspace.of_rank({4 * len(names)})."
        )
    return featurizer.split(**dict.fromkeys(names, featurizer.rank // len(names)))


Outcome = tuple[dict[str, np.ndarray], dict[str, Any]]


def _fit(work: Work, cell: Cell) -> Outcome:
    data, network = work.data[cell.variable], _network(work, cell)
    train, report = data.permuted[cell.seed] if cell.labels == PERMUTED else (data.train, data.report.examples)
    graph = build_graph(work, cell)
    model = IntervenedModel(network, graph)
    history, dead = _trained(model, train, replace(work.recipe, seed=cell.seed))
    target = data.report.target if cell.labels != PERMUTED else None
    found = score_rows(network, graph, report, work.batch_size, target)
    arrays = {f"report.{metric}": values for metric, values in found.items()}
    if cell.labels != PERMUTED and cell.network != SHUFFLED:
        arrays["select.iia"] = score_rows(network, graph, data.select.examples, work.batch_size)["iia"]
    for name, node in graph.edits.items():
        rows = node.featurizer.rows()
        if rows is not None:
            arrays[f"rotation.{name}"] = rows.detach().cpu().numpy()
    ranks = {name: effective_rank(node.featurizer) for name, node in graph.edits.items()}
    return arrays, {"steps": len(history.steps), "final_loss": history.final_loss, "ranks": ranks, "dead": dead}


def _trained(model: IntervenedModel, train: Examples, recipe: Recipe) -> tuple[History, str]:
    """The history, and why there was nothing to train: no logit that is read can feel the edit.

    Such a site stays in the grid with its first random subspace, which scores what no edit scores.
    """
    dead = plan(model, train).dead
    if dead:
        return History(), next(iter(dead.values()))
    history = fit(model, train, progress=False, **vars(recipe))
    if history.stopped == "interrupted":
        raise KeyboardInterrupt
    return history, ""


def _controls(work: Work, cell: Cell) -> Outcome:
    data, network = work.data[cell.variable], _network(work, cell)
    site, width = work.sites[cell.site], work.widths[cell.site]
    examples, parts = data.report.examples, len(data.runs)
    frames = random_frames(1, min(cell.rank, width), width, 0).split(max(1, cell.rank // parts), dim=1)
    nodes = zip(data.runs.items(), frames, strict=False)
    graph = InterventionGraph(
        **{name: Interchange(site, StackedSubspaces(rows), Collect(run)) for (name, run), rows in nodes}
    )
    patches = {"no_edit": NO_EDIT, "pca": pca_graph(network, graph, data.train), "full_patch": full_patch(graph)}
    found = {
        name: score_rows(network, patch, examples, work.batch_size)
        for name, patch in patches.items()
        if patch is not None
    }
    found["random"] = random_scores(network, graph, examples, work.draws, cell.seed)
    return {f"{name}.{metric}": rows for name, metrics in found.items() for metric, rows in metrics.items()}, {}


def _illusion(work: Work, cell: Cell) -> Outcome:
    """Fits the cell's subspace again (the same numbers) and looks at it."""
    data, network = work.data[cell.variable], _network(work, cell)
    graph = build_graph(work, cell)
    _trained(IntervenedModel(network, graph), data.train, replace(work.recipe, seed=cell.seed))
    report = illusion_report(network, graph, data.report.examples, data.report.clusters, batch_size=work.batch_size)
    facts = {
        **vars(report),
        "effects": report.effects.to_dict("list"),
        "projections": report.projections.round(6).to_dict("list"),
    }
    return {}, facts


def _network(work: Work, cell: Cell) -> nn.Module:
    network = work.source.network()
    return shuffled(network, cell.seed) if cell.network == SHUFFLED else network


@contextmanager
def _threads(number: int) -> Iterator[None]:
    was = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(was)
