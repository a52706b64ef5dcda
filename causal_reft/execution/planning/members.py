"""One graph on its way into a plan: where it enters the model, which tokens it touches, and what would make it slow
or useless."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from causal_reft.execution.examples import Examples
from causal_reft.execution.inputs import Inputs, parse_inputs
from causal_reft.execution.intervened_model import IntervenedModel
from causal_reft.execution.locating import locate_graph
from causal_reft.execution.output_layout import NEXT_TOKEN
from causal_reft.execution.planning.collected import why_not_kept
from causal_reft.execution.planning.decoder import Decoder
from causal_reft.execution.planning.stages import Tables
from causal_reft.execution.planning.window import ReadTable, Table, Windows, named_columns
from causal_reft.execution.visit import PortWork
from causal_reft.graph import InterventionGraph
from causal_reft.sites import Positions


@dataclass(frozen=True)
class Member:
    """A graph of a plan on a causal decoder.

    Attributes:
        entry: the deepest block whose output no edit changes, -1 for the embeddings.
        touched: tokens that edits change up to the inputs of the attention behind the entry.
        windows: the tokens of every row that are computed.
        ineffective: edits that no logit which the loss reads can feel, and why.
    """

    model: IntervenedModel
    work: tuple[PortWork, ...]
    tables: Tables
    entry: int
    touched: Table
    windows: Windows
    ineffective: Mapping[str, str]


@dataclass
class TextData:
    """The base run and the reads of a whole dataset, with every table that was asked for."""

    inputs: Inputs
    reads: ReadTable
    _tables: dict[tuple[object, Positions], Table] = field(default_factory=dict)

    @staticmethod
    def of(model: IntervenedModel, examples: Examples) -> TextData | str:
        """Parsed once; or the reason why there is no text."""
        base = examples.runs["base"]
        inputs = parse_inputs("base", base, model.base_model)
        if inputs.width is None or "input_ids" not in inputs.kwargs:
            return "the base run is not a text"
        if examples.layout not in (None, NEXT_TOKEN):
            return "the model is not a causal language model"
        return TextData(inputs, ReadTable.of(examples, inputs.width))

    def table(self, node: str | None, positions: Positions) -> Table:
        """The columns that positions name, in the rows where a node is active."""
        active = self.inputs.active.get(node) if node is not None else None
        key = (node if active is not None else None, positions)
        if key not in self._tables:
            self._tables[key] = named_columns(self.inputs, positions, active)
        return self._tables[key]

    def text_start(self) -> torch.Tensor:
        """The first column of each row's text."""
        assert self.inputs.mask is not None
        return (self.inputs.mask != 0).long().argmax(1).cpu()


def enter(model: IntervenedModel, decoder: Decoder, data: TextData) -> Member | str:
    """Where a graph enters and what it touches; or the reason why it cannot enter in the middle."""
    graph = model.graph
    if reason := why_not_kept(graph):
        return reason
    edits = {name: node for name, node in graph.edits.items() if node.run == "base"}
    work = locate_graph(InterventionGraph(**edits), model.base_model)["base"] if edits else ()
    entries = []
    for port in work:
        entry = decoder.entry(port.location)
        if entry is None or port.location.port not in ("input", "output"):
            return f"{port.location.path!r} lies outside the blocks"
        entries.append(entry)
    tables: dict[tuple[str | None, Positions], Table] = {}
    for port in work:
        tables |= {(name, node.site.where): data.table(name, node.site.where) for name, node, _ in port.edits}
        tables |= {(None, site.where): data.table(None, site.where) for site, _ in port.reads}
    entry = min(entries, default=decoder.n_blocks - 1)
    touched = _touched(work, entry + 1, data)
    return Member(model, work, tables, entry, touched, _windows(tables, data), _ineffective(work, decoder, data))


def _touched(work: tuple[PortWork, ...], block: int, data: TextData) -> Table:
    """The tokens that edits up to the end of a block name."""
    assert data.inputs.width is not None
    named = torch.zeros(data.inputs.batch, data.inputs.width, dtype=torch.bool)
    for port in work:
        if (port.location.block or 0) <= block:
            for name, node, _ in port.edits:
                named |= data.table(name, node.site.where).mask(data.inputs.width)
    return Table.of_mask(named)


def _windows(tables: Tables, data: TextData) -> Windows:
    reads, text = data.reads.columns, data.text_start()
    last = reads.columns.gather(1, (reads.counts - 1)[:, None])[:, 0]
    start = reads.columns[:, 0]
    for (node, _), table in tables.items():
        start = torch.minimum(start, table.ends(otherwise=start)[0])
        if node is None:  # tokens from which an edit reads
            last = torch.maximum(last, table.ends(otherwise=last)[1])
    return Windows(text, start, last + 1)


def _ineffective(work: tuple[PortWork, ...], decoder: Decoder, data: TextData) -> dict[str, str]:
    """Edits without any path to a logit that is read."""
    width = data.inputs.width
    assert width is not None
    read = data.reads.columns.mask(width)
    until_last_read = read.flip(1).cummax(1).values.flip(1)
    found = {}
    for port in work:
        for name, node, location in port.edits:
            named = data.table(name, node.site.where).mask(width)
            if not bool((named & until_last_read).any()):
                found[name] = f"{node.site!r} names tokens behind everything that the loss reads"
            elif not decoder.mixes_tokens(location) and not bool((named & read).any()):
                found[name] = f"{node.site!r} changes only its own tokens from here on, and the loss reads other ones"
    return found
