"""States that other runs lend to the base run: collected once for every example, then looked up.

A run that holds nothing trained sees the same states in every step. Runs without edits are shared by all graphs that
are computed together, and left at the deepest site that anybody reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from torch import nn

from causal_reft.execution.backend import HookBackend
from causal_reft.execution.examples import Examples
from causal_reft.execution.inputs import Inputs, RunInputs, parse_inputs
from causal_reft.execution.locating import device_of, is_trainable
from causal_reft.execution.transform import State, States
from causal_reft.featurizers import Mask, computed_once
from causal_reft.graph import Collect, InterventionGraph
from causal_reft.graph.intervention_graph import held_modules
from causal_reft.sites import Site, Tokens
from causal_reft.tensors import Float, Int, Tensor

Key = tuple[str, Site]


@dataclass(frozen=True)
class Kept:
    """The states of one site of one run for some rows, one behind the other; `counts` tokens of each row, in the order
    in which they are named."""

    h: Float[Tensor, "token d_model"]
    mention: Int[Tensor, " token"]
    counts: Int[Tensor, " row"]
    n_parts: int = 1

    def rows(self, index: Int[Tensor, " batch"], device: torch.device) -> State:
        """The states of some rows."""
        if self.each is not None:
            h, mention = (
                t.unflatten(0, (-1, self.each)).index_select(0, index.to(t.device)).flatten(0, 1)
                for t in (self.h, self.mention)
            )
            tokens = replace(_same_number(len(index), self.each), mention=mention, n_parts=self.n_parts)
            return State(h.to(device), tokens)
        counts = self.counts[index]
        row = torch.repeat_interleave(torch.arange(len(index)), counts)
        ordinal = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]
        token = (self.counts.cumsum(0) - self.counts)[index][row] + ordinal
        tokens = Tokens(row, ordinal, ordinal, self.mention[token], counts, n_parts=self.n_parts)
        return State(self.h[token.to(self.h.device)].to(device), tokens)

    @cached_property
    def each(self) -> int | None:
        """How many tokens every row has, where that is the same for all."""
        return (
            int(self.counts[0])
            if len(self.counts) and bool((self.counts == self.counts[0]).all()) and int(self.counts[0])
            else None
        )

    @staticmethod
    def joined(parts: Sequence[Kept], order: Int[Tensor, " row"]) -> Kept:
        """The parts as one, then their rows brought back into the order of the dataset."""
        h, mention, counts = (torch.cat([getattr(p, name) for p in parts]) for name in ("h", "mention", "counts"))
        back = torch.empty_like(order).index_put((order,), torch.arange(len(order)))
        return Kept.of(Kept(h, mention, counts, parts[0].n_parts).rows(back, h.device))

    @staticmethod
    def of(state: State) -> Kept:
        """What a whole forward collected."""
        tokens = state.tokens
        return Kept(state.h.detach(), tokens.mention.cpu(), tokens.counts.cpu(), tokens.n_parts)

    @property
    def bytes(self) -> int:
        """Memory that the states take."""
        return self.h.numel() * self.h.element_size()


@lru_cache(maxsize=64)
def _same_number(n_rows: int, each: int) -> Tokens:
    row = torch.arange(n_rows).repeat_interleave(each)
    ordinal = torch.arange(each).repeat(n_rows)
    return Tokens(row, ordinal, ordinal, ordinal, torch.full((n_rows,), each))


def lending_runs(graph: InterventionGraph) -> tuple[str, ...]:
    """The runs before the base run, in order: all that its edits wait for."""
    return graph.runs[: graph.runs.index("base")]


def why_not_kept(graph: InterventionGraph) -> str:
    """Why the states of the lending runs change from step to step; empty where they do not."""
    lending = set(lending_runs(graph))
    for name, node in graph.edits.items():
        if node.run not in lending:
            continue
        if (
            is_trainable(node)
            or node.dropout
            or any(isinstance(part, Mask) for held in held_modules(node).values() for part in held.modules())
        ):
            return f"node {name!r} edits run {node.run!r}, from which the base run takes states, and is trained"
    return ""


def wanted_states(graph: InterventionGraph) -> dict[Key, None]:
    """(run, site) of every state that an edit of the base run takes from another run."""
    edits = [node for node in graph.edits.values() if node.run == "base"]
    return {
        (need.run, need.site): None
        for node in edits
        for need in node.needs()
        if need.run != "base" and need.site is not None
    }


class Lender:
    """Collects, for some rows, what the base run takes from other runs.

    Args:
        model: the base model.
        graph: the edits of those runs, and a Collect for every state that is wanted.
    """

    def __init__(self, model: nn.Module, graph: InterventionGraph) -> None:
        self.model, self.graph = model, graph
        self.wanted = tuple((node.run, node.site) for node in graph.collects.values() if node.site is not None)
        self.backend = HookBackend(model, graph)

    @staticmethod
    def of(model: nn.Module, graph: InterventionGraph) -> Lender:
        """What the base run of a graph takes."""
        edits = {name: node for name, node in graph.edits.items() if node.run in lending_runs(graph)}
        collects = {f"wanted_{i}": Collect(run, site) for i, (run, site) in enumerate(wanted_states(graph))}
        return Lender(model, InterventionGraph(**edits, **collects))

    @staticmethod
    def shared(lenders: Sequence[Lender]) -> list[Lender]:
        """For each lender the one to ask: a common one for all whose runs hold no edits."""
        plain = [lender for lender in lenders if not lender.graph.edits]
        collects = {(c.run, c.site): c for lender in plain for c in lender.graph.collects.values()}
        nodes = {f"wanted_{i}": collect for i, collect in enumerate(collects.values())}
        common = Lender(plain[0].model, InterventionGraph(**nodes)) if plain else None
        return [lender if common is None or lender.graph.edits else common for lender in lenders]

    @torch.no_grad()
    def collect(self, runs: Mapping[str, Inputs]) -> dict[Key, Kept]:
        """One pass for each run, left at its deepest site."""
        states: States = {}
        with computed_once():
            for run in self.graph.runs:
                if run in runs:
                    self.backend.forward(run, runs[run], states, training=False, wants_output=False)
        return {key: Kept.of(states[key]) for key in self.wanted}


def run_inputs(
    model: nn.Module, examples: Examples, rows: Int[Tensor, " batch"], runs: Sequence[str]
) -> dict[str, Inputs]:
    """The parsed inputs of some rows, on the model's device."""
    device = device_of(model)
    batch = examples.rows(rows)
    return {run: parse_inputs(run, on_device(batch.runs[run], device), model) for run in runs}


def on_device(inputs: RunInputs, device: torch.device) -> RunInputs:
    """A run's tensors on a device."""
    if isinstance(inputs, Tensor):
        return inputs.to(device)
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in inputs.items()}


def rows_by_length(examples: Examples) -> Int[Tensor, " row"]:
    """All rows, those of similar length side by side, so that batches hold little padding."""
    base = examples.runs["base"]
    mask = None if isinstance(base, Tensor) else base.get("attention_mask")
    return torch.arange(len(examples)) if mask is None or mask.ndim != 2 else mask.sum(1).cpu().argsort(stable=True)
