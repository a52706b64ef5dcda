"""A causal decoder as the planner sees it, and where each graph enters it.

No edit changes what is computed below a graph's entry, so a forward may begin there, from recorded states. What the
planner knows of the model is read off the model itself: its blocks, its head, what its forward takes.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from causal_reft.errors import SiteError
from causal_reft.execution.backend import offloaded
from causal_reft.execution.block_shortcuts import TEXT_ARGUMENTS, directions, is_altered, is_hooked
from causal_reft.execution.input_checks import KEYS_AND_VALUES
from causal_reft.execution.intervened_model import IntervenedModel
from causal_reft.execution.locating import locate_graph
from causal_reft.execution.planning.source_cache import why_not_cached
from causal_reft.execution.planning.windows import Tables, TextData, TokenTable, Windows
from causal_reft.execution.visit import PortWork
from causal_reft.graph import InterventionGraph, Shift, TopLatents
from causal_reft.sites import Blocks, Location, find_blocks

TOKEN_LOCAL_COMPONENTS = (
    "block_output",
    "attention_output",
    "attention_head_output",
    "attention_query",
    "mlp_input",
    "mlp_activation",
    "mlp_output",
)
BEFORE_ATTENTION = ("attention_query", "attention_key", "attention_value")
FEW = 8.0  # unedited tokens a row below which recording and scattering cost as much as they save


@dataclass(frozen=True)
class Decoder:
    """A causal language model that can be entered at any block.

    `prefix_refused`: why keys and values of earlier tokens cannot be cached; empty where they can. `cache`: the name of
    the argument that takes them.
    """

    model: nn.Module
    blocks: Blocks
    head: nn.Module
    takes_positions: bool
    prefix_refused: str = ""
    cache: str = ""

    @property
    def n_blocks(self) -> int:
        """How many blocks there are."""
        return len(self.blocks.modules)

    def entry(self, location: Location) -> int | None:
        """The deepest block whose output no edit at a location changes: -1 for the embeddings, `None` if unknown.

        An edit of a block's own output acts on that output, so it enters at that block.
        """
        if location.block is None:
            return self.n_blocks - 1 if self._is_final_norm(location.path) else None
        at_output = location.path == f"{self.blocks.path}.{location.block}" and location.port == "output"
        return location.block if at_output else location.block - 1

    def mixes_tokens(self, location: Location) -> bool:
        """Whether an edit at a token of this location can reach other tokens."""
        if location.block is None:
            return not self._is_final_norm(location.path)
        if location.block < self.n_blocks - 1:
            return True
        return not (self.entry(location) == location.block or location.part in TOKEN_LOCAL_COMPONENTS)

    def _is_final_norm(self, path: str) -> bool:
        last_norm = self.blocks.row.components.get("final_norm")
        return last_norm is not None and path == f"{self.blocks.parent}.{last_norm.path[2:]}".lstrip(".")


@dataclass(frozen=True)
class JointGraph:
    """A graph that enters a decoder, and can share forwards with others.

    Attributes:
        work: the ports of its base run.
        tables: the tokens that each of its sites names.
        entry: the deepest block whose output no edit changes, -1 for the embeddings.
        edited: tokens that edits name up to the inputs of the first attention after the entry.
        windows: the tokens of every row that are computed.
        ineffective: edits that cannot affect any scored logit, and why.
    """

    model: IntervenedModel
    work: tuple[PortWork, ...]
    tables: Tables
    entry: int
    edited: TokenTable
    windows: Windows
    ineffective: Mapping[str, str]

    def recorded_projections(
        self, decoder: Decoder, windows: Windows, token_local: Collection[nn.Module]
    ) -> tuple[tuple[int, str], ...]:
        """(block, path inside it) of the queries, keys and values that are worth recording for unedited tokens.

        Args:
            decoder: the model.
            windows: the tokens of every row that are computed.
            token_local: modules that are computed at the scored tokens only, which is less still.
        """
        block = self.entry + 1
        if block >= decoder.n_blocks:
            return ()
        unedited = windows.stop - windows.start - self.edited.counts
        if float(unedited.to(torch.float64).mean()) < FEW:
            return ()
        components, inside = decoder.blocks.row.components, decoder.blocks.modules[block]
        if is_altered(inside):
            return ()
        ports = [components[name] for name in BEFORE_ATTENTION if name in components]
        paths = dict.fromkeys(port.path for port in ports if port.path and port.port == "output")
        modules = {path: inside.get_submodule(path) for path in paths}
        return tuple(
            (block, path) for path, module in modules.items() if module not in token_local and not is_hooked(module)
        )


def find_decoder(model: nn.Module, arguments: frozenset[str]) -> Decoder | str:
    """The decoder in a model, or the reason why it is not one that can be entered in the middle.

    Args:
        model: the base model.
        arguments: the keyword arguments that the base run gives it.
    """
    try:
        blocks = find_blocks(model)
    except SiteError:
        return "the model has no block list in the architecture table"
    config: Any = model.config
    generates = getattr(model, "can_generate", None)
    if (
        getattr(config, "is_encoder_decoder", False)
        or not (callable(generates) and generates())
        or False in directions(model)
    ):
        return "the model is not a causal language model"
    head = model.get_output_embeddings()  # type: ignore[operator]
    if not isinstance(head, nn.Module):
        return "the model has no output embeddings"
    if extra := sorted(arguments - set(TEXT_ARGUMENTS)):
        return f"the base run gives the model {', '.join(extra)}"
    if offloaded(model):
        return "accelerate moves the weights around each forward"
    takes = inspect.signature(model.forward).parameters
    takes_positions = blocks.row.counts_positions and "position_ids" in takes
    cache = next((name for name in KEYS_AND_VALUES if name in takes), "")
    return Decoder(model, blocks, head, takes_positions, _prefix_refused(model, cache), cache)


def _prefix_refused(model: Any, cache: str) -> str:
    if not cache:
        return "its forward takes no keys and values"
    if getattr(model, "_is_stateful", False):
        return "it keeps a state that is not keys and values"
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ()) - {
        "full_attention",
        "sliding_attention",
        "chunked_attention",
    }
    return f"it has layers of kind {', '.join(sorted(kinds))}" if kinds else ""


def enter(model: IntervenedModel, decoder: Decoder, data: TextData) -> JointGraph | str:
    """Where a graph enters and what it edits; or the reason why it cannot enter at a block."""
    graph = model.graph
    if reason := why_not_cached(graph):
        return reason
    for name, node in graph.edits.items():
        if isinstance(node.source.source if isinstance(node.source, Shift) else node.source, TopLatents):
            return f"node {name!r} compares all tokens of a row"
    edits = {name: node for name, node in graph.edits.items() if node.run == "base"}
    work = locate_graph(InterventionGraph(**edits), model.base_model)["base"] if edits else ()
    entries = []
    for port in work:
        entry = decoder.entry(port.location)
        if entry is None or port.location.port not in ("input", "output"):
            return f"{port.location.path!r} lies outside the blocks"
        entries.append(entry)
    sites = [(name, node.site) for port in work for name, node, _ in port.edits]
    sites += [(None, site) for port in work for site, _ in port.reads]
    tables = {(name, site.where): data.table(name, site.where) for name, site in sites}
    entry = min(entries, default=decoder.n_blocks - 1)
    edited = _edited(work, entry + 1, data)
    windows = _windows(tables, data)
    return JointGraph(model, work, tables, entry, edited, windows, _ineffective(work, decoder, data))


def _edited(work: Sequence[PortWork], block: int, data: TextData) -> TokenTable:
    """The tokens that edits up to the end of a block name."""
    assert data.inputs.width is not None
    named = torch.zeros(data.inputs.batch, data.inputs.width, dtype=torch.bool)
    for port in work:
        if (port.location.block or 0) <= block:
            for name, node, _ in port.edits:
                named |= data.table(name, node.site.where).mask(data.inputs.width)
    return TokenTable.of_mask(named)


def _windows(tables: Tables, data: TextData) -> Windows:
    scored, text = data.scored, data.text_start()
    last = scored.columns.gather(1, (scored.counts - 1)[:, None])[:, 0]
    start = scored.columns[:, 0]
    for (node, _), table in tables.items():
        start = torch.minimum(start, table.ends(otherwise=start)[0])
        if node is None:  # tokens from which an edit reads
            last = torch.maximum(last, table.ends(otherwise=last)[1])
    return Windows(text, start, last + 1)


def _ineffective(work: Sequence[PortWork], decoder: Decoder, data: TextData) -> dict[str, str]:
    """Edits without any path to a scored logit."""
    width = data.inputs.width
    assert width is not None
    scored = data.scored.mask(width)
    until_last_scored = scored.flip(1).cummax(1).values.flip(1)
    found = {}
    for port in work:
        for name, node, location in port.edits:
            named = data.table(name, node.site.where).mask(width)
            if not bool((named & until_last_scored).any()):
                found[name] = f"{node.site!r} names tokens after everything that the loss reads"
            elif not decoder.mixes_tokens(location) and not bool((named & scored).any()):
                found[name] = f"{node.site!r} changes only its own tokens from here on, and the loss reads other ones"
    return found
