"""How settings move during training: learning rates by transformers' schedules, temperatures of masks geometrically."""

from __future__ import annotations

from collections.abc import Iterable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from causal_reft.errors import DataError, nearest
from causal_reft.featurizers import END_TEMPERATURE, START_TEMPERATURE, Mask

LEARNING_RATE_SCHEDULES = ("constant", "constant_with_warmup", "linear", "cosine")


def learning_rate(name: str, optimizer: Optimizer, warmup: float, steps: int) -> LRScheduler:
    """A schedule over `steps` optimizer steps, the first `warmup` share of them rising from 0.

    Raises:
        DataError: an unknown name.
    """
    from transformers import get_scheduler

    if name not in LEARNING_RATE_SCHEDULES:
        raise DataError(f"schedule={name!r} does not exist. {nearest(name, LEARNING_RATE_SCHEDULES)}")
    return get_scheduler(name, optimizer, num_warmup_steps=round(warmup * steps), num_training_steps=steps)


def anneal(masks: Iterable[Mask], progress: float) -> None:
    """Set every mask's temperature for a share `progress` in [0, 1] of the training: start * (end / start)^progress."""
    for mask in masks:
        start, end = START_TEMPERATURE[mask.kind], END_TEMPERATURE[mask.kind]
        mask.temperature = start * (end / start) ** progress
