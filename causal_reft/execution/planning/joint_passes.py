"""The logits of several graphs on one causal decoder and one dataset, computed in as few forwards as possible.

Graphs with equal windows share a forward, in which the rows of a graph join the batch at the block where it enters. A
sweep over all layers costs little more than its lowest layer, and a hundred rotations of one site are a hundred rows.
What is the same in every step is computed once: states of other runs, keys and values of earlier tokens, hidden states
at the entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from causal_reft.execution.block_shortcuts import token_local_modules, worth_it
from causal_reft.execution.examples import Examples
from causal_reft.execution.inputs import Inputs
from causal_reft.execution.passes import TargetLogits
from causal_reft.execution.planning.decoder import Decoder, JointGraph
from causal_reft.execution.planning.joint_forward import GraphInBatch, JointForward
from causal_reft.execution.planning.recorded_states import Entry, Record, RecordFormat, ToRecord, prefix_cache, record
from causal_reft.execution.planning.source_cache import CachedStates, Key, SourceRuns, run_inputs, source_runs
from causal_reft.execution.planning.windows import TextData, Windows, WindowTokens
from causal_reft.tensors import Int, Tensor

CHUNK = 32
TOKENS_AT_ONCE = 1024
PAST_TOKENS = 16  # reading so many past tokens costs about as much memory traffic as computing one


@dataclass(frozen=True)
class Group:
    """Graphs with equal windows, in the order of their entries; `numbers` are their places among all graphs."""

    windows: Windows
    graphs: tuple[JointGraph, ...]
    numbers: tuple[int, ...]

    @staticmethod
    def all_of(graphs: Sequence[JointGraph]) -> tuple[Group, ...]:
        """The groups of some graphs."""
        found: list[tuple[Windows, list[int]]] = []
        for number, graph in enumerate(graphs):
            mine = next((numbers for windows, numbers in found if windows.same(graph.windows)), None)
            if mine is None:
                found.append((graph.windows, [number]))
            else:
                mine.append(number)
        ordered = [(windows, sorted(numbers, key=lambda n: graphs[n].entry)) for windows, numbers in found]
        return tuple(Group(windows, tuple(graphs[n] for n in numbers), tuple(numbers)) for windows, numbers in ordered)


class JointPasses:
    """The joint passes of some graphs.

    Args:
        decoder: the model.
        data: the base run of the dataset, and the logits that the loss reads.
        examples: the dataset.
        graphs: the graphs.
        memory: bytes that may be cached; what does not fit is computed again for each batch.
        format: where and how precisely it is cached.
    """

    def __init__(
        self,
        decoder: Decoder,
        data: TextData,
        examples: Examples,
        graphs: Sequence[JointGraph],
        memory: int,
        format: RecordFormat,
    ) -> None:
        self.decoder, self.data, self.examples, self.memory, self.format = decoder, data, examples, memory, format
        self.graphs = tuple(graphs)
        self.groups = Group.all_of(graphs)
        self.token_local = [
            token_local_modules(decoder.blocks, decoder.n_blocks - 1, [port for g in group.graphs for port in g.work])
            for group in self.groups
        ]
        self.uses_prefix = not decoder.prefix_refused
        self.to_record = self._to_record()
        self.sources = tuple(SourceRuns.of(graph.model.base_model, graph.model.graph) for graph in graphs)
        self.shared_sources = SourceRuns.shared(self.sources)
        self._cached: tuple[Record, dict[int, dict[Key, CachedStates]]] | None = None
        self.rebuilds: bool | None = None
        self.bytes_per_row = 0.0

    def parts(
        self, rows: Int[Tensor, " row"], training: Sequence[bool], caches: bool = True
    ) -> Iterator[dict[int, TargetLogits]]:
        """The logits that the loss reads, by number of the graph, one forward after the other.

        Args:
            rows: of the dataset.
            training: for each graph, whether dropout on its edits is on.
            caches: whether what serves other batches too is computed for the whole dataset, and stays.
        """
        rows = rows.cpu()
        recorded, states, index = self._recorded(rows, caches)
        for number, group in self._parts(rows):
            graphs = [
                GraphInBatch(g, {k: s.rows(index, self._device) for k, s in states[n].items()}, training[n])
                for g, n in zip(group.graphs, group.numbers, strict=True)
            ]
            yield self._forward(rows, number, group, graphs, recorded, index)

    def _forward(
        self, rows: Tensor, number: int, group: Group, graphs: Sequence[GraphInBatch], recorded: Record, index: Tensor
    ) -> dict[int, TargetLogits]:
        """The logits of some graphs of the group with this number, in one forward."""
        reads, windows = self.data.reads(rows), self._windows(group.windows).rows(rows)
        assert reads.columns is not None
        forward = JointForward(
            self.decoder,
            graphs,
            len(rows),
            windows.width,
            WindowTokens(rows, windows.start, windows.width, self._device),
            lambda block, path: recorded.entry((block, number, path), index, windows.width, self._device),
            recorded.tuple_length,
            self.to_record.projections(number),
            self.token_local[number] if worth_it(len(reads.rows), len(rows) * windows.width) else (),
        )
        arguments = self._arguments(rows, windows, len(graphs), recorded, index)
        logits = forward.logits(arguments, reads.rows, reads.columns - windows.start[reads.rows])
        return {n: TargetLogits(one, reads) for n, one in zip(group.numbers, logits.unbind(0), strict=True)}

    def _parts(self, rows: Tensor) -> Iterator[tuple[int, Group]]:
        """The groups, with their numbers, in parts that fit a processor's caches: larger ones take longer for each
        row."""
        for number, group in enumerate(self.groups):
            windows = self._windows(group.windows).rows(rows)
            size = len(rows) * (windows.width + int(windows.prefix.max()) // PAST_TOKENS)
            most = max(1, TOKENS_AT_ONCE // size)
            for start in range(0, len(group.graphs), most):
                stop = start + most
                yield number, Group(group.windows, group.graphs[start:stop], group.numbers[start:stop])

    @property
    def bytes(self) -> int:
        """Memory that is cached now."""
        if self._cached is None:
            return 0
        record_, states = self._cached
        return record_.bytes + _bytes(states)

    @property
    def _device(self) -> torch.device:
        return next(self.decoder.model.parameters()).device

    def _windows(self, windows: Windows) -> Windows:
        return windows if self.uses_prefix else windows.without_prefix()

    def _to_record(self) -> ToRecord:
        windows = tuple(self._windows(group.windows) for group in self.groups)
        first = min((graph.entry for graph in self.graphs), default=0)
        layers = tuple(range(first + 1, self.decoder.n_blocks)) if self.uses_prefix else ()
        prefix = torch.stack([w.prefix for w in windows]).amax(0)
        entries: set[Entry] = set()
        for number, group in enumerate(self.groups):
            for graph in group.graphs:
                entries |= {(graph.entry, number, "")} if graph.entry >= 0 else set()
                paths = graph.recorded_projections(self.decoder, windows[number], self.token_local[number])
                entries |= {(block, number, path) for block, path in paths}
        return ToRecord(layers, prefix, tuple(sorted(entries)), windows)

    def _recorded(self, rows: Tensor, caches: bool) -> tuple[Record, dict[int, dict[Key, CachedStates]], Tensor]:
        """The record that holds these rows, the states of other runs, and where the rows are in both."""
        if caches and self._cached is None and not self.rebuilds:
            self.rebuilds = not self._build_whole_or_least()
        if self._cached is None:
            return *self._record(rows), torch.arange(len(rows))
        return *self._cached, rows

    def _build_whole_or_least(self) -> bool:
        """Record everything; where it does not fit, leave out what saves little."""
        whole, least = self.to_record, self.to_record.without_projections()
        if self._build():
            return True
        self.to_record = least
        return len(least.entries) < len(whole.entries) and self._build()

    def _build(self) -> bool:
        """Record the whole dataset, or find that it does not fit."""
        order = _rows_by_length(self.examples)
        whole, parts, done = Record(self.to_record.prefix), [], []
        widths = [windows.width for windows in self.to_record.windows]
        for rows in order.split(CHUNK):
            part, states = self._record(rows)
            self.bytes_per_row = max(self.bytes_per_row if done else 0.0, self._size(part, states, len(rows)))
            if self.bytes_per_row * len(self.examples) > self.memory:
                return False
            whole.store(part, rows, len(self.examples), widths, self.to_record.length, self.format)
            parts.append(states)
            done.append(rows)
        self._cached = whole, _joined(parts, torch.cat(done))
        return True

    def _size(self, part: Record, states: dict[int, dict[Key, CachedStates]], n_rows: int) -> float:
        """Bytes for each row, were the whole dataset cached."""
        longest = self.to_record.length / max(int(part.prefix.max()), 1)
        return (part.bytes * max(longest, 1.0) + _bytes(states)) / n_rows

    def _record(self, rows: Tensor) -> tuple[Record, dict[int, dict[Key, CachedStates]]]:
        """Everything that does not change from step to step, for some rows."""
        asked = self.to_record.rows(rows)
        columns = _columns_used(asked)
        inputs = _cut(self.data.inputs, rows, columns, self._device)
        moved = replace(asked, windows=tuple(w.moved(columns.start) for w in asked.windows))
        return record(self.decoder, inputs, moved), self._source_states(rows)

    def _source_states(self, rows: Tensor) -> dict[int, dict[Key, CachedStates]]:
        """What each graph takes from other runs; graphs without edits there share one pass."""
        runs = tuple(dict.fromkeys(run for graph in self.graphs for run in source_runs(graph.model.graph)))
        inputs = run_inputs(self.decoder.model, self.examples, rows, runs) if runs else {}
        collected: dict[int, dict[Key, CachedStates]] = {}
        done: dict[int, dict[Key, CachedStates]] = {}
        for number, shared in enumerate(self.shared_sources):
            if id(shared) not in done:
                done[id(shared)] = shared.collect(inputs) if shared.keys else {}
            collected[number] = {key: done[id(shared)][key] for key in self.sources[number].keys}
        return collected

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
        return arguments | {self.decoder.cache: cache, "use_cache": True}


def _rows_by_length(examples: Examples) -> Int[Tensor, " row"]:
    """All rows, those of similar length side by side, so that batches hold little padding."""
    base = examples.runs["base"]
    mask = None if isinstance(base, Tensor) else base.get("attention_mask")
    return torch.arange(len(examples)) if mask is None or mask.ndim != 2 else mask.sum(1).cpu().argsort(stable=True)


def _bytes(states: dict[int, dict[Key, CachedStates]]) -> int:
    """Memory of the states of all graphs, some of which are shared."""
    return sum({id(one): one.bytes for of_graph in states.values() for one in of_graph.values()}.values())


def _joined(parts: Sequence[dict[int, dict[Key, CachedStates]]], order: Tensor) -> dict[int, dict[Key, CachedStates]]:
    shared: dict[tuple[int, ...], CachedStates] = {}
    joined: dict[int, dict[Key, CachedStates]] = {}
    for number, states in parts[0].items():
        joined[number] = {}
        for key in states:
            pieces = [part[number][key] for part in parts]
            same = tuple(map(id, pieces))
            if same not in shared:
                shared[same] = CachedStates.joined(pieces, order)
            joined[number][key] = shared[same]
    return joined


def _columns_used(asked: ToRecord) -> slice:
    start = min(int(windows.text.min()) for windows in asked.windows)
    ends = [int(windows.stop.max()) for windows in asked.windows] if asked.entries else []
    past = max(int((windows.text + asked.prefix).max()) for windows in asked.windows)
    return slice(start, max([*ends, past, start + 1]))


def _cut(inputs: Inputs, rows: Tensor, columns: slice, device: torch.device) -> Inputs:
    """Some rows and columns of a text."""
    kwargs = {
        key: value[rows.to(value.device), columns].to(device)
        for key, value in inputs.kwargs.items()
        if key in ("input_ids", "token_type_ids", "position_ids", "attention_mask")
    }
    return Inputs((), kwargs, len(rows))
