"""One reduced forward for several graphs: each joins the batch at the block where it enters, as rows of their own.

    blocks before the first entry      are not computed
    a block where graphs enter         returns the rows under way, and below them the recorded states of the new ones
    the projections of the block next  see the tokens that edits touched; the others are recorded
    most of the last block             sees the tokens that the loss reads, and no others; so does the head

For the time of the call the blocks' `forward` is exchanged, and the model's own forward is called: masks, rotary
embeddings, scaling, soft caps and the final norm stay the model's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from causal_reft.execution.cells import forward_is, known_but_at, only_at, worth_it
from causal_reft.execution.kernels import in_one_kernel
from causal_reft.execution.passes import logits_of
from causal_reft.execution.planning.decoder import Decoder
from causal_reft.execution.planning.window import Table, WindowTokens
from causal_reft.execution.threads import in_this_thread
from causal_reft.execution.transform import Edit, Place, States, transform
from causal_reft.execution.visit import PortWork, find_input, find_tensor
from causal_reft.sites import Location, Positions, Site
from causal_reft.tensors import Bool, Float, Tensor

Tables = Mapping[tuple[str | None, Positions], Table]


@dataclass(frozen=True)
class Guest:
    """One graph in a joint forward: where it enters (-1: at the embeddings), what it does there and to which tokens,
    what it was lent."""

    entry: int
    work: Sequence[PortWork]
    tables: Tables
    touched: Table
    states: States
    training: bool


@dataclass(frozen=True)
class Stage:
    """A joint forward: the guests in the order of their entries, `batch` rows each, and the states with which they
    enter. `known`: for a block, the projections whose output is recorded for untouched tokens. `alone`: modules of the
    last block that need only the cells that are read."""

    decoder: Decoder
    guests: Sequence[Guest]
    batch: int
    width: int
    tokens: WindowTokens
    recorded: Callable[[int, str], Float[Tensor, "batch window width"]]
    tuples: int
    known: Mapping[int, Sequence[str]] = field(default_factory=dict)
    alone: Sequence[nn.Module] = ()

    def logits(
        self, arguments: Mapping[str, Any], read_rows: Tensor, read_columns: Tensor
    ) -> Float[Tensor, "guest read classes"]:
        """The logits at the cells that the loss reads, for every guest."""
        offsets = torch.arange(len(self.guests))[:, None] * self.batch
        rows = (offsets + read_rows).flatten().to(self.tokens.device)
        columns = read_columns.repeat(len(self.guests)).to(self.tokens.device)
        finishing = self.under_way(self.decoder.n_blocks - 1) * len(read_rows)
        with (
            self._replaced_blocks(),
            self._hooked(),
            self._beginning(),
            in_one_kernel(self.decoder.chains),
            only_at(self.alone, rows[:finishing], columns[:finishing]),
            _head_at(self.decoder.head, rows, columns),
        ):
            output = self.decoder.model(**arguments)
        return logits_of(output).reshape(len(self.guests), len(read_rows), -1)

    def under_way(self, block: int) -> int:
        """Guests that have entered before a block runs."""
        return sum(guest.entry < block for guest in self.guests)

    @contextmanager
    def _replaced_blocks(self) -> Iterator[None]:
        with ExitStack() as stack:
            for index, block in enumerate(self.decoder.blocks.modules):
                before, after = self.under_way(index), self.under_way(index + 1)
                if before < len(self.guests):
                    forward = partial(self._forward, index, block.forward, before, after - before)
                    stack.enter_context(forward_is(block, forward))
            yield

    def _forward(
        self, index: int, own: Callable[..., Any], before: int, joining: int, *args: Any, **kwargs: Any
    ) -> Any:
        """What a block does while not all guests are under way."""
        if not before:
            new = self.recorded(index, "") if joining else None
            hidden = _first_tensor(args, kwargs) if new is None else _stacked(None, new, joining)
            return (hidden, *[None] * (self.tuples - 1)) if self.tuples else hidden
        total, rows = len(self.guests) * self.batch, before * self.batch
        output = own(*_rows(args, total, rows), **_rows(kwargs, total, rows))
        if not joining:
            return output
        location = Location(f"{self.decoder.blocks.path}.{index}", self.decoder.blocks.modules[index], "output")
        hidden, rebuild = find_tensor(output, location)
        return rebuild(_stacked(hidden, self.recorded(index, ""), joining))

    @contextmanager
    def _beginning(self) -> Iterator[None]:
        """The projections behind an entry are computed for touched tokens, and for graphs that are further."""
        with ExitStack() as stack:
            for block, paths in self.known.items():
                before, under_way = self.under_way(block - 1), self.under_way(block)
                cells = torch.cat([self._everything(before), *map(self._touched, self.guests[before:under_way])])
                if before == under_way or not worth_it(int(cells.sum()), cells.numel()):
                    continue
                rows, columns = (index.to(self.tokens.device) for index in cells.nonzero(as_tuple=True))
                for path in paths:
                    module = self.decoder.blocks.modules[block].get_submodule(path)
                    elsewhere = partial(self._elsewhere, block, path, before, under_way - before)
                    stack.enter_context(known_but_at(module, rows, columns, elsewhere))
            yield

    def _everything(self, guests: int) -> Bool[Tensor, "row pos"]:
        return torch.ones(guests * self.batch, self.width, dtype=torch.bool)

    def _touched(self, guest: Guest) -> Bool[Tensor, "row pos"]:
        tokens = self.tokens.of(guest.touched)
        cells = torch.zeros(self.batch, self.width, dtype=torch.bool)
        cells[tokens.rows.cpu(), tokens.columns.cpu()] = True
        return cells

    def _elsewhere(self, block: int, path: str, before: int, joining: int) -> Tensor:
        new = self.recorded(block, path)
        return _stacked(new.new_zeros(before * self.batch, *new.shape[1:]) if before else None, new, joining)

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        ports: dict[tuple[str, str], list[tuple[int, PortWork]]] = {}
        for number, guest in enumerate(self.guests):
            for port in guest.work:
                ports.setdefault(port.location.key, []).append((number, port))
        with ExitStack() as stack:
            for visitors in ports.values():
                location = visitors[0][1].location
                stack.callback(_attached(location, partial(self._see, location, visitors)).remove)
            yield

    def _see(self, location: Location, visitors: Sequence[tuple[int, PortWork]], value: Any) -> Any:
        """The value at a port, each guest's rows handed to `transform` on their own."""
        stream, rebuild = find_tensor(value, location)
        shaped = stream if stream.ndim == 3 else stream.unflatten(0, (-1, self.width))
        parts = list(shaped.split(self.batch)) if len(shaped) > self.batch else [shaped]
        for number, port in visitors:
            parts[number] = self._changed(self.guests[number], port, parts[number])
        return rebuild((torch.cat(parts) if len(parts) > 1 else parts[0]).reshape(stream.shape))

    def _changed(self, guest: Guest, port: PortWork, stream: Tensor) -> Tensor:
        new, kept = transform(
            stream,
            "base",
            [Edit(name, node, self._place(guest, name, node.site, where)) for name, node, where in port.edits],
            [self._place(guest, None, site, where) for site, where in port.reads],
            [],
            guest.states,
            guest.training,
        )
        guest.states.update(kept)
        return new

    def _place(self, guest: Guest, node: str | None, site: Site, location: Location) -> Place:
        return Place(site, location, self.tokens.of(guest.tables[node, site.where]))


def _stacked(above: Tensor | None, new: Tensor, copies: int) -> Tensor:
    """Rows, and below them copies of new ones."""
    parts = [new] * copies if above is None else [above, *[new] * copies]
    return torch.cat(parts) if len(parts) > 1 else new


def _attached(location: Location, see: Callable[[Any], Any]) -> RemovableHandle:
    """A hook that hands the value at a port to `see` and puts back what comes out."""
    if location.port == "output":
        return location.module.register_forward_hook(in_this_thread(lambda module, args, output: see(output)))
    hook = in_this_thread(partial(_with_input_seen, location, see))
    return location.module.register_forward_pre_hook(hook, with_kwargs=True)


def _with_input_seen(
    location: Location, see: Callable[[Any], Any], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    name = find_input(module, args, kwargs, location)
    if name is None:
        return (see(args[0]), *args[1:]), kwargs
    return args, {**kwargs, name: see(kwargs[name])}


@contextmanager
def _head_at(head: nn.Module, rows: Tensor, columns: Tensor) -> Iterator[None]:
    """The head sees one row that holds the named cells."""

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
    """The rows that are under way of everything that has a row axis (or rows and heads in one axis)."""
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
