"""The hook executor: plain torch, for local training, evaluation and generation.

One hook for each (module, port) that the graph touches; it hands the value there to `transform` and puts back what comes
out. Only our own hooks are ever removed, also after an exception. Under gradient checkpointing they stay until the
backward pass is over, because the recomputation must make the same edits; outside a forward of ours they do nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from causal_reft.errors import GraphError, PositionError, SiteError
from causal_reft.execution.inputs import Frame
from causal_reft.execution.transform import Edit, Place, States, transform
from causal_reft.graph import Interchange
from causal_reft.sites import Location, Site
from causal_reft.tensors import Tensor


@dataclass(frozen=True)
class PortWork:
    """Everything that one run does at one (module, port), located once for a model."""

    location: Location
    edits: tuple[tuple[str, Interchange, Location], ...] = ()
    reads: tuple[tuple[Site, Location], ...] = ()
    keeps: tuple[tuple[Site, Location], ...] = ()


class StopForward(Exception):  # noqa: N818 - control flow, not an error
    """Raised inside a forward whose remaining layers nobody needs."""


class Watch:
    """One forward (or one `generate`) of one run under its hooks."""

    def __init__(self, run: str, work: Sequence[PortWork], frame: Frame, states: States, training: bool, stop: bool) -> None:
        self.run, self.work, self.frame, self.states = run, work, frame, states
        self.training, self.stop = training, stop
        self.live = False
        self.fired: dict[tuple[str, str], int] = {port.location.key: 0 for port in work}
        self.handles: list[RemovableHandle] = []

    def see(self, port: PortWork, value: Any) -> Any:
        """The new value at a port."""
        stream, rebuild = find_tensor(value, port.location)
        self._count(port)
        shaped, unshape = _with_positions(stream, self.frame.inputs.batch, port.location)
        new, kept = transform(
            shaped,
            self.run,
            [Edit(name, node, self._place(name, node.site, where, shaped), self.frame.repeats(len(shaped))) for name, node, where in port.edits],
            [self._place(None, site, where, shaped) for site, where in port.reads],
            [self._place(None, site, where, shaped) for site, where in port.keeps],
            self.states,
            self.training,
        )
        if self.live:
            self.states.update(kept)
            if self.stop and all(self.fired.values()):
                raise StopForward
        return value if new is shaped else rebuild(unshape(new))

    def _place(self, name: str | None, site: Site, location: Location, stream: Tensor) -> Place:
        tokens = self.frame.tokens(name, site.where, stream.shape[0], stream.shape[1], stream.device)
        return Place(site, location, tokens)

    def _count(self, port: PortWork) -> None:
        if not self.live or self.frame.decoding:
            return
        self.fired[port.location.key] += 1
        if self.fired[port.location.key] > 1:
            raise SiteError(
                f"{port.location.path!r} runs more than once in one forward pass, so 'its {port.location.port}' has no single "
                f"meaning. Name a module that runs once."
            )

    def acts(self) -> bool:
        """Inside our own forward, or while autograd recomputes it."""
        return self.live or torch._C._current_graph_task_id() != -1

    def remove(self) -> None:
        """Take our hooks off."""
        while self.handles:
            self.handles.pop().remove()


@contextmanager
def watching(watch: Watch, keep: bool = False) -> Iterator[Watch]:
    """Our hooks are on inside; afterwards they are off, or (keep) only answer autograd's recomputation until `remove`."""
    watch.live = True
    try:
        for port in watch.work:
            watch.handles.append(_attach(port, watch))
        yield watch
        _all_reached(watch)
    except BaseException:
        keep = False
        raise
    finally:
        watch.live = False
        if not keep:
            watch.remove()


def _attach(port: PortWork, watch: Watch) -> RemovableHandle:
    if port.location.port == "output":

        def after(module: nn.Module, args: Any, output: Any) -> Any:
            return watch.see(port, output) if watch.acts() else None

        return port.location.module.register_forward_hook(after)
    if port.location.port == "input":

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return _see_input(watch, port, args, kwargs) if watch.acts() else None

        return port.location.module.register_forward_pre_hook(before, with_kwargs=True)
    raise SiteError(
        f"{port.location.path!r}, port {port.location.port!r}: a value inside a forward is reached by the nnsight executor "
        f"only. Write IntervenedModel(..., executor='nnsight')."
    )


def _see_input(watch: Watch, port: PortWork, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    if args and isinstance(args[0], Tensor):
        return (watch.see(port, args[0]), *args[1:]), kwargs
    name = next((key for key, value in kwargs.items() if isinstance(value, Tensor) and value.is_floating_point()), None)
    if name is None:
        raise SiteError(f"{port.location.path!r} is not called with a tensor, so it has no 'input' port.")
    return args, {**kwargs, name: watch.see(port, kwargs[name])}


def find_tensor(value: Any, location: Location) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """The hidden state in what a module returns, and how to put another in its place."""
    if isinstance(value, Tensor):
        return value, lambda new: new
    if isinstance(value, (tuple, list)) and value and isinstance(value[0], Tensor):
        return value[0], lambda new: type(value)((new, *value[1:]))
    if isinstance(value, Mapping):
        name = next((key for key, item in value.items() if isinstance(item, Tensor) and item.is_floating_point()), None)
        if name is not None:
            return value[name], lambda new: type(value)(**{**value, name: new})
    raise SiteError(
        f"{location.path!r} gives a {type(value).__name__} at its {location.port}, not a tensor or a tuple that starts with "
        f"one. Name a module inside it."
    )


def _with_positions(stream: Tensor, batch: int, location: Location) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The value as (batch, pos, width): modules without a position axis get one of length 1; flattened tokens are unfolded."""
    if not stream.is_floating_point():
        raise SiteError(f"{location.path!r} has {stream.dtype} values at its {location.port}; only real-valued states can be intervened on.")
    if stream.ndim == 3:
        return stream, lambda new: new
    if stream.ndim == 2 and len(stream) % batch == 0:
        shape = stream.shape
        return stream.reshape(batch, -1, shape[-1]), lambda new: new.reshape(shape)
    raise PositionError(
        f"{location.path!r} has a value of shape {tuple(stream.shape)} for a batch of {batch} rows; a site needs "
        f"(batch, positions, width), or (batch, width) without positions."
    )


def _all_reached(watch: Watch) -> None:
    """After a forward that was not stopped early, every hook must have been called."""
    if watch.frame.decoding:
        return
    missed = [path for (path, _), times in watch.fired.items() if not times]
    if missed:
        raise GraphError(f"Run {watch.run!r} never reached {', '.join(map(repr, missed))}: the model's forward does not call it with these inputs.")


def window_hook(model: nn.Module, frame: Frame, watch: Watch, prefill_only: bool) -> RemovableHandle:
    """Before each forward of `generate`: note which columns it computes; once the prompt is done and nothing more is to edit, leave."""
    text = frame.inputs.width or 0

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        cache = kwargs.get("past_key_values")
        frame.offset = 0 if cache is None else int(cache.get_seq_length())
        if prefill_only and frame.offset >= text:
            watch.remove()

    return model.register_forward_pre_hook(before, with_kwargs=True)
