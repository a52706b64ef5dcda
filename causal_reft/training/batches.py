"""Which rows go through the model side by side: at random, or by length, so that little padding is computed.

By length, rows are sorted (those of equal length at random), cut into batches, and the batches are shuffled. The mean
loss of a step is over its scored tokens either way; only batch composition differs.
"""

from __future__ import annotations

import torch

from causal_reft.execution import Examples
from causal_reft.tensors import Int, Tensor
from causal_reft.training.recipe import Recipe


def batches_of(examples: Examples, recipe: Recipe, generator: torch.Generator) -> list[Int[Tensor, " row"]]:
    """The batches of one epoch."""
    order = torch.randperm(len(examples), generator=generator)
    if recipe.batches == "shuffled":
        return list(examples.batches(recipe.batch_size, order))
    by_length = order[_lengths(examples)[order].argsort(stable=True)]
    batches = list(examples.batches(recipe.batch_size, by_length))
    return [batches[number] for number in torch.randperm(len(batches), generator=generator).tolist()]


def _lengths(examples: Examples) -> Int[Tensor, " row"]:
    """Real tokens of each row's base; one for rows without tokens."""
    base = examples.runs["base"]
    mask = None if isinstance(base, Tensor) else base.get("attention_mask")
    return torch.ones(len(examples), dtype=torch.long) if mask is None else (mask != 0).sum(1).cpu()
