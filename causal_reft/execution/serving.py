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

from causal_reft.errors import GraphError, RunError, nearest
from causal_reft.execution.inputs import RunInputs
from causal_reft.execution.intervened_model import IntervenedModel
from causal_reft.execution.threads import one_at_a_time
from causal_reft.featurizers import Featurizer, Identity, Projection, Subspace
from causal_reft.featurizers.featurizer import add_in
from causal_reft.graph import Constant, Interchange, InterventionGraph, LearnedSource, RowSource, Shift
from causal_reft.graph.sources import ACTIVATIONS, EditContext
from causal_reft.sites import Site, locate
from causal_reft.tensors import Coordinates, Float, Hidden, Int, Tensor


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
    """The edits of one structure, stacked, and for the current call which of them each row of the batch takes."""

    rows: Tensor | None
    weight: Tensor | None
    bias: Tensor
    scale: Tensor

    def __init__(self, structure: Structure, parts: Mapping[str, Parts]) -> None:
        self.structure, self.names = structure, {name: i for i, name in enumerate(parts)}
        self.rows, self.weight = (
            _stacked(part.rows for part in parts.values()),
            _stacked(part.weight for part in parts.values()),
        )
        self.bias = torch.stack([part.bias for part in parts.values()])
        self.scale = torch.stack([part.scale for part in parts.values()])
        self.scaled = bool((self.scale != 1).any())
        self.chosen = torch.zeros(0, dtype=torch.long)
        self._bound: StackedFeaturizer | None = None

    def choose(self, graphs: Sequence[str | None]) -> list[bool]:
        """Take one edit for each row of the batch; returns the rows that have one."""
        indices = [self.names.get(name, -1) if name is not None else -1 for name in graphs]
        self.chosen, self._bound = torch.tensor(indices), None
        return [index >= 0 for index in indices]

    def bound(self, rows: Int[Tensor, " token"]) -> StackedFeaturizer:
        """The featurizer for tokens of these rows; the steps of a generation name the same rows again and again."""
        if self._bound is None or self._bound.of is not rows:
            self._bound = StackedFeaturizer(self, rows)
        return self._bound

    def to(self, device: torch.device) -> None:
        """Move the tensors, once."""
        if self.bias.device != device:
            self.rows, self.weight = (None if t is None else t.to(device) for t in (self.rows, self.weight))
            self.bias, self.scale = self.bias.to(device), self.scale.to(device)


def _stacked(tensors: Iterable[Tensor | None]) -> Tensor | None:
    """One tensor of all; nothing where the structure has none."""
    present = [tensor for tensor in tensors if tensor is not None]
    return torch.stack(present) if present else None


class StackedFeaturizer(Featurizer):
    """The featurizers of a stack; bound to the rows of the edited tokens before it reads or writes."""

    is_lens = False

    def __init__(self, stack: Stack, rows: Int[Tensor, " token"] | None = None) -> None:
        super().__init__()
        self.stack, self.d_model, self.rank = stack, stack.structure.d_model, stack.structure.rank
        if rows is not None:
            self._bind(rows)

    def of_rows(self, rows: Int[Tensor, " token"]) -> StackedFeaturizer:
        return self.stack.bound(rows)

    def _bind(self, rows: Int[Tensor, " token"]) -> None:
        """Lay the tokens out by row, (row, token of the row), because the tokens of a row share their matrices."""
        self.stack.to(rows.device)
        self.of, chosen = rows, self.stack.chosen.to(rows.device)
        mine, self.row_of, counts = rows.unique_consecutive(return_inverse=True, return_counts=True)
        first = counts.cumsum(0) - counts
        self.slot_of = torch.arange(len(rows), device=rows.device) - first[self.row_of]
        self.shape = len(mine), int(counts.max()) if len(counts) else 0
        self.A, self.W = (None if t is None else t[chosen[mine]] for t in (self.stack.rows, self.stack.weight))
        self.b = self.stack.bias[chosen[rows]]
        self.s = self.stack.scale[chosen[rows], None]

    def times(self, matrices: Float[Tensor, "row out in"], x: Float[Tensor, "token in"]) -> Float[Tensor, "token out"]:
        """Each token times the matrix of its row."""
        if self.shape[1] == 1:
            return torch.bmm(x[:, None], matrices.to(x.dtype).mT)[:, 0]
        laid_out = x.new_zeros(*self.shape, x.shape[-1]).index_put((self.row_of, self.slot_of), x)
        return torch.bmm(laid_out, matrices.to(x.dtype).mT)[self.row_of, self.slot_of]

    def read(self, h: Hidden) -> Coordinates:
        x = h.to(torch.promote_types(h.dtype, self.stack.bias.dtype))
        return x if self.A is None else self.times(self.A, x)

    def write(self, h: Hidden, z: Coordinates) -> Hidden:
        if self.A is None and not self.stack.scaled:
            return z.to(h.dtype)
        change = z - self.read(h) if self.A is None else self.times(self.A.mT, z - self.read(h))
        return add_in(h, self.s.to(change.dtype) * change)

    def config(self) -> dict[str, object]:
        raise GraphError("A stack of served graphs is not saved; save the graphs themselves.")


class StackedSource(RowSource):
    """The sources of a stack, for the rows that the featurizer is bound to."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    def coordinates(self, h: Hidden, featurizer: Featurizer, context: EditContext) -> Coordinates:
        assert isinstance(featurizer, StackedFeaturizer)
        structure = self.stack.structure
        x = h.to(torch.promote_types(h.dtype, self.stack.bias.dtype))
        z = featurizer.b.to(x.dtype)
        if featurizer.W is not None:
            z = z + featurizer.times(featurizer.W, x)
        if structure.activation is not None:
            z = ACTIVATIONS[structure.activation](z)
        return z + featurizer.read(context.now) if structure.shifted else z


class Served:
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

    def __repr__(self) -> str:
        head = f"Served({type(self.model).__name__}, {len(self.graphs)} graphs in {len(self._stacks)} stacks"
        return f"{head}: {', '.join(self.graphs) or 'none'})"

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
            key: Interchange(s.structure.site, StackedFeaturizer(s), StackedSource(s)) for key, s in stacks.items()
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
