"""Gradient checkpointing: what is recomputed during backward is recomputed under the same edits.

A transformers layer hands its forward to a checkpoint function, which calls it once now and once more in backward.
For the time of our forward we hand over a forward that brings its edits along: called again, it puts our hooks on,
runs, and takes them off. So nothing stays on the model in between, and several forwards may wait for their backward
at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from causal_reft.errors import GraphError, RunError
from causal_reft.execution.hooks import Watch
from causal_reft.execution.threads import here_or_else
from causal_reft.execution.visit import PortWork
from causal_reft.featurizers import uncached
from causal_reft.tensors import Tensor

_FUNCTION = "_gradient_checkpointing_func"


def enable_checkpointing(model: nn.Module, options: dict[str, Any] | None, every_n_layers: int, offload: bool) -> None:
    """Turn on transformers' checkpointing, by the name that it has in the installed version.

    Raises:
        RunError: a model that has none.
    """
    enable, older = (getattr(model, f"{word}_checkpointing_enable", None) for word in ("activation", "gradient"))
    if enable is not None:
        enable(options, every_n_layers=every_n_layers, offload=offload)
    elif older is not None and every_n_layers == 1 and not offload:
        older(options)
    else:
        raise RunError(
            f"{type(model).__name__} has no activation checkpointing of this kind; transformers models have. "
            "Train it without."
        )


def recomputes(model: nn.Module) -> bool:
    """Whether gradient checkpointing will run parts of the forward again during backward."""
    return torch.is_grad_enabled() and any(
        getattr(module, "gradient_checkpointing", False) and module.training for module in model.modules()
    )


@contextmanager
def carrying_edits(model: nn.Module, watch: Watch) -> Iterator[None]:
    """Inside, every checkpointed layer that a watched port lies in is recomputed under the watch's edits.

    Where no gradients are asked for, nothing is kept to be recomputed and layers run as they are.
    """
    replaced = [module for module in model.modules() if _FUNCTION in module.__dict__]
    originals = [module.__dict__[_FUNCTION] for module in replaced]
    for module, original in zip(replaced, originals, strict=True):
        ports = [port for port in watch.visit.work if _inside(port, module)]
        if not torch.is_grad_enabled():
            setattr(module, _FUNCTION, here_or_else(_directly, original))
        elif ports:
            setattr(module, _FUNCTION, here_or_else(_carrying(original, watch, ports), original))
    try:
        yield
    finally:
        for module, original in zip(replaced, originals, strict=True):
            setattr(module, _FUNCTION, original)


def _directly(forward: Callable[..., Any], *args: Any) -> Any:
    return forward(*args)


def _inside(port: PortWork, module: nn.Module) -> bool:
    return any(inner is port.location.module for inner in module.modules())


def _carrying(checkpoint: Callable[..., Any], watch: Watch, ports: list[PortWork]) -> Callable[..., Any]:
    """The checkpoint function, given a forward that brings its edits along."""

    def function(forward: Callable[..., Any], *args: Any) -> Any:
        grad_outside = torch.is_grad_enabled()

        def under_edits(*inputs: Any) -> Any:
            if watch.live and grad_outside and not torch.is_grad_enabled():
                _refuse_lost_gradients(watch, ports)
            with uncached(), watch.recomputing(ports):
                return forward(*inputs)

        return checkpoint(under_edits, *_differentiable(args))

    return function


def _differentiable(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments, one of which requires grad: reentrant checkpointing gives no gradients to what is inside
    otherwise."""
    if not torch.is_grad_enabled() or any(isinstance(arg, Tensor) and arg.requires_grad for arg in args):
        return args
    return tuple(
        arg.detach().requires_grad_() if isinstance(arg, Tensor) and arg.is_floating_point() else arg for arg in args
    )


def _refuse_lost_gradients(watch: Watch, ports: list[PortWork]) -> None:
    """Reentrant checkpointing runs its first forward without a graph, so what is collected in it has no gradient."""
    for port in ports:
        if port.reads or port.collects:
            site = (*port.reads, *port.collects)[0][0]
            raise GraphError(
                f"Run {watch.visit.run!r} collects {site!r} inside a layer under reentrant gradient checkpointing, "
                "which would lose its gradient. Enable checkpointing with use_reentrant=False, or wrap the call in "
                "torch.no_grad()."
            )
