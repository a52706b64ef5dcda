"""One reduced forward for several graphs: the rows of each graph join the batch at the block where it enters.

    blocks before the first entry      are not computed
    a block where graphs enter         returns the rows computed so far, and after them the recorded states of new rows
    the next block's projections       see the edited tokens; the others are recorded
    most of the last block             sees the scored tokens only; so does the head

During the call the blocks' `forward` is replaced, and the model's own forward is called: masks, rotary embeddings,
scaling, soft caps and the final norm stay the model's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from causal_reft.execution.backend import running
from causal_reft.execution.block_shortcuts import computed_at, replaced_forward, worth_it
from causal_reft.execution.hooks import hook_at
from causal_reft.execution.passes import logits_of
from causal_reft.execution.planning.decoder import Decoder, JointGraph
from causal_reft.execution.planning.windows import WindowTokens
from causal_reft.execution.threads import in_this_thread
from causal_reft.execution.transform import States
from causal_reft.execution.visit import PortWork, find_tensor, transform_at
from causal_reft.sites import Location, Site, Tokens
from causal_reft.tensors import Bool, Float, Tensor


@dataclass(frozen=True)
class GraphInBatch:
    """A graph in one joint forward: the states that it takes from other runs, and whether dropout on edits is on."""

    graph: JointGraph
    states: States
    training: bool

    @property
    def entry(self) -> int:
        """The deepest block whose output no edit changes, -1 for the embeddings."""
        return self.graph.entry


@dataclass(frozen=True)
class JointForward:
    """One forward of several graphs, `batch` rows each, in the order of their entries.

    Attributes:
        decoder: the model.
        graphs: the graphs.
        batch: rows of each graph.
        width: columns of the windows.
        tokens: the cells of the windows that tables name.
        recorded: (block, path inside it) -> its recorded output in the windows; path "" for the block itself.
        tuple_length: what a block returns; 0 for a bare tensor.
        projections: for a block, the paths of the projections that are recorded for unedited tokens.
        token_local: modules of the last block that are computed at the scored cells only.
    """

    decoder: Decoder
    graphs: Sequence[GraphInBatch]
    batch: int
    width: int
    tokens: WindowTokens
    recorded: Callable[[int, str], Float[Tensor, "batch window width"]]
    tuple_length: int
    projections: Mapping[int, Sequence[str]] = field(default_factory=dict)
    token_local: Sequence[nn.Module] = ()

    def logits(
        self, arguments: Mapping[str, Any], scored_rows: Tensor, scored_columns: Tensor
    ) -> Float[Tensor, "graph read classes"]:
        """The logits at the scored cells, for every graph."""
        offsets = torch.arange(len(self.graphs))[:, None] * self.batch
        rows = (offsets + scored_rows).flatten().to(self.tokens.device)
        columns = scored_columns.repeat(len(self.graphs)).to(self.tokens.device)
        in_last_block = self.entered(self.decoder.n_blocks - 1) * len(scored_rows)
        with (
            running(self.decoder.model),
            self._replaced_blocks(),
            self._hooked(),
            self._projections_at_edited(),
            computed_at(self.token_local, rows[:in_last_block], columns[:in_last_block]),
            _head_at(self.decoder.head, rows, columns),
        ):
            output = self.decoder.model(**arguments)
        return logits_of(output).reshape(len(self.graphs), len(scored_rows), -1)

    def entered(self, block: int) -> int:
        """How many graphs have entered before a block runs."""
        return sum(graph.entry < block for graph in self.graphs)

    @contextmanager
    def _replaced_blocks(self) -> Iterator[None]:
        with ExitStack() as stack:
            for index, block in enumerate(self.decoder.blocks.modules):
                before, after = self.entered(index), self.entered(index + 1)
                if before < len(self.graphs):
                    forward = partial(self._forward, index, block.forward, before, after - before)
                    stack.enter_context(replaced_forward(block, forward))
            yield

    def _forward(
        self, index: int, own: Callable[..., Any], before: int, entering: int, *args: Any, **kwargs: Any
    ) -> Any:
        """The forward of a block that some graphs have not entered."""
        if not before:
            new = self.recorded(index, "") if entering else None
            hidden = _first_tensor(args, kwargs) if new is None else _joined(None, new, entering)
            return (hidden, *[None] * (self.tuple_length - 1)) if self.tuple_length else hidden
        total, rows = len(self.graphs) * self.batch, before * self.batch
        output = own(*_rows(args, total, rows), **_rows(kwargs, total, rows))
        if not entering:
            return output
        location = Location(f"{self.decoder.blocks.path}.{index}", self.decoder.blocks.modules[index], "output")
        hidden, rebuild = find_tensor(output, location)
        return rebuild(_joined(hidden, self.recorded(index, ""), entering))

    @contextmanager
    def _projections_at_edited(self) -> Iterator[None]:
        """The projections of the block after an entry run at edited tokens, and for graphs that entered earlier."""
        with ExitStack() as stack:
            for block, paths in self.projections.items():
                before, entered = self.entered(block - 1), self.entered(block)
                whole = torch.ones(before * self.batch, self.width, dtype=torch.bool)
                cells = torch.cat([whole, *map(self._edited, self.graphs[before:entered])])
                if before == entered or not worth_it(int(cells.sum()), cells.numel()):
                    continue
                rows, columns = (index.to(self.tokens.device) for index in cells.nonzero(as_tuple=True))
                for path in paths:
                    module = self.decoder.blocks.modules[block].get_submodule(path)
                    cached = partial(self._cached, block, path, before, entered - before)
                    stack.enter_context(computed_at([module], rows, columns, cached))
            yield

    def _edited(self, graph: GraphInBatch) -> Bool[Tensor, "row pos"]:
        tokens = self.tokens.of(graph.graph.edited)
        cells = torch.zeros(self.batch, self.width, dtype=torch.bool)
        cells[tokens.rows.cpu(), tokens.columns.cpu()] = True
        return cells

    def _cached(self, block: int, path: str, before: int, entering: int) -> Tensor:
        new = self.recorded(block, path)
        return _joined(new.new_zeros(before * self.batch, *new.shape[1:]) if before else None, new, entering)

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        ports: dict[tuple[str, str], list[tuple[int, PortWork]]] = {}
        for number, graph in enumerate(self.graphs):
            for port in graph.graph.work:
                ports.setdefault(port.location.key, []).append((number, port))
        with ExitStack() as stack:
            for numbered in ports.values():
                location = numbered[0][1].location
                stack.callback(hook_at(location, partial(self._see, location, numbered)).remove)
            yield

    def _see(self, location: Location, ports: Sequence[tuple[int, PortWork]], value: Any) -> Any:
        """The new value at a port, in which each graph has rows of its own."""
        stream, rebuild = find_tensor(value, location)
        shaped = stream if stream.ndim == 3 else stream.unflatten(0, (-1, self.width))
        parts = list(shaped.split(self.batch)) if len(shaped) > self.batch else [shaped]
        for number, port in ports:
            graph = self.graphs[number]
            tokens = partial(self._tokens, graph.graph)
            parts[number], kept = transform_at(port, parts[number], "base", tokens, graph.states, graph.training)
            graph.states.update(kept)
        return rebuild((torch.cat(parts) if len(parts) > 1 else parts[0]).reshape(stream.shape))

    def _tokens(self, graph: JointGraph, node: str | None, site: Site) -> Tokens:
        return self.tokens.of(graph.tables[node, site.where])


def _joined(rows: Tensor | None, new: Tensor, copies: int) -> Tensor:
    """Rows, and after them copies of new ones."""
    parts = [new] * copies if rows is None else [rows, *[new] * copies]
    return torch.cat(parts) if len(parts) > 1 else new


@contextmanager
def _head_at(head: nn.Module, rows: Tensor, columns: Tensor) -> Iterator[None]:
    """Inside, the head sees one row that holds the named cells."""

    def cells(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return args[0][rows, columns][None], *args[1:]

    handle = head.register_forward_pre_hook(in_this_thread(cells))
    try:
        yield
    finally:
        handle.remove()


def _first_tensor(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    return args[0] if args else kwargs["hidden_states"]


def _rows(value: Any, total: int, rows: int) -> Any:
    """The first `rows` of `total` in everything that has a row axis (or rows and heads in one axis)."""
    if isinstance(value, Tensor):
        return (
            value[: len(value) // total * rows]
            if value.ndim > 1 and len(value) % total == 0 and len(value) >= total
            else value
        )
    if isinstance(value, (tuple, list)):
        return type(value)(_rows(item, total, rows) for item in value)
    if isinstance(value, dict):
        return {key: _rows(item, total, rows) for key, item in value.items()}
    return value
