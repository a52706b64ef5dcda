"""Serving: one model, many graphs, another one for each row of a batch, and none for some.

Edits of equal structure at one site are stacked: rows A (graph, rank, d_model), weights W and biases b alike, and
each row of a batch takes its own slice, so a batch costs the same whichever graphs its rows use:

    h' = h + s_g A_g^T (z - A_g h),   z = act(W_g h + b_g)   (z = A_g h + act(...) under `Shift`),   g the row's graph,
and s_g the scale of its edit
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from causal_reft.display import Listed, counted
from causal_reft.errors import GraphError, RunError, nearest
from causal_reft.execution.inputs import RunInputs
from causal_reft.execution.intervened_model import IntervenedModel
from causal_reft.execution.threads import one_at_a_time
from causal_reft.featurizers import Featurizer, Identity, Projection, RowsOfStack, StackedFeaturizer, Subspace
from causal_reft.graph import Constant, EditContext, Interchange, InterventionGraph, LearnedSource, RowSource, Shift
from causal_reft.graph.learned import ACTIVATIONS
from causal_reft.sites import Site, locate
from causal_reft.tensors import Coordinates, Hidden, Tensor


@dataclass(frozen=True)
class Structure:
    """What edits must share to be computed together.

    `place` counts the edits of one graph at one value of the model, whatever their positions: stacks act in the order
    of their places, so the edits of every graph keep their order.
    """

    place: int
    site: Site
    d_model: int
    rank: int
    whole: bool
    weighted: bool
    shifted: bool
    activation: str | None


@dataclass(frozen=True)
class Parts:
    """One edit taken apart: A (None for the whole vector), W, b and the scale of the change."""

    rows: Tensor | None
    weight: Tensor | None
    bias: Tensor
    scale: Tensor


class Stack:
    """The edits of one structure, stacked; for each call the rows of the batch choose among them."""

    def __init__(self, structure: Structure, parts: Mapping[str, Parts]) -> None:
        self.structure, self.names = structure, {name: i for i, name in enumerate(parts)}
        rows, weight, bias, scale = (
            _stacked(getattr(part, name) for part in parts.values()) for name in ("rows", "weight", "bias", "scale")
        )
        assert bias is not None and scale is not None
        self.featurizer = StackedFeaturizer(rows, structure.d_model, scale if bool((scale != 1).any()) else None)
        self.source = StackedSource(structure, weight, bias)

    def choose(self, graphs: Sequence[str | None]) -> list[bool]:
        """Take one edit for each row of the batch; returns the rows that have one."""
        indices = [self.names.get(name, -1) if name is not None else -1 for name in graphs]
        self.featurizer.choose(torch.tensor(indices))
        return [index >= 0 for index in indices]


def _stacked(tensors: Iterable[Tensor | None]) -> Tensor | None:
    """One tensor of all; nothing where the structure has none."""
    present = [tensor for tensor in tensors if tensor is not None]
    return torch.stack(present) if present else None


class StackedSource(RowSource):
    """The sources of a stack, for the rows that the featurizer is bound to."""

    def __init__(self, structure: Structure, weight: Tensor | None, bias: Tensor) -> None:
        self.structure, self.weight, self.bias = structure, weight, bias

    def coordinates(self, h: Hidden, featurizer: Featurizer, context: EditContext) -> Coordinates:
        assert isinstance(featurizer, RowsOfStack)
        x = h.to(torch.promote_types(h.dtype, self.bias.dtype))
        z = featurizer.each(self.bias).to(x.dtype)
        if self.weight is not None:
            z = z + featurizer.times(self.weight, x)
        if self.structure.activation is not None:
            z = ACTIVATIONS[self.structure.activation](z)
        return z + featurizer.read(context.now) if self.structure.shifted else z


class Served(Listed):
    """A model under many graphs, each row of a batch under its own.

    Args:
        model: a transformers model or any module; used through hooks, one call at a time (threads wait for each other).
        tokenizer: kept for conveniences that need text.

    Example:
        >>> served = Served(model)
        >>> served.add("formal", load_graph("formal")); served.add("german", load_graph("german"))
        >>> served.generate(**prompts, graphs=["formal", None, "german"], max_new_tokens=20)
    """

    def __init__(self, model: nn.Module, tokenizer: Any = None) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.graphs: dict[str, InterventionGraph] = {}
        self._stacks: dict[str, Stack] = {}
        self._restack({})

    def add(self, name: str, graph: InterventionGraph) -> None:
        """Serve one more graph from the next call on; its tensors are copied as they are now.

        Raises:
            GraphError: a name that is taken; a graph with several runs, or edits that do not stack.
            SiteError: a site that the model does not have.
        """
        if name in self.graphs:
            raise GraphError(f"A graph called {name!r} is served already. Remove it first: served.remove({name!r}).")
        with one_at_a_time(self.model):
            self._restack({**self.graphs, name: graph})

    def remove(self, name: str) -> None:
        """Serve this graph no longer.

        Raises:
            GraphError: no such graph.
        """
        self._check(name)
        with one_at_a_time(self.model):
            self._restack({other: graph for other, graph in self.graphs.items() if other != name})

    @torch.no_grad()
    def __call__(self, base: RunInputs | None = None, *, graphs: Sequence[str | None], **keywords: Any) -> Any:
        """The model's own output, row i under `graphs[i]`.

        Raises:
            RunError: not one name (or None) for each row.
            GraphError: a name that is not served.
        """
        with one_at_a_time(self.model):
            return self._intervened(base, active=self._choose(graphs, base, keywords), **keywords)

    def generate(self, base: RunInputs | None = None, *, graphs: Sequence[str | None], **keywords: Any) -> Any:
        """The model's own `generate`, row i under `graphs[i]`."""
        with one_at_a_time(self.model):
            return self._intervened.generate(base, active=self._choose(graphs, base, keywords), **keywords)

    def _listed(self) -> tuple[str, list[tuple[str, str]]]:
        graphs, stacks = counted(len(self.graphs), "graph"), counted(len(self._stacks), "stack")
        rows = [(name, repr(graph).splitlines()[0].partition(": ")[2]) for name, graph in self.graphs.items()]
        return f"Served({type(self.model).__name__}): {graphs} in {stacks}", rows

    def _choose(self, graphs: Sequence[str | None], base: Any, keywords: Mapping[str, Any]) -> dict[str, list[bool]]:
        rows = next(
            len(v)
            for v in ((base,) if isinstance(base, Tensor) else (base or keywords).values())
            if isinstance(v, Tensor)
        )
        if len(graphs) != rows:
            raise RunError(f"graphs has {len(graphs)} entries for {rows} rows; give one name or None for each row.")
        for name in set(graphs) - {None}:
            self._check(str(name))
        return {node: stack.choose(graphs) for node, stack in self._stacks.items()}

    def _check(self, name: str) -> None:
        if name not in self.graphs:
            raise GraphError(f"No graph called {name!r} is served. {nearest(name, self.graphs)}")

    def _restack(self, graphs: Mapping[str, InterventionGraph]) -> None:
        """Sort all edits by structure, stack each kind, and make one graph of them."""
        found: dict[Structure, dict[str, Parts]] = {}
        dtype = torch.promote_types(next((p.dtype for p in self.model.parameters()), torch.float32), torch.float32)
        for name, graph in graphs.items():
            for structure, parts in taken_apart(name, graph, dtype, self.model).items():
                found.setdefault(structure, {})[name] = parts
        ordered = sorted(found, key=lambda structure: structure.place)
        stacks = {f"stack_{i}": Stack(structure, found[structure]) for i, structure in enumerate(ordered)}
        nodes = {
            key: Interchange(stack.structure.site, stack.featurizer, stack.source) for key, stack in stacks.items()
        }
        self._intervened = IntervenedModel(self.model, InterventionGraph(**nodes), self.tokenizer).train(False)
        self.graphs, self._stacks = dict(graphs), stacks


@torch.no_grad()
def taken_apart(name: str, graph: InterventionGraph, dtype: torch.dtype, model: nn.Module) -> dict[Structure, Parts]:
    """Each edit of a graph by its structure, its tensors copied in the precision in which they will be used.

    Raises:
        GraphError: more than the base run, or a featurizer or source that does not stack.
        SiteError: a site that the model does not have.
    """
    if graph.runs != ("base",) or graph.collects:
        raise GraphError(
            f"Graph {name!r} has runs {', '.join(graph.runs)} and {len(graph.collects)} collects; only edits of the "
            "base run are served."
        )
    parts: dict[Structure, Parts] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for key, node in graph.edits.items():
        value = locate(model, node.site).key
        structure, part = _parts(f"{name}.{key}", node, counts[value], dtype)
        counts[value] += 1
        parts[structure] = part
    return parts


def _parts(name: str, node: Interchange, place: int, dtype: torch.dtype) -> tuple[Structure, Parts]:
    F, shifted = node.featurizer, isinstance(node.source, Shift)
    source = node.source.source if isinstance(node.source, Shift) else node.source
    stackable = (isinstance(source, LearnedSource) and source.reads is None) or (
        isinstance(source, Constant) and source.tensor.ndim < 2
    )
    if not isinstance(F, (Subspace, Projection, Identity)) or not stackable:
        raise GraphError(
            f"Edit {name} does not stack: {node!r}. Served are Subspace, Projection and Identity with LearnedSource "
            "or Constant."
        )
    rows = None if isinstance(F, Identity) else deepcopy(F).to(dtype).rows()
    if isinstance(source, Constant):
        weight, bias, activation = None, source.tensor.expand(F.rank), None
    else:
        assert isinstance(source, LearnedSource)
        weight, activation = source.weight, source.activation
        bias = torch.zeros(F.rank) if source.bias is None else source.bias
    structure = Structure(place, node.site, F.d_model, F.rank, rows is None, weight is not None, shifted, activation)
    rows, weight = (None if tensor is None else tensor.to(dtype, copy=True) for tensor in (rows, weight))
    return structure, Parts(rows, weight, bias.to(dtype, copy=True), torch.tensor(node.scale, dtype=dtype))
