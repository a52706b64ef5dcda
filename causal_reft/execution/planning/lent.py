"""The base run in full, what other runs lend it kept: the shortcut that holds for every model.

In a plain module, moreover, everything that is computed before the first edit is the same in every step, whatever the
module's shape: the outputs of all modules that finish before the first edited port are kept, row by row, and returned
instead of being computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from causal_reft.execution.backend import HookBackend
from causal_reft.execution.cells import forward_is
from causal_reft.execution.examples import Examples, TargetPositions
from causal_reft.execution.inputs import parse_inputs
from causal_reft.execution.intervened_model import IntervenedModel
from causal_reft.execution.passes import Passes, TargetLogits, logits_of
from causal_reft.execution.planning.collected import (
    Kept,
    Key,
    Lender,
    lending_runs,
    on_device,
    run_inputs,
    why_not_kept,
)
from causal_reft.execution.threads import in_this_thread
from causal_reft.execution.transform import States
from causal_reft.graph import InterventionGraph
from causal_reft.tensors import Int, Tensor

CHUNK = 256


class LentPasses(Passes):
    """States of other runs kept, the base run under its edits for every batch."""

    def __init__(self, model: IntervenedModel, examples: Examples, memory: int) -> None:
        self.model, self.examples, self.memory = model, examples, memory
        self.lender = Lender.of(model.base_model, model.graph)
        edits = {name: node for name, node in model.graph.edits.items() if node.run == "base"}
        self.backend = HookBackend(model.base_model, InterventionGraph(**edits))
        self.plain = isinstance(examples.runs["base"], Tensor)
        self.kept: dict[Key, Kept] | None = None
        self.early: dict[nn.Module, Tensor] = {}
        self.rebuilds = False

    @staticmethod
    def refused(model: IntervenedModel) -> str:
        """Why nothing can be kept; empty where it can."""
        return why_not_kept(model.graph)

    def scored(self, rows: Int[Tensor, " row"]) -> TargetLogits:
        if self.kept is None and not self.rebuilds:
            self._build()
        lent, index = (self.kept, rows) if self.kept is not None else (self._collect(rows), torch.arange(len(rows)))
        states: States = {key: kept.rows(index, self.model.device) for key, kept in lent.items()}
        batch = self.examples.of_base().rows(rows)
        inputs = parse_inputs("base", on_device(batch.base, self.model.device), self.model.base_model)
        with _returned(
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

    def forget(self) -> None:
        """Drop what was kept."""
        self.kept, self.early, self.rebuilds = None, {}, False

    def _collect(self, rows: Tensor) -> dict[Key, Kept]:
        runs = lending_runs(self.model.graph)
        return (
            self.lender.collect(run_inputs(self.model.base_model, self.examples, rows, runs))
            if self.lender.wanted
            else {}
        )

    def _build(self) -> None:
        parts, order = [], torch.arange(len(self.examples))
        for rows in order.split(CHUNK):
            parts.append(self._collect(rows))
            size = sum(kept.bytes for kept in parts[-1].values()) / len(rows)
            if size * len(order) > self.memory:
                self.rebuilds = True
                return
        self.kept = {key: Kept.joined([part[key] for part in parts], order) for key in parts[0]}
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
    """Module -> output, for the outermost modules that are over when the first of the ports is reached.

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
        for module in model.modules():
            stack.callback(module.register_forward_pre_hook(in_this_thread(entered)).remove)
            stack.callback(module.register_forward_hook(in_this_thread(left)).remove)
        model(*args)
    return {
        m: out for m, out in found.items() if out is not None and all(calls.get(inner, 0) <= 1 for inner in m.modules())
    }


@contextmanager
def _returned(outputs: Mapping[nn.Module, Tensor]) -> Iterator[None]:
    """Modules return what they are known to return, and compute nothing."""
    with ExitStack() as stack:
        for module, output in outputs.items():
            stack.enter_context(forward_is(module, lambda *args, output=output, **kwargs: output))
        yield
