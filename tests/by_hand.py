"""Edits as plain hooks with masks written by hand, for forwards that see the whole text: the slow reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from causal_reft.sites import find_blocks

Which = Callable[[torch.Tensor, int], torch.Tensor]
Edit = tuple[int, Which, Callable[[torch.Tensor], torch.Tensor]]


@contextmanager
def by_hand(model: torch.nn.Module, edits: Sequence[Edit], prompt_mask: torch.Tensor) -> Iterator[None]:
    """Plain hooks on the blocks; `edits` are (layer, which columns, formula), for forwards that see the whole text."""

    def hook(which, formula):
        def after(module, args, output):
            h = output[0] if isinstance(output, tuple) else output
            mask = which(prompt_mask.repeat_interleave(len(h) // len(prompt_mask), 0), h.shape[1])
            h = torch.where(mask[..., None], formula(h), h)
            return (h, *output[1:]) if isinstance(output, tuple) else h

        return after

    handles = [
        find_blocks(model).modules[layer].register_forward_hook(hook(which, formula)) for layer, which, formula in edits
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def first(n: int) -> Which:
    """The first n tokens of each left-padded prompt."""

    def which(mask, width):
        columns, start = torch.arange(width), (mask == 0).sum(1, keepdim=True)
        return (columns >= start) & (columns < start + n) & (columns < mask.shape[1])

    return which


def last(n: int) -> Which:
    """The last n tokens of each left-padded prompt."""

    def which(mask, width):
        columns, start = torch.arange(width), (mask == 0).sum(1, keepdim=True)
        return (columns >= start) & (columns >= mask.shape[1] - n) & (columns < mask.shape[1])

    return which


def generated(mask: torch.Tensor, width: int) -> torch.Tensor:
    """What follows the prompt."""
    return (torch.arange(width) >= mask.shape[1]).expand(len(mask), -1)


def either(*parts: Which) -> Which:
    """What any of them names."""
    return lambda mask, width: torch.stack([part(mask, width) for part in parts]).any(0)
