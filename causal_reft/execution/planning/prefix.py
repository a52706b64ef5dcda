"""Keys and values of the tokens before a window: recorded once, then read by every step and changed by none.

Both caches are transformers' own `Cache`, so the model's own attention, masks, rotary embeddings and sliding windows
read them as they read any other. `update` of a `PrefixLayer` returns prefix and new tokens side by side and collects
nothing, so one prefix serves many steps and autograd sees a plain concatenation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from causal_reft.tensors import Float, Int, Tensor

KeysValues = tuple[Float[Tensor, "row head pos width"], Float[Tensor, "row head pos width_v"]]


class _Layer(CacheLayerMixin):
    """What a layer of ours is to transformers: full length, never sliding, of a known number of past tokens."""

    is_sliding = False
    supports_early_init = False

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is allocated."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1


class RecordingLayer(_Layer):
    """Hands the keys and values of a layer to `keep` and returns them as they are."""

    def __init__(self, keep: Callable[[Tensor, Tensor], None]) -> None:
        super().__init__(0)
        self.keep = keep

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.keep(key_states, value_states)
        return key_states, value_states


class PrefixLayer(_Layer):
    """Past tokens of a batch; `read` is asked for them at most once, and not at all by a block that is skipped.

    New tokens may come as several stacked copies of the batch, which all have the same past.
    """

    def __init__(self, length: int, read: Callable[[], KeysValues]) -> None:
        super().__init__(length)
        self.read = read

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.length:
            return key_states, value_states
        past_keys, past_values = self.read()
        return _behind(past_keys, key_states), _behind(past_values, value_states)


def _behind(past: Tensor, new: Tensor) -> Tensor:
    copies = len(new) // len(past)
    past = past.to(new.dtype)
    if copies == 1:
        return torch.cat([past, new], dim=-2)
    together = torch.cat([past.expand(copies, *past.shape), new.unflatten(0, (copies, len(past)))], dim=-2)
    return together.flatten(0, 1)


def recording_cache(n_layers: int, keep: Callable[[int, Tensor, Tensor], None]) -> Cache:
    """A cache that hands over (layer, keys, values) of every layer."""
    return Cache(layers=[RecordingLayer(partial(keep, index)) for index in range(n_layers)])


def prefix_cache(n_layers: int, length: int, read: Callable[[int], KeysValues]) -> Cache:
    """A cache of `length` past tokens that reads the keys and values of a layer when they are needed."""
    return Cache(layers=[PrefixLayer(length, partial(read, index)) for index in range(n_layers)])


def left_aligned(states: Float[Tensor, "row head pos width"], start: Int[Tensor, " row"], length: int) -> Tensor:
    """The first `length` tokens of every row, whose text begins at column `start`."""
    if not bool(start.any()):
        return states[:, :, :length]
    columns = (start[:, None] + torch.arange(length)).clamp_max(states.shape[2] - 1).to(states.device)
    return states.gather(2, columns[:, None, :, None].expand(len(states), states.shape[1], length, states.shape[3]))


def right_aligned(states: Float[Tensor, "row head pos width"], lengths: Int[Tensor, " row"]) -> Tensor:
    """The first `lengths` tokens of every row, ending in the last column."""
    most = int(lengths.max())
    if bool((lengths == most).all()):
        return states[:, :, :most]
    columns = (torch.arange(most) - (most - lengths[:, None])).clamp_min(0).to(states.device)
    return states.gather(2, columns[:, None, :, None].expand(len(states), states.shape[1], most, states.shape[3]))
