"""What a backend is: it runs the model once for one run, hands every value at a site to `transform`, and no more."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from causal_reft.errors import RunError, SiteError
from causal_reft.execution.block_shortcuts import collecting, is_hooked
from causal_reft.execution.checkpointing import carrying_edits, recomputes
from causal_reft.execution.hooks import StopForward, Watch, follow_windows, watching
from causal_reft.execution.inputs import Inputs
from causal_reft.execution.locating import locate_graph
from causal_reft.execution.row_check import check_row_axis
from causal_reft.execution.threads import in_this_thread, one_at_a_time
from causal_reft.execution.transform import States
from causal_reft.execution.visit import PortWork, Visit
from causal_reft.graph import InterventionGraph
from causal_reft.sites import unwrapped


class Backend(ABC):
    """Abstract: runs one run of a graph on a model."""

    @abstractmethod
    def forward(self, run: str, inputs: Inputs, states: States, *, training: bool, wants_output: bool) -> Any:
        """One forward pass of `run`; collected states are added to `states`.

        Returns the model's output, or `None` when it is not wanted (the pass may then stop at the deepest site).
        """

    @abstractmethod
    def generate(self, inputs: Inputs, states: States, **options: Any) -> Any:
        """The model's own `generate` on the base run under its edits."""


class HookBackend(Backend):
    """Torch hooks on the user's own model object.

    Raises:
        SiteError: a site that the model does not have, or one inside a forward.
        RunError: when it runs, a model without weights.
    """

    def __init__(self, model: nn.Module, graph: InterventionGraph) -> None:
        self.model, self.graph = model, graph
        self.work: dict[str, tuple[PortWork, ...]] = locate_graph(graph, model)
        for port in (port for ports in self.work.values() for port in ports):
            if port.location.port not in ("input", "output"):
                raise SiteError(
                    f"{port.location.path!r}, port {port.location.port!r}: a value inside a forward is reached by the "
                    "nnsight backend only. Write IntervenedModel(..., backend='nnsight')."
                )

    def forward(self, run: str, inputs: Inputs, states: States, *, training: bool, wants_output: bool) -> Any:
        check_weights(self.model)
        with one_at_a_time(self.model):
            return self._forward(run, inputs, states, training, wants_output)

    def _forward(self, run: str, inputs: Inputs, states: States, training: bool, wants_output: bool) -> Any:
        visit = Visit(run, self.work[run], inputs, states, training)
        if not wants_output and not visit.work:
            return None
        checkpointing = recomputes(self.model)
        whole = wants_output or checkpointing or offloaded(self.model) or is_hooked(self.model)
        watch = Watch(visit, stop=not whole)
        checkpoints = checkpointing or (self.model.training and not torch.is_grad_enabled())
        carrying = carrying_edits(self.model, watch) if checkpoints else nullcontext()
        less = nullcontext(inputs) if whole else collecting(self.model, visit, inputs)
        try:
            with less as given, watching(watch, self.model), carrying, eagerly(self.model):
                output = self.model(*given.args, **given.kwargs)
        except StopForward:
            output = None
        if visit.doubted:
            check_row_axis(self.model, visit, self._look)
        return output if wants_output else None

    def _look(self, visit: Visit) -> None:
        """One whole forward in which a visit only collects."""
        inputs = visit.frame.inputs
        with watching(Watch(visit), self.model), eagerly(self.model):
            self.model(*inputs.args, **inputs.kwargs)

    def generate(self, inputs: Inputs, states: States, **options: Any) -> Any:
        check_weights(self.model)
        visit = Visit("base", self.work["base"], inputs, states, training=False, decoding=True)
        watch = Watch(visit)
        window = follow_windows(self.model, watch, prefill_only=not edits_generated(self.graph))
        try:
            with one_at_a_time(self.model), watching(watch, self.model), torch.compiler.set_stance("force_eager"):
                output = self.model.generate(*inputs.args, **inputs.kwargs, **options)  # type: ignore[operator]
        finally:
            window.remove()
        if visit.doubted:
            check_row_axis(self.model, visit, self._look)
        return output


def edits_generated(graph: InterventionGraph) -> bool:
    """Whether any edit of the base run goes on after the prompt."""
    return any(node.site.where.generated for node in graph.edits.values() if node.run == "base")


def offloaded(model: nn.Module) -> bool:
    """Whether accelerate moves weights around each forward, which must then run to its end."""
    return any(getattr(module, "_hf_hook", None) is not None for module in model.modules())


def check_weights(model: nn.Module) -> None:
    """A model that runs here has numbers in its weights.

    Raises:
        RunError: its weights are on `meta`, and nothing brings them along during the forward.
    """
    first = next(model.parameters(), None)
    if first is not None and first.is_meta and not offloaded(model):
        raise RunError(
            f"This {type(model).__name__} is on meta: it has shapes and no numbers. Load it with its weights: "
            f"from_pretrained(...) outside of torch.device('meta')."
        )


@contextmanager
def running(model: nn.Module) -> Iterator[None]:
    """Inside, a model whose forward a plan has changed runs as plain Python and not within itself.

    Raises:
        RunError: a hook calls the model while it runs.
    """
    root, depth = unwrapped(model), 0

    def entered(module: nn.Module, args: Any) -> None:
        nonlocal depth
        depth += 1
        if depth > 1:
            raise RunError(
                f"A hook of this {type(root).__name__} calls it while a plan runs it, which cannot be right for both "
                "texts. Remove the hook, call a copy of the model in it, or compute in full: passes=FullPasses."
            )

    def left(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal depth
        depth -= 1

    handles = (
        root.register_forward_pre_hook(in_this_thread(entered)),
        root.register_forward_hook(in_this_thread(left), always_call=True),
    )
    try:
        with eagerly(model):
            yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def eagerly(model: nn.Module) -> Iterator[None]:
    """Inside, what `torch.compile` made runs as plain Python: a compiled forward would not see our hooks."""
    if unwrapped(model) is model and not any(module._compiled_call_impl is not None for module in model.modules()):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
