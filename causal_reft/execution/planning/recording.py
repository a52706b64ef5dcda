"""The base run without any edit, recorded once: keys and values of early tokens, hidden states where a graph enters.

What is recorded depends on no trained number, so it serves every step, every site and every seed. Where it does not fit
the memory budget, it is recorded again for each batch and dropped.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from causal_reft.errors import RunError
from causal_reft.execution.hooks import StopForward
from causal_reft.execution.inputs import Inputs
from causal_reft.execution.kernels import in_one_kernel
from causal_reft.execution.planning.decoder import Decoder
from causal_reft.execution.planning.prefix import KeysValues, left_aligned, recording_cache, right_aligned
from causal_reft.execution.planning.window import Windows
from causal_reft.execution.threads import in_this_thread
from causal_reft.execution.visit import find_tensor
from causal_reft.sites import Location
from causal_reft.tensors import Float, Int, Tensor

Entry = tuple[int, int, str]
KEYS_VALUES = "keys and values"


@dataclass(frozen=True)
class Wanted:
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

    def rows(self, index: Int[Tensor, " batch"]) -> Wanted:
        """The same for some rows."""
        return Wanted(self.layers, self.prefix[index], self.entries, tuple(w.rows(index) for w in self.windows))

    def without_projections(self) -> Wanted:
        """The least that is needed."""
        return replace(self, entries=tuple(entry for entry in self.entries if not entry[2]))

    @property
    def length(self) -> int:
        """The longest prefix."""
        return int(self.prefix.max()) if len(self.prefix) else 0

    def known(self, windows: int) -> dict[int, list[str]]:
        """For every block behind an entry, the projections that are recorded in windows of this number."""
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

    `tuples` counts what a block returns: 0 for a bare tensor.
    """

    prefix: Int[Tensor, " row"]
    keys_values: dict[int, KeysValues] = field(default_factory=dict)
    entries: dict[Entry, Float[Tensor, "row window width"]] = field(default_factory=dict)
    tuples: int = 0

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
        self, part: Record, rows: Tensor, n_rows: int, window_widths: list[int], length: int, place: Place
    ) -> None:
        """Copy the record of some rows into this one, which holds `n_rows`."""
        self.tuples = part.tuples
        for layer, pair in part.keys_values.items():
            if layer not in self.keys_values:
                self.keys_values[layer] = tuple(  # type: ignore[arg-type]
                    place.empty_past((n_rows, t.shape[1], length, t.shape[3]), t) for t in pair
                )  # type: ignore[assignment]
            for whole, states in zip(self.keys_values[layer], pair, strict=True):
                whole[rows.to(whole.device), :, : states.shape[2]] = states.to(whole)
        for entry, states in part.entries.items():
            if entry not in self.entries:
                self.entries[entry] = place.empty((n_rows, window_widths[entry[1]], states.shape[2]), states)
            whole = self.entries[entry]
            whole[rows.to(whole.device), : states.shape[1]] = states.to(whole)


@dataclass(frozen=True)
class Place:
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
def record(decoder: Decoder, inputs: Inputs, wanted: Wanted) -> Record:
    """One forward of the base run of some rows, left as soon as all is there."""
    taping = _Taping(decoder, wanted)
    if not taping.pending:
        return taping.found
    arguments = {k: v for k, v in inputs.kwargs.items() if k != "labels"}
    if taping.layers:
        arguments |= {"past_key_values": recording_cache(decoder.n_blocks, taping.keep_layer), "use_cache": True}
    with ExitStack() as stack:
        stack.enter_context(in_one_kernel(decoder.chains))
        for block, path in taping.outputs:
            module = decoder.blocks.modules[block].get_submodule(path)
            keep = in_this_thread(partial(taping.keep_output, block, path))
            stack.callback(module.register_forward_hook(keep).remove)
        try:
            decoder.model(*inputs.args, **arguments)
        except StopForward:
            return taping.found
    raise RunError(
        f"The model's forward never reached {sorted(taping.pending)}; its keys and values are not kept in the "
        f"usual cache."
    )


class _Taping:
    """What is still to be recorded in one forward."""

    def __init__(self, decoder: Decoder, wanted: Wanted) -> None:
        self.decoder, self.wanted, self.found = decoder, wanted, Record(wanted.prefix)
        self.pending = set(wanted.places)
        self.layers = {layer for layer, what in self.pending if what == KEYS_VALUES}
        self.outputs = {(block, path) for block, path in self.pending if path != KEYS_VALUES}

    def keep_layer(self, layer: int, keys: Tensor, values: Tensor) -> None:
        if layer in self.layers:
            start, length = self.wanted.windows[0].text, self.wanted.length
            self.found.keys_values[layer] = (
                left_aligned(keys, start, length).clone(),
                left_aligned(values, start, length).clone(),
            )
            self._done(layer, KEYS_VALUES)

    def keep_output(self, block: int, path: str, module: nn.Module, args: Any, output: Any) -> None:
        if not path:
            self.found.tuples = len(output) if isinstance(output, tuple) else 0
        h, _ = find_tensor(output, Location(f"{self.decoder.blocks.path}.{block}", module, "output"))
        for entry in self.wanted.entries:
            if (entry[0], entry[2]) == (block, path):
                columns = self.wanted.windows[entry[1]].columns().to(h.device)
                self.found.entries[entry] = h.gather(1, columns[..., None].expand(*columns.shape, h.shape[-1]))
        self._done(block, path)

    def _done(self, block: int, what: str) -> None:
        self.pending.discard((block, what))
        if not self.pending:
            raise StopForward
