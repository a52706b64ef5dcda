"""Torch's one kernel for what a model writes as a chain of elementwise steps: the same function, less memory traffic.

GPT-2's GELU in transformers takes eight steps over the widest activations there are, and keeps an intermediate of each
for backward. `torch.nn.functional.gelu(x, approximate="tanh")` is the same formula in one (GELU: Hendrycks and Gimpel,
arXiv 1606.08415). In half precision the steps round one by one, so there the model's own are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import nn
from transformers.activations import NewGELUActivation

from causal_reft.execution.cells import forward_is
from causal_reft.tensors import Tensor

PRECISE = (torch.float32, torch.float64)


def chains(model: nn.Module) -> tuple[nn.Module, ...]:
    """The activations of a model that are chains of steps."""
    return tuple(module for module in model.modules() if type(module) is NewGELUActivation)


@contextmanager
def in_one_kernel(activations: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, each of them is one step; not where somebody has given one a forward of its own."""
    with ExitStack() as stack:
        for module in activations:
            if "forward" not in vars(module):
                stack.enter_context(forward_is(module, partial(_gelu, module.forward)))
        yield


def _gelu(own: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return nn.functional.gelu(x, approximate="tanh") if x.dtype in PRECISE else own(x)
