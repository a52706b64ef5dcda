"""What a score must beat: the same network patched in ways that know nothing of the variable.

    no_edit         the identity patch (source = base): what agrees with the causal model without any edit
    random          random subspaces of the same rank, 100 or more, in stacked passes
    pca             the top principal directions of the states, as many as the rank
    permuted        the same fit to permuted labels, scored on permuted labels (a control task; Hewitt and Liang 2019)
    shuffled        the same fit on a network of the same shape whose weights were shuffled
    full_patch      the whole vector: no rival but a reference, what the site can give at most

The first five are controls, the last is not: a subspace that does all that the whole vector does is a good result.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import numpy as np
import torch
from torch import nn

from causal_reft.alignment.row_scores import evaluated, row_scores, states_at_each
from causal_reft.errors import CausalReftWarning
from causal_reft.execution import Examples, FullPasses, IntervenedModel, TargetLogits, plan_all
from causal_reft.execution.planning.selfcheck import TOLERANCE
from causal_reft.featurizers import (
    Featurizer,
    Identity,
    Mask,
    StackedFeaturizer,
    Subspace,
    computed_once,
    random_frames,
)
from causal_reft.graph import Collect, Interchange, InterventionGraph
from causal_reft.seeds import derive
from causal_reft.sites import Site
from causal_reft.tensors import Tensor
from causal_reft.training import frozen

ROWS_AT_ONCE = 4096


def random_scores(
    network: nn.Module,
    graph: InterventionGraph,
    examples: Examples,
    draws: int = 100,
    seed: int = 0,
    rows_at_once: int = ROWS_AT_ONCE,
) -> dict[str, np.ndarray]:
    """Every metric under `draws` random subspaces of the graph's sites and ranks: metric -> "draw rows".

    Variables at one site get orthogonal slices of one random frame. A batch of rows is repeated once for each draw, so
    that one pass scores many subspaces.
    """
    return random_scores_each(network, [graph], examples, draws, seed, rows_at_once)[0]


@torch.no_grad()
def random_scores_each(
    network: nn.Module,
    graphs: Sequence[InterventionGraph],
    examples: Examples,
    draws: int = 100,
    seed: int = 0,
    rows_at_once: int = ROWS_AT_ONCE,
    **options: object,
) -> list[dict[str, np.ndarray]]:
    """The same for several graphs in shared passes; `options` are those of the plan."""
    frames = [_random_frames(graph, draws, seed) for graph in graphs]
    with frozen(network), computed_once(), ExitStack() as loops:
        scored = _exact(network, graphs, frames, examples, options, loops)
        batches = examples.batches(max(1, rows_at_once // (draws * len(graphs))))
        parts = [[row_scores(found, examples, rows.repeat(draws)) for found in scored(rows)] for rows in batches]
    return [_by_draw(of_graph, draws) for of_graph in zip(*parts, strict=True)]


def _random_frames(graph: InterventionGraph, draws: int, seed: int) -> dict[Site, Tensor]:
    return {
        site: random_frames(draws, sum(ranks.values()), width, derive(seed, "random control", *named(site)))
        for site, width, ranks in by_site(graph)
    }


def _by_draw(parts: Sequence[dict[str, np.ndarray]], draws: int) -> dict[str, np.ndarray]:
    return {metric: np.concatenate([part[metric].reshape(draws, -1) for part in parts], axis=1) for metric in parts[0]}


def _exact(
    network: nn.Module,
    graphs: Sequence[InterventionGraph],
    frames: Sequence[Mapping[Site, Tensor]],
    examples: Examples,
    options: Mapping[str, object],
    loops: ExitStack,
) -> Callable[[Tensor], Sequence[TargetLogits]]:
    """For some rows the logits under every draw, one draw after the other; computed by the plan where it gives the
    numbers of full passes for two draws on two rows.

    (The plan's own check would not repeat rows.)
    """
    unchecked, few = {**options, "check": False}, examples.rows(torch.arange(min(2, len(examples))))
    two = _stacked(network, graphs, [{site: rows[:2] for site, rows in found.items()} for found in frames])
    fast, full = (
        _under_each(two, passes)(torch.arange(len(few)))
        for passes in (plan_all(two, few, **unchecked).scored, _in_full(two, few))
    )
    every = _stacked(network, graphs, frames)
    exact = all(_agree(a.logits, b.logits) for a, b in zip(fast, full, strict=True))
    if not exact:
        return _under_each(every, _in_full(every, examples))
    return _under_each(every, loops.enter_context(plan_all(every, examples, **unchecked)).scored)


def _in_full(models: Sequence[IntervenedModel], examples: Examples) -> Callable[[Tensor], Sequence[TargetLogits]]:
    return lambda rows: [FullPasses(model, examples).scored(rows) for model in models]


def _under_each(
    models: Sequence[IntervenedModel], scored: Callable[[Tensor], Sequence[TargetLogits]]
) -> Callable[[Tensor], Sequence[TargetLogits]]:
    """Rows repeated once for each member of the models' stacks."""
    stacks = [node.featurizer for model in models for node in model.graph.edits.values()]

    def under_each(rows: Tensor) -> Sequence[TargetLogits]:
        count = 1
        for stack in stacks:
            assert isinstance(stack, StackedFeaturizer) and stack.matrices is not None
            count = len(stack.matrices)
            stack.choose(torch.arange(count).repeat_interleave(len(rows)))
        return scored(rows.repeat(count))

    return under_each


def _stacked(
    network: nn.Module, graphs: Sequence[InterventionGraph], frames: Sequence[Mapping[Site, Tensor]]
) -> list[IntervenedModel]:
    return [
        evaluated(network, _with_rows(graph, rows, StackedFeaturizer))
        for graph, rows in zip(graphs, frames, strict=True)
    ]


def _agree(fast: Tensor, full: Tensor) -> bool:
    return float((fast - full).norm()) <= TOLERANCE.get(full.dtype, 4 * torch.finfo(full.dtype).eps) * float(
        full.norm()
    )


def pca_graph(network: nn.Module, graph: InterventionGraph, examples: Examples) -> InterventionGraph | None:
    """The graph with the top principal directions of the states at each site; `None`, and a warning, where there are
    fewer than its rank.
    """
    return pca_graphs(network, [graph], examples)[0]


def pca_graphs(
    network: nn.Module, graphs: Sequence[InterventionGraph], examples: Examples
) -> list[InterventionGraph | None]:
    """The same for several graphs that take from the same runs, the states of all collected in the same passes."""
    sites = list(dict.fromkeys(node.site for graph in graphs for node in graph.edits.values()))
    states = states_at_each(network, sites, examples, ["base", *_sources(graphs[0])])
    return [_pca_graph(graph, states) for graph in graphs]


def _pca_graph(graph: InterventionGraph, found: Mapping[Site, Mapping[str, Tensor]]) -> InterventionGraph | None:
    rows = {}
    for site, _, ranks in by_site(graph):
        states, total = torch.cat(list(found[site].values())).double(), sum(ranks.values())
        there = int(torch.linalg.matrix_rank(states - states.mean(0)))
        if total > there:
            warnings.warn(
                f"No PCA control at {site!r}: its states vary in {there} directions, so there are no {total} principal "
                "ones, and the score of this control is NaN. Give examples whose states differ more, or a rank of at "
                f"most {there}.",
                CausalReftWarning,
                stacklevel=2,
            )
            return None
        rows[site] = Subspace.pca(states, total).rotation.float()
    return _with_rows(graph, rows, _subspace)


def full_patch(graph: InterventionGraph) -> InterventionGraph | None:
    """The whole vector at each site; `None` where variables at one site take different sources, which it cannot."""
    nodes = {}
    for site, width, ranks in by_site(graph):
        runs = {_run(graph.edits[name]) for name in ranks}
        if len(runs) > 1:
            return None
        nodes[next(iter(ranks))] = Interchange(site, Identity(width), Collect(runs.pop()))
    return InterventionGraph(**nodes)


def by_site(graph: InterventionGraph) -> list[tuple[Site, int, dict[str, int]]]:
    """Each site of the graph with its width and the effective rank of every variable there."""
    found: dict[Site, dict[str, int]] = {}
    for name, node in graph.edits.items():
        found.setdefault(node.site, {})[name] = effective_rank(node.featurizer)
    return [(site, graph.edits[next(iter(ranks))].featurizer.d_model, ranks) for site, ranks in found.items()]


def effective_rank(featurizer: Featurizer) -> int:
    """How many coordinates are written in evaluation: the rank, or what a hard mask leaves of it (at least 1)."""
    if not isinstance(featurizer, Mask):
        return featurizer.rank
    was = featurizer.training
    kept = int(featurizer.eval().mask().sum())
    featurizer.train(was)
    return max(1, kept)


def named(site: Site) -> tuple[str, str]:
    """A site as words, for seeds and tables."""
    return site.name, str(site.where)


def _with_rows(
    graph: InterventionGraph, rows: Mapping[Site, Tensor], build: Callable[[Tensor], Featurizer]
) -> InterventionGraph:
    """The graph with other featurizers: rows "... rank d_model" of each site, cut into slices for its variables."""
    nodes = {}
    for site, _, ranks in by_site(graph):
        for name, part in zip(ranks, rows[site].split(list(ranks.values()), dim=-2), strict=True):
            node = graph.edits[name]
            nodes[name] = Interchange(site, build(part), Collect(_run(node)), scale=node.scale)
    return graph.replace(**nodes)


def _subspace(rows: Tensor) -> Featurizer:
    return Identity(rows.shape[1]) if len(rows) == rows.shape[1] else Subspace.from_rows(rows)


def _run(node: Interchange) -> str:
    assert isinstance(node.source, Collect)
    return node.source.run


def _sources(graph: InterventionGraph) -> list[str]:
    return list(dict.fromkeys(_run(node) for node in graph.edits.values()))


@torch.no_grad()
def shuffled(network: nn.Module, seed: int) -> nn.Module:
    """A copy whose every parameter has its numbers in random order: same shape, same distribution, nothing learned."""
    other = copy.deepcopy(network)
    for name, parameter in other.named_parameters():
        generator = torch.Generator().manual_seed(derive(seed, "shuffled weights", name))
        order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
        parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return other
