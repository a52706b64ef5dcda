"""What an executor is: it runs the model once for one run, hands every value at a site to `transform`, and no more."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn

from causal_reft.execution.hooks import StopForward, Watch, watching, window_hook
from causal_reft.execution.inputs import Frame, Inputs
from causal_reft.execution.transform import States
from causal_reft.execution.wiring import PortWork, wire
from causal_reft.graph import InterventionGraph


class Executor(ABC):
    """Abstract: runs one run of a graph on a model."""

    @abstractmethod
    def forward(self, run: str, inputs: Inputs, states: States, *, training: bool, wants_output: bool) -> Any:
        """One forward pass of `run`; collected states are added to `states`.

        Returns the model's output, or `None` when it is not wanted (the pass may then stop at the deepest site).
        """

    @abstractmethod
    def generate(self, inputs: Inputs, states: States, **options: Any) -> Any:
        """The model's own `generate` on the base run under its edits."""


class HookExecutor(Executor):
    """Torch hooks on the user's own model object."""

    def __init__(self, model: nn.Module, graph: InterventionGraph) -> None:
        self.model, self.graph = model, graph
        self.work: dict[str, tuple[PortWork, ...]] = wire(graph, model)
        self._waiting: Watch | None = None

    def forward(self, run: str, inputs: Inputs, states: States, *, training: bool, wants_output: bool) -> Any:
        self.release()
        checkpointing = torch.is_grad_enabled() and recomputes(self.model)
        stop = not wants_output and not checkpointing and not offloaded(self.model)
        watch = Watch(run, self.work[run], Frame(inputs), states, training, stop)
        if not wants_output and not watch.work:
            return None
        with watching(watch, keep=checkpointing):
            try:
                output = self.model(*inputs.args, **inputs.kwargs)
            except StopForward:
                return None
        if checkpointing and watch.work:
            self._waiting = watch
            _release_after_backward(output, self)
        return output if wants_output else None

    def generate(self, inputs: Inputs, states: States, **options: Any) -> Any:
        self.release()
        frame = Frame(inputs, decoding=True)
        watch = Watch("base", self.work["base"], frame, states, False, False)
        prefill_only = not any(node.site.where.generated for node in self.graph.edits.values() if node.run == "base")
        window = window_hook(self.model, frame, watch, prefill_only)
        try:
            with watching(watch):
                return self.model.generate(*inputs.args, **inputs.kwargs, **options)  # type: ignore[operator]
        finally:
            window.remove()

    def release(self) -> None:
        """Drop hooks that still wait for a backward pass."""
        if self._waiting is not None:
            self._waiting.remove()
            self._waiting = None


def recomputes(model: nn.Module) -> bool:
    """Whether gradient checkpointing will run parts of the forward again during backward."""
    return any(getattr(module, "gradient_checkpointing", False) and module.training for module in model.modules())


def offloaded(model: nn.Module) -> bool:
    """Whether accelerate moves weights around each forward, which must then run to its end."""
    return any(getattr(module, "_hf_hook", None) is not None for module in model.modules())


def _release_after_backward(output: Any, executor: HookExecutor) -> None:
    """When the backward pass through any part of the output has ended, take the waiting hooks off."""

    def at_the_end(_: torch.Tensor) -> None:
        torch.autograd.Variable._execution_engine.queue_callback(executor.release)  # type: ignore[attr-defined]

    values = output.values() if isinstance(output, dict) else output if isinstance(output, tuple) else (output,)
    for value in values:
        if isinstance(value, torch.Tensor) and value.requires_grad:
            value.register_hook(at_the_end)
