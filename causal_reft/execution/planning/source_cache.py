"""The states that edits of the base run take from other runs, computed once for every example.

Source runs that hold nothing trained give the same states in every step. For a causal decoder they are one part of what
is cached (`joint_passes.py`). For any other model they are the one shortcut, `SourceCachePasses`; a plain module,
moreover, computes the same in every step until its first edited port, so the outputs of all modules that finish before
it are cached too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import nn

from causal_reft.execution.backend import HookBackend, running
from causal_reft.execution.block_shortcuts import replaced_forward
from causal_reft.execution.examples import Examples
from causal_reft.execution.inputs import Inputs, parse_inputs
from causal_reft.execution.intervened_model import IntervenedModel
from causal_reft.execution.locating import device_of, is_trainable
from causal_reft.execution.passes import Passes, TargetLogits, logits_of, on_device
from causal_reft.execution.target_positions import TargetPositions
from causal_reft.execution.threads import in_this_thread
from causal_reft.execution.transform import State, States
from causal_reft.featurizers import Mask, computed_once
from causal_reft.graph import Collect, InterventionGraph
from causal_reft.graph.intervention_graph import held_modules
from causal_reft.sites import Site, Tokens
from causal_reft.tensors import Float, Int, Tensor

Key = tuple[str, Site]
CHUNK = 256


@dataclass(frozen=True)
class CachedStates:
    """The states of one site of one run for some rows, all tokens in one axis; `counts` tokens of each row, in the
    order in which they are named."""

    h: Float[Tensor, "token d_model"]
    mention: Int[Tensor, " token"]
    counts: Int[Tensor, " row"]
    n_parts: int = 1

    @staticmethod
    def of(state: State) -> CachedStates:
        """What a whole forward collected."""
        tokens = state.tokens
        return CachedStates(state.h.detach(), tokens.mention.cpu(), tokens.counts.cpu(), tokens.n_parts)

    def rows(self, index: Int[Tensor, " batch"], device: torch.device) -> State:
        """The states of some rows."""
        if each := self.tokens_per_row:
            h, mention = (
                t.unflatten(0, (-1, each)).index_select(0, index.to(t.device)).flatten(0, 1)
                for t in (self.h, self.mention)
            )
            tokens = replace(_equally_many(len(index), each), mention=mention, n_parts=self.n_parts)
            return State(h.to(device), tokens)
        counts = self.counts[index]
        row = torch.repeat_interleave(torch.arange(len(index)), counts)
        ordinal = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]
        token = (self.counts.cumsum(0) - self.counts)[index][row] + ordinal
        tokens = Tokens(row, ordinal, ordinal, self.mention[token], counts, n_parts=self.n_parts)
        return State(self.h[token.to(self.h.device)].to(device), tokens)

    @cached_property
    def tokens_per_row(self) -> int:
        """How many tokens every row has; 0 where rows differ."""
        return int(self.counts[0]) if len(self.counts) and bool((self.counts == self.counts[0]).all()) else 0

    @staticmethod
    def joined(parts: Sequence[CachedStates], order: Int[Tensor, " row"]) -> CachedStates:
        """The parts as one, with rows in the order of the dataset."""
        h, mention, counts = (torch.cat([getattr(p, name) for p in parts]) for name in ("h", "mention", "counts"))
        back = torch.empty_like(order).index_put((order,), torch.arange(len(order)))
        return CachedStates.of(CachedStates(h, mention, counts, parts[0].n_parts).rows(back, h.device))

    @property
    def bytes(self) -> int:
        """Memory that the states take."""
        return self.h.numel() * self.h.element_size()


@lru_cache(maxsize=64)
def _equally_many(n_rows: int, each: int) -> Tokens:
    row = torch.arange(n_rows).repeat_interleave(each)
    ordinal = torch.arange(each).repeat(n_rows)
    return Tokens(row, ordinal, ordinal, ordinal, torch.full((n_rows,), each))


def source_runs(graph: InterventionGraph) -> tuple[str, ...]:
    """The runs before the base run, in order: all whose states its edits take."""
    return graph.runs[: graph.runs.index("base")]


def why_not_cached(graph: InterventionGraph) -> str:
    """Why the states of the source runs change from step to step; empty where they do not."""
    sources = set(source_runs(graph))
    for name, node in graph.edits.items():
        if node.run not in sources:
            continue
        if (
            is_trainable(node)
            or node.dropout
            or any(isinstance(part, Mask) for held in held_modules(node).values() for part in held.modules())
        ):
            return f"node {name!r} edits run {node.run!r}, from which the base run takes states, and is trained"
    return ""


class SourceRuns:
    """Collects, for some rows, what the base run takes from other runs.

    Args:
        model: the base model.
        graph: the edits of those runs, and a Collect for every state that is taken.
    """

    def __init__(self, model: nn.Module, graph: InterventionGraph) -> None:
        self.model, self.graph = model, graph
        self.keys = tuple((node.run, node.site) for node in graph.collects.values() if node.site is not None)
        self.backend = HookBackend(model, graph)

    @staticmethod
    def of(model: nn.Module, graph: InterventionGraph) -> SourceRuns:
        """What the base run of a graph takes."""
        edits = {name: node for name, node in graph.edits.items() if node.run in source_runs(graph)}
        needs = [need for node in graph.edits.values() if node.run == "base" for need in node.needs()]
        taken = dict.fromkeys((need.run, need.site) for need in needs if need.run != "base")
        collects = {f"state_{i}": Collect(run, site) for i, (run, site) in enumerate(taken)}
        return SourceRuns(model, InterventionGraph(**edits, **collects))

    @staticmethod
    def shared(runs: Sequence[SourceRuns]) -> list[SourceRuns]:
        """For each the one that collects in its place: a common one for all whose runs hold no edits."""
        plain = [each for each in runs if not each.graph.edits]
        collects = {(c.run, c.site): c for each in plain for c in each.graph.collects.values()}
        nodes = {f"state_{i}": collect for i, collect in enumerate(collects.values())}
        common = SourceRuns(plain[0].model, InterventionGraph(**nodes)) if plain else None
        return [each if common is None or each.graph.edits else common for each in runs]

    @torch.no_grad()
    def collect(self, inputs: Mapping[str, Inputs]) -> dict[Key, CachedStates]:
        """One pass for each run, stopped at its deepest site."""
        states: States = {}
        with computed_once():
            for run in self.graph.runs:
                if run in inputs:
                    self.backend.forward(run, inputs[run], states, training=False, wants_output=False)
        return {key: CachedStates.of(states[key]) for key in self.keys}


def run_inputs(
    model: nn.Module, examples: Examples, rows: Int[Tensor, " batch"], runs: Sequence[str]
) -> dict[str, Inputs]:
    """The parsed inputs of some rows, on the model's device."""
    device = device_of(model)
    batch = examples.rows(rows)
    return {run: parse_inputs(run, on_device(batch.runs[run], device), model) for run in runs}


class SourceCachePasses(Passes):
    """States of other runs from the cache, the base run under its edits for every batch."""

    def __init__(self, model: IntervenedModel, examples: Examples, memory: int) -> None:
        self.model, self.examples, self.memory = model, examples, memory
        self.sources = SourceRuns.of(model.base_model, model.graph)
        edits = {name: node for name, node in model.graph.edits.items() if node.run == "base"}
        self.backend = HookBackend(model.base_model, InterventionGraph(**edits))
        self.plain = isinstance(examples.runs["base"], Tensor)
        self.cached: dict[Key, CachedStates] | None = None
        self.early: dict[nn.Module, Tensor] = {}
        self.rebuilds = False

    @staticmethod
    def refused(model: IntervenedModel) -> str:
        """Why nothing can be cached; empty where it can."""
        return why_not_cached(model.graph)

    def scored(self, rows: Int[Tensor, " row"], caches: bool = True) -> TargetLogits:
        if caches and self.cached is None and not self.rebuilds:
            self._build()
        cached, index = (
            (self.cached, rows) if self.cached is not None else (self._collect(rows), torch.arange(len(rows)))
        )
        states: States = {key: found.rows(index, self.model.device) for key, found in cached.items()}
        batch = self.examples.of_base().rows(rows)
        inputs = parse_inputs("base", on_device(batch.base, self.model.device), self.model.base_model)
        with _returning(
            {module: values.index_select(0, rows.to(values.device)) for module, values in self.early.items()}
        ):
            output = self.backend.forward("base", inputs, states, training=self.model.training, wants_output=True)
        reads = TargetPositions.of(batch)
        return TargetLogits(reads.take(logits_of(output)), reads)

    def explain(self) -> str:
        return "states of other runs once for every example, the base run for every batch"

    @property
    def ineffective(self) -> Mapping[str, str]:
        return {}

    def _collect(self, rows: Tensor) -> dict[Key, CachedStates]:
        runs = source_runs(self.model.graph)
        return (
            self.sources.collect(run_inputs(self.model.base_model, self.examples, rows, runs))
            if self.sources.keys
            else {}
        )

    def _build(self) -> None:
        parts, order = [], torch.arange(len(self.examples))
        for rows in order.split(CHUNK):
            parts.append(self._collect(rows))
            size = sum(states.bytes for states in parts[-1].values()) / len(rows)
            if size * len(order) > self.memory:
                self.rebuilds = True
                return
        self.cached = {key: CachedStates.joined([part[key] for part in parts], order) for key in parts[0]}
        if self.plain:
            self.early = self._early(order)

    @torch.no_grad()
    def _early(self, order: Tensor) -> dict[nn.Module, Tensor]:
        """The outputs of all outermost modules that finish before the first edited port."""
        ports = {(port.location.module, port.location.port) for port in self.backend.work["base"]}
        parts: list[dict[nn.Module, Tensor]] = []
        for rows in order.split(CHUNK):
            inputs = run_inputs(self.model.base_model, self.examples, rows, ("base",))["base"]
            parts.append(finished_before(self.model.base_model, ports, inputs.args, len(rows)))
        common = [m for m in parts[0] if all(m in part for part in parts)] if parts else []
        size = sum(parts[0][m].numel() * parts[0][m].element_size() for m in common) / max(len(order[:CHUNK]), 1)
        return {m: torch.cat([part[m] for part in parts]) for m in common} if size * len(order) <= self.memory else {}


def finished_before(
    model: nn.Module, ports: set[tuple[nn.Module, str]], args: tuple[Any, ...], n_rows: int
) -> dict[nn.Module, Tensor]:
    """Module -> output, for the outermost modules that have finished when the first of the ports is reached.

    Left out: modules that run more than once, and those that return anything but one tensor with a row axis.
    """
    calls: dict[nn.Module, int] = {}
    found: dict[nn.Module, Tensor | None] = {}
    reached = False

    def entered(module: nn.Module, args: Any) -> None:
        nonlocal reached
        calls[module] = calls.get(module, 0) + 1
        reached = reached or (module, "input") in ports

    def left(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal reached
        if reached or module is model:
            return
        for inner in module.modules():
            found.pop(inner, None)
        found[module] = output if isinstance(output, Tensor) and output.ndim > 0 and len(output) == n_rows else None
        reached = (module, "output") in ports

    with ExitStack() as stack:
        stack.enter_context(running(model))
        for module in model.modules():
            stack.callback(module.register_forward_pre_hook(in_this_thread(entered)).remove)
            stack.callback(module.register_forward_hook(in_this_thread(left)).remove)
        model(*args)
    return {
        m: out for m, out in found.items() if out is not None and all(calls.get(inner, 0) <= 1 for inner in m.modules())
    }


@contextmanager
def _returning(outputs: Mapping[nn.Module, Tensor]) -> Iterator[None]:
    """Inside, modules return these outputs and compute nothing."""
    with ExitStack() as stack:
        for module, output in outputs.items():
            stack.enter_context(replaced_forward(module, lambda *args, output=output, **kwargs: output))
        yield
