"""Graphs in nnsight code that is not ours: training as one session (one job on a server), and a graph inside a user's
trace.

A forward on a server cannot be differentiated from here, so the whole loop travels: the session's body calls `train`,
which runs wherever the body runs, and the trained tensors come back.
"""

from __future__ import annotations

import causal_reft.execution.beartype_first  # isort: skip  # noqa: F401

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import nnsight
import torch
from torch import nn

from causal_reft.errors import GraphError
from causal_reft.execution.inputs import Inputs, RunInputs, parse_inputs
from causal_reft.execution.intervened_model import IntervenedModel
from causal_reft.execution.locating import locate_graph
from causal_reft.execution.nnsight import NNsightBackend, portable, traced, visit_port
from causal_reft.execution.transform import States, in_batch_shape
from causal_reft.execution.visit import PortWork, Visit
from causal_reft.graph import InterventionGraph
from causal_reft.tensors import Tensor

Step = Mapping[str, Inputs]


def own_loss(output: Any) -> Tensor:
    """The model's own loss, for batches with labels."""
    return output.loss


def train_in_session(
    model: IntervenedModel,
    batches: Sequence[Mapping[str, RunInputs]],
    learning_rate: float = 1e-3,
    loss: Callable[[Any], Tensor] = own_loss,
) -> list[float]:
    """Adam over the batches in one nnsight session; the graph's tensors are replaced by the trained ones.

    Args:
        model: with backend="nnsight"; its `remote` says where the session runs.
        batches: one step each: run -> inputs (labels among the base run's, for the model's own loss).
        learning_rate: of Adam.
        loss: from the base run's output; sent along with its source.

    Returns:
        The loss before each step.

    Raises:
        GraphError: another backend.
    """
    if not isinstance(model.backend, NNsightBackend):
        raise GraphError(
            f"train_in_session trains inside nnsight, but this model has backend={model.backend_name!r}. Use fit(...)."
        )
    envoy: Any = model.backend.envoy
    options = {"remote": model.remote} if model.remote else {}
    runs, modules = model.graph.runs, model.graph.modules
    steps = [{run: parse_inputs(run, inputs, model.base_model) for run, inputs in batch.items()} for batch in batches]
    work = {run: portable(ports) for run, ports in model.backend.work.items()}
    losses, trained = [], []
    with envoy.session(**options):
        losses, trained = train(envoy, runs, modules, work, steps, learning_rate, loss)
        nnsight.save(losses)
        nnsight.save(trained)
    with torch.no_grad():
        for parameter, value in zip(modules.parameters(), trained, strict=True):
            parameter.copy_(value)
    return losses


def train(
    envoy: Any,
    runs: Sequence[str],
    modules: nn.Module,
    work: Mapping[str, tuple[PortWork, ...]],
    steps: Sequence[Step],
    learning_rate: float,
    loss: Callable[[Any], Tensor],
) -> tuple[list[float], list[Tensor]]:
    """The loop itself: losses, and the tensors of the graph's modules at the end (the graph itself does not pickle)."""
    optimizer = torch.optim.Adam([p for p in modules.parameters() if p.requires_grad], learning_rate)
    losses = []
    for inputs in steps:
        states: States = {}
        output = None
        for run in runs:
            visit = Visit(run, work[run], inputs[run], states, training=True, strict=True)
            output, kept = traced(envoy, visit, run == "base", False)
            states.update(kept)
        value = loss(output)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses, [parameter.detach() for parameter in modules.parameters()]


@dataclass(frozen=True)
class Applied:
    """What a graph saw in a user's trace: `.collected` by node name, and the states for a later run."""

    collected: dict[str, Tensor]
    states: States


def apply(
    graph: InterventionGraph, model: Any, inputs: RunInputs, run: str = "base", states: States | None = None
) -> Applied:
    """Inside your own `with model.trace(...)`: the edits and collects of one run of a graph.

    Args:
        graph: the interventions.
        model: the nnsight model that is being traced.
        inputs: what the trace was opened with; positions are read from its mask.
        run: which of the graph's runs this trace is.
        states: `.states` of the runs that came before, where the graph has several.

    Returns:
        What was seen; call `nnsight.save` on it to keep it after the trace.

    Example:
        >>> with model.trace(**batch):
        ...     seen = nnsight.save(apply(graph, model, batch).collected)
        ...     logits = nnsight.save(model.output.logits)
    """
    module = model._module
    visit = Visit(
        run,
        in_order(locate_graph(graph, module)[run], module),
        parse_inputs(run, inputs, module),
        dict(states or {}),
        False,
        strict=True,
    )
    for port in visit.work:
        visit_port(model, visit, port)
    collected = {name: node for name, node in graph.collects.items() if (node.run, node.site) in visit.states}
    return Applied({name: _read(node, visit.states) for name, node in collected.items()}, visit.states)


def in_order(work: Sequence[PortWork], module: nn.Module) -> tuple[PortWork, ...]:
    """Ports as a forward comes by them, if modules run in the order in which they are registered."""
    times: dict[tuple[str, bool], int] = {}

    def tour(path: str, inner: nn.Module) -> None:
        times[path, False] = len(times)
        for name, child in inner.named_children():
            tour(f"{path}.{name}".lstrip("."), child)
        times[path, True] = len(times)

    tour("", module)
    return tuple(sorted(work, key=lambda port: times[port.location.path, port.location.port != "input"]))


def _read(node: Any, states: States) -> Tensor:
    state = states[node.run, node.site]
    return in_batch_shape(state.h if node.featurizer is None else node.featurizer.read(state.h), state.tokens)
