"""Asking a model something by running it: nothing of it changes, and no random number is used up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from causal_reft.execution.threads import one_at_a_time


@contextmanager
def probing(model: nn.Module, seed: int = 0) -> Iterator[None]:
    """Inside, the model runs in evaluation mode, without gradients, by random numbers of its own."""
    modes = [module for module in model.modules() if module.training]
    with one_at_a_time(model), torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in modes:
            module.training = False
        try:
            yield
        finally:
            for module in modes:
                module.training = True
