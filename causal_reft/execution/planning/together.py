"""Several graphs on one model and one dataset, computed together as far as they can be.

Graphs that touch the same tokens share a forward: a *staircase*, in which the rows of a graph join the batch at the
block where it enters. A sweep over all layers costs little more than its lowest layer, and a hundred rotations of one
site are a hundred rows. What is the same in every step is computed once: states of other runs, keys and values of
earlier tokens, hidden states at the entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from causal_reft.execution.cells import worth_it
from causal_reft.execution.examples import Examples
from causal_reft.execution.finish import alone_modules
from causal_reft.execution.inputs import Inputs
from causal_reft.execution.passes import TargetLogits
from causal_reft.execution.planning.beginning import known_at_entry
from causal_reft.execution.planning.collected import Kept, Key, Lender, lending_runs, rows_by_length, run_inputs
from causal_reft.execution.planning.decoder import Decoder
from causal_reft.execution.planning.members import Member, TextData
from causal_reft.execution.planning.prefix import prefix_cache
from causal_reft.execution.planning.recording import Entry, Place, Record, Wanted, record
from causal_reft.execution.planning.stages import Guest, Stage
from causal_reft.execution.planning.window import Windows, WindowTokens
from causal_reft.execution.transform import States
from causal_reft.tensors import Int, Tensor

CHUNK = 32
TOKENS_AT_ONCE = 1024
PAST_TOKENS = 16  # reading so many past tokens costs about as much memory traffic as computing one


@dataclass(frozen=True)
class Group:
    """Members that touch the same tokens, in the order of their entries; `numbers` are their places among all
    members."""

    windows: Windows
    members: tuple[Member, ...]
    numbers: tuple[int, ...]


def grouped(members: Sequence[Member]) -> tuple[Group, ...]:
    """Members with the same windows, together."""
    found: list[tuple[Windows, list[int]]] = []
    for number, member in enumerate(members):
        mine = next((numbers for windows, numbers in found if windows.same(member.windows)), None)
        if mine is None:
            found.append((member.windows, [number]))
        else:
            mine.append(number)
    ordered = [(windows, sorted(numbers, key=lambda n: members[n].entry)) for windows, numbers in found]
    return tuple(Group(windows, tuple(members[n] for n in numbers), tuple(numbers)) for windows, numbers in ordered)


class Together:
    """The joint passes of some members.

    Args:
        decoder: the model.
        data: the base run and reads of the dataset.
        examples: the dataset.
        members: the graphs.
        memory: bytes that may be kept; what does not fit is computed again for each batch.
        place: where and how precisely it is kept.
    """

    def __init__(
        self, decoder: Decoder, data: TextData, examples: Examples, members: Sequence[Member], memory: int, place: Place
    ) -> None:
        self.decoder, self.data, self.examples, self.memory, self.place = decoder, data, examples, memory, place
        self.members = tuple(members)
        self.groups = grouped(members)
        self.alone = [
            alone_modules(decoder.blocks, decoder.n_blocks - 1, [port for m in group.members for port in m.work])
            for group in self.groups
        ]
        self.uses_prefix = not decoder.prefix_refused
        self.wanted = self._wanted()
        self.lenders = tuple(Lender.of(member.model.base_model, member.model.graph) for member in members)
        self.asked = Lender.shared(self.lenders)
        self._kept: tuple[Record, dict[int, dict[Key, Kept]]] | None = None
        self.rebuilds: bool | None = None
        self.bytes_per_row = 0.0

    def scored(self, rows: Int[Tensor, " row"], training: Sequence[bool]) -> list[TargetLogits]:
        """The logits that the loss reads, for every member in the given order."""
        rows = rows.cpu()
        recorded, lent, index = self._recorded(rows)
        reads = self.data.reads.reads(rows)
        found: dict[int, TargetLogits] = {}
        for number, group in self._parts(rows):
            windows = self._windows(group.windows).rows(rows)
            tokens = WindowTokens(rows, windows.start, windows.width, self._device)
            guests = [
                Guest(m.entry, m.work, m.tables, m.touched, self._states(lent[n], index), training[n])
                for m, n in zip(group.members, group.numbers, strict=True)
            ]
            stage = Stage(
                self.decoder,
                guests,
                len(rows),
                windows.width,
                tokens,
                lambda block, path, w=windows.width, g=number: recorded.entry((block, g, path), index, w, self._device),
                recorded.tuples,
                self.wanted.known(number),
                self.alone[number] if worth_it(len(reads.rows), len(rows) * windows.width) else (),
            )
            arguments = self._arguments(rows, windows, len(guests), recorded, index)
            assert reads.columns is not None
            logits = stage.logits(arguments, reads.rows, reads.columns - windows.start[reads.rows]).unbind(0)
            found |= {n: TargetLogits(logits[i], reads) for i, n in enumerate(group.numbers)}
        return [found[n] for n in range(len(self.members))]

    def _parts(self, rows: Tensor) -> Iterator[tuple[int, Group]]:
        """The groups, with their numbers, in parts that fit a processor's caches: larger ones are slower for each
        row."""
        for number, group in enumerate(self.groups):
            windows = self._windows(group.windows).rows(rows)
            size = len(rows) * (windows.width + int(windows.prefix.max()) // PAST_TOKENS)
            most = max(1, TOKENS_AT_ONCE // size)
            for start in range(0, len(group.members), most):
                stop = start + most
                yield number, Group(group.windows, group.members[start:stop], group.numbers[start:stop])

    def forget(self) -> None:
        """Drop what was kept, so that it is computed again."""
        self._kept = None

    @property
    def bytes(self) -> int:
        """Memory that is kept now."""
        if self._kept is None:
            return 0
        record_, lent = self._kept
        shared = {id(kept): kept.bytes for states in lent.values() for kept in states.values()}
        return record_.bytes + sum(shared.values())

    @property
    def _device(self) -> torch.device:
        return next(self.decoder.model.parameters()).device

    def _windows(self, windows: Windows) -> Windows:
        return windows if self.uses_prefix else windows.from_the_beginning()

    def _wanted(self) -> Wanted:
        windows = tuple(self._windows(group.windows) for group in self.groups)
        first = min((member.entry for member in self.members), default=0)
        layers = tuple(range(first + 1, self.decoder.n_blocks)) if self.uses_prefix else ()
        prefix = torch.stack([w.prefix for w in windows]).amax(0)
        entries: set[Entry] = set()
        for number, group in enumerate(self.groups):
            for member in group.members:
                entries |= {(member.entry, number, "")} if member.entry >= 0 else set()
                known = known_at_entry(self.decoder, member, windows[number], self.alone[number])
                entries |= {(block, number, path) for block, path in known}
        return Wanted(layers, prefix, tuple(sorted(entries)), windows)

    def _recorded(self, rows: Tensor) -> tuple[Record, dict[int, dict[Key, Kept]], Tensor]:
        """The record that holds these rows, and where they are in it."""
        if self._kept is None and not self.rebuilds:
            self.rebuilds = not self._build_whole_or_least()
        if self._kept is None:
            return *self._record(rows), torch.arange(len(rows))
        return *self._kept, rows

    def _build_whole_or_least(self) -> bool:
        """Record everything; where it does not fit, what only saves a little is left out."""
        whole, least = self.wanted, self.wanted.without_projections()
        if self._build():
            return True
        self.wanted = least
        return len(least.entries) < len(whole.entries) and self._build()

    def _build(self) -> bool:
        """Record the whole dataset, or find that it does not fit."""
        order = rows_by_length(self.examples)
        whole, parts, done = Record(self.wanted.prefix), [], []
        widths = [windows.width for windows in self.wanted.windows]
        for rows in order.split(CHUNK):
            part, lent = self._record(rows)
            self.bytes_per_row = max(self.bytes_per_row if done else 0.0, self._size(part, lent, len(rows)))
            if self.bytes_per_row * len(self.examples) > self.memory:
                return False
            whole.store(part, rows, len(self.examples), widths, self.wanted.length, self.place)
            parts.append(lent)
            done.append(rows)
        self._kept = whole, _joined(parts, torch.cat(done))
        return True

    def _size(self, part: Record, lent: dict[int, dict[Key, Kept]], n_rows: int) -> float:
        """Bytes for each row, were the whole dataset kept."""
        states = {id(kept): kept.bytes for found in lent.values() for kept in found.values()}
        longest = self.wanted.length / max(int(part.prefix.max()), 1)
        size = part.bytes * max(longest, 1.0) + sum(states.values())
        return size / n_rows

    def _record(self, rows: Tensor) -> tuple[Record, dict[int, dict[Key, Kept]]]:
        """Everything that does not change from step to step, for some rows."""
        wanted = self.wanted.rows(rows)
        columns = _columns_used(wanted)
        inputs = _cut(self.data.inputs, rows, columns, self._device)
        moved = Wanted(
            wanted.layers, wanted.prefix, wanted.entries, tuple(w.moved(columns.start) for w in wanted.windows)
        )
        return record(self.decoder, inputs, moved), self._lent(rows)

    def _lent(self, rows: Tensor) -> dict[int, dict[Key, Kept]]:
        """What each member takes from other runs; members without edits there share one pass."""
        runs = tuple(dict.fromkeys(run for member in self.members for run in lending_runs(member.model.graph)))
        inputs = run_inputs(self.decoder.model, self.examples, rows, runs) if runs else {}
        collected: dict[int, dict[Key, Kept]] = {}
        done: dict[int, dict[Key, Kept]] = {}
        for number, lender in enumerate(self.asked):
            if id(lender) not in done:
                done[id(lender)] = lender.collect(inputs) if lender.wanted else {}
            collected[number] = {key: done[id(lender)][key] for key in self.lenders[number].wanted}
        return collected

    def _states(self, lent: dict[Key, Kept], index: Tensor) -> States:
        states: States = {}
        for key, kept in lent.items():
            states[key] = kept.rows(index, self._device)
        return states

    def _arguments(
        self, rows: Tensor, windows: Windows, copies: int, recorded: Record, index: Tensor
    ) -> dict[str, object]:
        """What the model's forward is given for the windows of some rows."""
        columns = windows.columns()
        given = {
            key: value[rows.to(value.device)].gather(1, columns.to(value.device))
            for key, value in self.data.inputs.kwargs.items()
            if key in ("input_ids", "token_type_ids", "position_ids")
        }
        if self.decoder.takes_positions and "position_ids" not in given:
            given["position_ids"] = windows.prefix[:, None] + torch.arange(windows.width)
        given["attention_mask"] = windows.mask()
        arguments: dict[str, object] = {key: value.repeat(copies, 1).to(self._device) for key, value in given.items()}
        if not self.uses_prefix:
            return arguments | {"use_cache": False}
        lengths = windows.prefix
        cache = prefix_cache(
            self.decoder.n_blocks, int(lengths.max()), lambda layer: recorded.past(layer, index, lengths, self._device)
        )
        return arguments | {"past_key_values": cache, "use_cache": True}


def _joined(parts: Sequence[dict[int, dict[Key, Kept]]], order: Tensor) -> dict[int, dict[Key, Kept]]:
    shared: dict[tuple[int, ...], Kept] = {}
    joined: dict[int, dict[Key, Kept]] = {}
    for number, states in parts[0].items():
        joined[number] = {}
        for key in states:
            pieces = [part[number][key] for part in parts]
            same = tuple(map(id, pieces))
            if same not in shared:
                shared[same] = Kept.joined(pieces, order)
            joined[number][key] = shared[same]
    return joined


def _columns_used(wanted: Wanted) -> slice:
    start = min(int(windows.text.min()) for windows in wanted.windows)
    ends = [int(windows.stop.max()) for windows in wanted.windows] if wanted.entries else []
    past = max(int((windows.text + wanted.prefix).max()) for windows in wanted.windows)
    return slice(start, max([*ends, past, start + 1]))


def _cut(inputs: Inputs, rows: Tensor, columns: slice, device: torch.device) -> Inputs:
    """Some rows and columns of a text."""
    kwargs = {
        key: value[rows.to(value.device), columns].to(device)
        for key, value in inputs.kwargs.items()
        if key in ("input_ids", "token_type_ids", "position_ids", "attention_mask")
    }
    return Inputs((), kwargs, len(rows))
