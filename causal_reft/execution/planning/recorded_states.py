"""The base run without any edit, recorded once: keys and values of early tokens, hidden states where graphs enter.

What is recorded depends on no trained parameter, so it serves every step, every site and every seed. Both caches are
transformers' own `Cache`: the model's attention, masks, rotary embeddings and sliding windows read them as any other.
`PrefixLayer.update` returns prefix and new tokens side by side and stores nothing, so one prefix serves many steps and
autograd sees a plain concatenation.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, CacheLayerMixin

from causal_reft.errors import RunError
from causal_reft.execution.backend import running
from causal_reft.execution.hooks import StopForward
from causal_reft.execution.inputs import Inputs
from causal_reft.execution.planning.decoder import Decoder
from causal_reft.execution.planning.windows import Windows
from causal_reft.execution.threads import in_this_thread
from causal_reft.execution.visit import find_tensor
from causal_reft.sites import Location
from causal_reft.tensors import Float, Int, Tensor

Entry = tuple[int, int, str]
KEYS_VALUES = "keys and values"
KeysValues = tuple[Float[Tensor, "row head pos width"], Float[Tensor, "row head pos width_v"]]


@dataclass(frozen=True)
class ToRecord:
    """What to record: keys and values of the first tokens of some layers; block outputs and projections in windows.

    Attributes:
        layers: of keys and values.
        prefix: how many tokens of each row.
        entries: (block, number of the windows, path of a module inside the block or "" for the block itself).
        windows: for each number, the windows of every row.
    """

    layers: tuple[int, ...]
    prefix: Int[Tensor, " row"]
    entries: tuple[Entry, ...]
    windows: tuple[Windows, ...]

    def rows(self, index: Int[Tensor, " batch"]) -> ToRecord:
        """The same for some rows."""
        return ToRecord(self.layers, self.prefix[index], self.entries, tuple(w.rows(index) for w in self.windows))

    def without_projections(self) -> ToRecord:
        """The least that is needed."""
        return replace(self, entries=tuple(entry for entry in self.entries if not entry[2]))

    @property
    def length(self) -> int:
        """The longest prefix."""
        return int(self.prefix.max()) if len(self.prefix) else 0

    def projections(self, windows: int) -> dict[int, list[str]]:
        """For every block, the projections that are recorded in windows of this number."""
        found: dict[int, list[str]] = {}
        for block, number, path in self.entries:
            if path and number == windows:
                found.setdefault(block, []).append(path)
        return found

    @property
    def places(self) -> set[tuple[int, str]]:
        """(block, what) of everything that one forward must pass."""
        layers = self.layers if self.length else ()
        return {(layer, KEYS_VALUES) for layer in layers} | {(block, path) for block, _, path in self.entries}


@dataclass
class Record:
    """Keys and values, (row, head, token, width) from the first token on, and outputs of blocks and projections in
    windows, (row, window, width).

    `tuple_length`: what a block returns: 0 for a bare tensor.
    """

    prefix: Int[Tensor, " row"]
    keys_values: dict[int, KeysValues] = field(default_factory=dict)
    entries: dict[Entry, Float[Tensor, "row window width"]] = field(default_factory=dict)
    tuple_length: int = 0

    def past(self, layer: int, index: Tensor, lengths: Tensor, device: torch.device) -> KeysValues:
        """The first `lengths` tokens of some rows, ending in the last column."""
        keys, values = (self._early(states, index, int(lengths.max())).to(device) for states in self.keys_values[layer])
        return right_aligned(keys, lengths), right_aligned(values, lengths)

    def entry(self, entry: Entry, index: Tensor, width: int, device: torch.device) -> Tensor:
        """The output of a block or projection in the windows of some rows, a fresh tensor."""
        states = self.entries[entry][:, :width]
        return states.index_select(0, index.to(states.device)).to(device)

    def _early(self, states: Tensor, index: Tensor, most: int) -> Tensor:
        return states[:, :, :most].index_select(0, index.to(states.device))

    @property
    def bytes(self) -> int:
        """Memory that the record takes."""
        held = [t for pair in self.keys_values.values() for t in pair] + list(self.entries.values())
        return sum(t.numel() * t.element_size() for t in held)

    def store(
        self, part: Record, rows: Tensor, n_rows: int, window_widths: list[int], length: int, format: RecordFormat
    ) -> None:
        """Copy the record of some rows into this one, which holds `n_rows`."""
        self.tuple_length = part.tuple_length
        for layer, pair in part.keys_values.items():
            if layer not in self.keys_values:
                self.keys_values[layer] = tuple(  # type: ignore[arg-type]
                    format.empty_past((n_rows, t.shape[1], length, t.shape[3]), t) for t in pair
                )  # type: ignore[assignment]
            for whole, states in zip(self.keys_values[layer], pair, strict=True):
                whole[rows.to(whole.device), :, : states.shape[2]] = states.to(whole)
        for entry, states in part.entries.items():
            if entry not in self.entries:
                self.entries[entry] = format.empty((n_rows, window_widths[entry[1]], states.shape[2]), states)
            whole = self.entries[entry]
            whole[rows.to(whole.device), : states.shape[1]] = states.to(whole)


@dataclass(frozen=True)
class RecordFormat:
    """Where a record is kept, and how precisely its keys and values are; `None`: as the model computes. Less is not
    exact."""

    device: str | None = None
    dtype: torch.dtype | None = None

    def empty(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Room for a whole record of states that look like `like`."""
        return torch.zeros(shape, dtype=like.dtype, device=self.device or like.device)

    def empty_past(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """The same for keys and values, the bulk of a record."""
        return torch.zeros(shape, dtype=self.dtype or like.dtype, device=self.device or like.device)


@torch.no_grad()
def record(decoder: Decoder, inputs: Inputs, asked: ToRecord) -> Record:
    """One forward of the base run of some rows, stopped as soon as everything is recorded."""
    recorder = _Recorder(decoder, asked)
    if not recorder.pending:
        return recorder.found
    arguments = {k: v for k, v in inputs.kwargs.items() if k != "labels"}
    if recorder.layers:
        arguments |= {decoder.cache: recording_cache(decoder.n_blocks, recorder.keep_layer), "use_cache": True}
    with ExitStack() as stack:
        stack.enter_context(running(decoder.model))
        for block, path in recorder.outputs:
            module = decoder.blocks.modules[block].get_submodule(path)
            keep = in_this_thread(partial(recorder.keep_output, block, path))
            stack.callback(module.register_forward_hook(keep).remove)
        try:
            decoder.model(*inputs.args, **arguments)
        except StopForward:
            return recorder.found
    raise RunError(
        f"The model's forward never reached {sorted(recorder.pending)}; its keys and values are not kept in the "
        f"usual cache."
    )


class _Recorder:
    """Records one forward; `pending` is what is still missing."""

    def __init__(self, decoder: Decoder, asked: ToRecord) -> None:
        self.decoder, self.asked, self.found = decoder, asked, Record(asked.prefix)
        self.pending = set(asked.places)
        self.layers = {layer for layer, what in self.pending if what == KEYS_VALUES}
        self.outputs = {(block, path) for block, path in self.pending if path != KEYS_VALUES}

    def keep_layer(self, layer: int, keys: Tensor, values: Tensor) -> None:
        if layer in self.layers:
            start, length = self.asked.windows[0].text, self.asked.length
            self.found.keys_values[layer] = (
                left_aligned(keys, start, length).clone(),
                left_aligned(values, start, length).clone(),
            )
            self._done(layer, KEYS_VALUES)

    def keep_output(self, block: int, path: str, module: nn.Module, args: Any, output: Any) -> None:
        if not path:
            self.found.tuple_length = len(output) if isinstance(output, tuple) else 0
        h, _ = find_tensor(output, Location(f"{self.decoder.blocks.path}.{block}", module, "output"))
        for entry in self.asked.entries:
            if (entry[0], entry[2]) == (block, path):
                columns = self.asked.windows[entry[1]].columns().to(h.device)
                self.found.entries[entry] = h.gather(1, columns[..., None].expand(*columns.shape, h.shape[-1]))
        self._done(block, path)

    def _done(self, block: int, what: str) -> None:
        self.pending.discard((block, what))
        if not self.pending:
            raise StopForward


class _Layer(CacheLayerMixin):
    """A cache layer of full length, never sliding, with a fixed number of past tokens."""

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
    """Hands the keys and values of a layer to `keep` and returns them unchanged."""

    def __init__(self, keep: Callable[[Tensor, Tensor], None]) -> None:
        super().__init__(0)
        self.keep = keep

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.keep(key_states, value_states)
        return key_states, value_states


class PrefixLayer(_Layer):
    """Past tokens of a batch; `read` is called at most once, and never for a block that is skipped.

    New tokens may come as several stacked copies of the batch, which share one past.
    """

    def __init__(self, length: int, read: Callable[[], KeysValues]) -> None:
        super().__init__(length)
        self.read = read

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.length:
            return key_states, value_states
        past_keys, past_values = self.read()
        return _after(past_keys, key_states), _after(past_values, value_states)


def _after(past: Tensor, new: Tensor) -> Tensor:
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
