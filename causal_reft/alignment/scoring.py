"""Score a network under a graph on examples, row by row. Everything that is reported comes from here."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from causal_reft.alignment.encoding import CHOICES, RIVAL
from causal_reft.alignment.metrics import row_kl, row_metrics
from causal_reft.execution import Examples, IntervenedModel, Passes, Scored, plan
from causal_reft.featurizers import computed_once
from causal_reft.graph import Collect, InterventionGraph
from causal_reft.sites import Site
from causal_reft.tensors import Float, Tensor
from causal_reft.training import frozen

NO_EDIT = InterventionGraph()


@torch.no_grad()
def score_rows(
    network: nn.Module,
    graph: InterventionGraph,
    examples: Examples,
    batch_size: int = 64,
    target: Examples | None = None,
) -> dict[str, np.ndarray]:
    """Every metric of every row ("rows" of float64); `kl` only with a `target`, nan in rows that it marks invalid."""
    with frozen(network), computed_once():
        model = evaluated(network, graph)
        passes = plan(model, examples)
        aim = None if target is None else plan(evaluated(network, NO_EDIT), target)
        parts = [_batch(passes, aim, examples, rows) for rows in examples.batches(batch_size)]
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if target is not None:
        found["kl"] = np.where(np.asarray(target.info["valid"]), found["kl"], np.nan)
    return found


def evaluated(network: nn.Module, graph: InterventionGraph) -> IntervenedModel:
    """The network under a graph, masks hard and dropout on edits off."""
    return IntervenedModel(network, graph).train(False)


def row_scores(passes: Passes, examples: Examples, rows: Tensor) -> dict[str, np.ndarray]:
    """Every metric but `kl` of these rows of the examples (a row may come several times)."""
    return _metrics(passes.scored(rows), examples, rows)


def _batch(passes: Passes, aim: Passes | None, examples: Examples, rows: Tensor) -> dict[str, np.ndarray]:
    scored = passes.scored(rows)
    found = _metrics(scored, examples, rows)
    return found if aim is None else found | {"kl": row_kl(scored, aim.scored(rows), len(rows))}


def _metrics(scored: Scored, examples: Examples, rows: Tensor) -> dict[str, np.ndarray]:
    rivals = [examples.info[RIVAL][i] for i in rows.tolist()] if RIVAL in examples.info else [None] * len(rows)
    choices = [examples.info[CHOICES][i] for i in rows.tolist()] if CHOICES in examples.info else None
    return row_metrics(scored, len(rows), rivals, choices)


@torch.no_grad()
def states_at(
    network: nn.Module, site: Site, examples: Examples, runs: Iterable[str], batch_size: int = 64
) -> dict[str, Float[Tensor, "token d_model"]]:
    """The states at a site in some runs, all named tokens of all rows under one another."""
    names = list(runs)
    graph = InterventionGraph(**{run: Collect(run, site) for run in names})
    found: dict[str, list[Tensor]] = {run: [] for run in names}
    with frozen(network):
        model = evaluated(network, graph)
        for rows in examples.batches(batch_size):
            batch = examples.rows(rows).runs
            inputs = {run: on_device(batch[run], model.device) for run in graph.runs if run in names}
            collected = model.collect(inputs.pop("base", None), **inputs)
            for run in names:
                flat = collected[run].flatten(0, 1)
                found[run].append(flat[~flat.isnan().any(-1)])
    return {run: torch.cat(parts) for run, parts in found.items()}


def on_device(inputs, device: torch.device):
    """A run's inputs on a device."""
    if isinstance(inputs, Tensor):
        return inputs.to(device)
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in inputs.items()}
