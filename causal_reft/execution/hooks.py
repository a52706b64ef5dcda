"""Torch hooks at the ports of a run, and nothing left of them afterwards.

Only our own hooks are ever removed, also after an exception. Where backward recomputes a part of the forward, the part
brings its hooks along (`execution/checkpointing.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from causal_reft.errors import GraphError
from causal_reft.execution.threads import in_this_thread
from causal_reft.execution.visit import PortWork, Visit, find_input
from causal_reft.sites import Location, unwrapped


class StopForward(Exception):
    """Raised inside a forward whose remaining layers are not needed."""


class Watch:
    """The hooks of one visit. `stop`: leave the forward as soon as every port was reached."""

    def __init__(self, visit: Visit, stop: bool = False) -> None:
        self.visit, self.stop, self.live = visit, stop, False
        self.carries, self.depth = False, 0
        self.handles: list[RemovableHandle] = []

    def see(self, port: PortWork, value: Any) -> Any:
        """The new value at a port, in our own forward or while backward recomputes it.

        Raises:
            GraphError: the forward will be recomputed in a way that would not bring the edits along.
        """
        if self.live and not self.carries and _will_be_recomputed():
            raise GraphError(
                f"{port.location.path!r} lies inside a part that the model recomputes during backward by its own call "
                "of torch.utils.checkpoint, where edits would be lost. Turn that off, or use the model's "
                "gradient_checkpointing."
            )
        if self.depth > 1:  # a hook of the user's calls the model inside our call
            return value
        new = self.visit.see(port, value, again=not self.live)
        if self.live and self.stop and self.visit.complete:
            raise StopForward
        return new

    @contextmanager
    def recomputing(self, ports: Sequence[PortWork]) -> Iterator[None]:
        """Inside is a part of the forward that brings its edits along: now, or again during backward with hooks of
        its own."""
        was, mine = self.carries, Watch(self.visit)
        self.carries = True
        try:
            for port in () if self.live else ports:
                mine.attach(port)
            yield
        finally:
            self.carries = was
            mine.remove()

    def attach(self, port: PortWork) -> None:
        """A hook at one port."""
        self.handles.append(hook_at(port.location, partial(self.see, port)))

    def count_calls(self, model: nn.Module) -> None:
        """Notice calls of the model inside our own call, which are not ours."""

        def entered(module: nn.Module, args: Any) -> None:
            self.depth += 1

        def left(module: nn.Module, args: Any, output: Any) -> None:
            self.depth -= 1

        root = unwrapped(model)
        self.handles.append(root.register_forward_pre_hook(in_this_thread(entered), prepend=True))
        self.handles.append(root.register_forward_hook(in_this_thread(left), always_call=True))

    def remove(self) -> None:
        """Take our hooks off."""
        while self.handles:
            self.handles.pop().remove()


def hook_at(location: Location, see: Callable[[Any], Any]) -> RemovableHandle:
    """A hook that, in this thread, replaces the value at a port by what `see` returns for it."""

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = find_input(module, args, kwargs, location)
        if name is None:
            return (see(args[0]), *args[1:]), kwargs
        return args, {**kwargs, name: see(kwargs[name])}

    if location.port == "input":
        return location.module.register_forward_pre_hook(in_this_thread(before), with_kwargs=True)
    return location.module.register_forward_hook(in_this_thread(lambda module, args, output: see(output)))


@contextmanager
def watching(watch: Watch, model: nn.Module) -> Iterator[Watch]:
    """Our hooks are on inside, and off afterwards."""
    watch.live = True
    try:
        watch.count_calls(model)
        for port in watch.visit.work:
            watch.attach(port)
        yield watch
        watch.visit.check_complete()
    finally:
        watch.live = False
        watch.remove()


def _will_be_recomputed() -> bool:
    """Whether this runs inside `torch.utils.checkpoint` without reentrance."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)  # type: ignore[attr-defined]
    return hooks is not None and "_checkpoint_hook" in hooks[0].__qualname__


def follow_windows(model: nn.Module, watch: Watch, prefill_only: bool) -> RemovableHandle:
    """Follow the steps of `generate`; once the prompt is read and nothing more is to edit, leave."""

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if watch.visit.follow(args, kwargs) and prefill_only:
            watch.remove()

    return unwrapped(model).register_forward_pre_hook(in_this_thread(before), with_kwargs=True)
