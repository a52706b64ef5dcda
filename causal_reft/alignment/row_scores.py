"""Score a network under a graph on examples, row by row. Everything that is reported comes from here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack

import numpy as np
import torch
from torch import nn

from causal_reft.alignment.encoding import BASE_ANSWER, CHOICES
from causal_reft.alignment.metrics import row_kl, row_metrics
from causal_reft.execution import Examples, IntervenedModel, TargetLogits, plan, plan_all
from causal_reft.featurizers import computed_once
from causal_reft.graph import Collect, InterventionGraph
from causal_reft.sites import Site
from causal_reft.tensors import Float, Num, Tensor
from causal_reft.training import frozen

NO_EDIT = InterventionGraph()


def score_rows(
    network: nn.Module,
    graph: InterventionGraph,
    examples: Examples,
    batch_size: int = 64,
    target: Examples | None = None,
) -> dict[str, np.ndarray]:
    """Every metric of every row ("rows" of float64); `kl` only with a `target`, nan in rows that it marks invalid."""
    return score_each(network, [graph], examples, batch_size, target)[0]


@torch.no_grad()
def score_each(
    network: nn.Module,
    graphs: Sequence[InterventionGraph],
    examples: Examples,
    batch_size: int = 64,
    target: Examples | None = None,
    **options: object,
) -> list[dict[str, np.ndarray]]:
    """The same for several graphs in shared passes; `options` are those of the plan."""
    with frozen(network), computed_once(), ExitStack() as loops:
        joint = loops.enter_context(plan_all([evaluated(network, graph) for graph in graphs], examples, **options))
        aim = None
        if target is not None:
            aim = loops.enter_context(plan(evaluated(network, NO_EDIT), target, **options))
        parts: list[list[dict[str, np.ndarray]]] = [[] for _ in graphs]
        for rows in examples.batches(batch_size):
            aimed = None if aim is None else aim.scored(rows)
            for number, scored in (item for part in joint.parts(rows) for item in part.items()):
                parts[number].append(_measured(scored, aimed, examples, rows))
    return [_joined(of_graph, target) for of_graph in parts]


@torch.no_grad()
def preferred(network: nn.Module, examples: Examples) -> Num[Tensor, " read"]:
    """The most likely of all tokens where each token of an answer is read, without any edit."""
    with frozen(network), plan(evaluated(network, NO_EDIT), examples) as passes:
        return torch.cat([passes.scored(rows).logits.argmax(-1) for rows in examples.batches(64)])


def evaluated(network: nn.Module, graph: InterventionGraph) -> IntervenedModel:
    """The network under a graph, masks hard and dropout on edits off."""
    return IntervenedModel(network, graph).train(False)


def _joined(parts: Sequence[dict[str, np.ndarray]], target: Examples | None) -> dict[str, np.ndarray]:
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if target is not None:
        found["kl"] = np.where(np.asarray(target.info["valid"]), found["kl"], np.nan)
    return found


def _measured(
    scored: TargetLogits, aimed: TargetLogits | None, examples: Examples, rows: Tensor
) -> dict[str, np.ndarray]:
    found = row_scores(scored, examples, rows)
    return found if aimed is None else found | {"kl": row_kl(scored, aimed, len(rows))}


def row_scores(scored: TargetLogits, examples: Examples, rows: Tensor) -> dict[str, np.ndarray]:
    """Every metric but `kl` of these rows of the examples (a row may come several times)."""
    base_answers = (
        [examples.info[BASE_ANSWER][i] for i in rows.tolist()] if BASE_ANSWER in examples.info else [None] * len(rows)
    )
    choices = [examples.info[CHOICES][i] for i in rows.tolist()] if CHOICES in examples.info else None
    return row_metrics(scored, len(rows), base_answers, choices)


def states_at(
    network: nn.Module, site: Site, examples: Examples, runs: Iterable[str], batch_size: int = 64
) -> dict[str, Float[Tensor, "token d_model"]]:
    """The states at a site in some runs, all named tokens of all rows under one another."""
    return states_at_each(network, [site], examples, runs, batch_size)[site]


@torch.no_grad()
def states_at_each(
    network: nn.Module, sites: Sequence[Site], examples: Examples, runs: Iterable[str], batch_size: int = 64
) -> dict[Site, dict[str, Float[Tensor, "token d_model"]]]:
    """The same for several sites, all collected in the same passes."""
    wanted = {f"{run}_{number}": (run, site) for run in dict.fromkeys(runs) for number, site in enumerate(sites)}
    graph = InterventionGraph(**{name: Collect(run, site) for name, (run, site) in wanted.items()})
    parts: dict[str, list[Tensor]] = {name: [] for name in wanted}
    with frozen(network):
        model = evaluated(network, graph)
        for rows in examples.batches(batch_size):
            inputs = {run: on_device(given, model.device) for run, given in examples.rows(rows).runs.items()}
            inputs = {run: given for run, given in inputs.items() if run in graph.runs}
            collected = model.collect(inputs.pop("base", None), **inputs)
            for name in wanted:
                flat = collected[name].flatten(0, 1)
                parts[name].append(flat[~flat.isnan().any(-1)])
    found: dict[Site, dict[str, Tensor]] = {site: {} for site in sites}
    for name, (run, site) in wanted.items():
        found[site][run] = torch.cat(parts[name])
    return found


def on_device(inputs, device: torch.device):
    """A run's inputs on a device."""
    if isinstance(inputs, Tensor):
        return inputs.to(device)
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in inputs.items()}
