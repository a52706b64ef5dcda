"""An intervention graph: named nodes over named runs. A value: it prints, draws, compares, slices and joins.

A node is a `Collect` (read) or an `Interchange` (edit). An edit whose source is collected from another run makes its
run wait for that one; so runs have an order, found topologically, and "serial" and "parallel" are not modes.

Several edits at one site: every source sees the state as it was before any of them, and the writes follow in the order
of the graph. In orthogonal subspaces that is their sum; in overlapping ones the later write wins, while a `Shift` adds
to what the earlier ones left. A `Collect` node sees the state that its run goes on with.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

import torch
from torch import nn

from causal_reft.display import counted, html_table, treescope_repr
from causal_reft.errors import GraphError, nearest
from causal_reft.graph.interchange import Interchange, Node
from causal_reft.graph.sources import Collect, Shift
from causal_reft.graph.storage import save_nodes
from causal_reft.graph.to_data import nodes_to_data

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TORCH_NAMES = frozenset(dir(nn.ModuleDict())) | {""}
RESERVED = ("base_model", "active", "spans", "labels", "prompt_lengths")


class InterventionGraph:
    """Named nodes: `InterventionGraph(edit=Interchange(...), seen=Collect("base", Site(3)))`.

    Raises:
        GraphError: a node that is neither `Collect` nor `Interchange`, a `Collect` node without a site, cyclic runs.
    """

    def __init__(self, **nodes: Node) -> None:
        for name, node in nodes.items():
            _check_node(name, node)
        self._nodes: dict[str, Node] = dict(nodes)
        self.runs: tuple[str, ...] = _order(self._nodes)

    @property
    def nodes(self) -> dict[str, Node]:
        """The nodes by name, in order (a copy)."""
        return dict(self._nodes)

    @property
    def edits(self) -> dict[str, Interchange]:
        """The `Interchange` nodes."""
        return {name: node for name, node in self._nodes.items() if isinstance(node, Interchange)}

    @property
    def collects(self) -> dict[str, Collect]:
        """The `Collect` nodes."""
        return {name: node for name, node in self._nodes.items() if isinstance(node, Collect)}

    @cached_property
    def modules(self) -> nn.ModuleDict:
        """Everything that holds parameters, as `{node: {"featurizer": ..., "source": ...}}`."""
        parts: dict[str, nn.Module] = {}
        for name, node in self._nodes.items():
            held = held_modules(node)
            if held:
                parts[name] = nn.ModuleDict(held)
        return nn.ModuleDict(parts)

    def parameters(self) -> Iterator[nn.Parameter]:
        """The trainable parameters, each once."""
        return self.modules.parameters()

    def only(self, *names: str) -> InterventionGraph:
        """The graph of the named nodes, sharing their parameters."""
        for name in names:
            self[name]
        return InterventionGraph(**{name: node for name, node in self._nodes.items() if name in names})

    def replace(self, **nodes: Node) -> InterventionGraph:
        """The graph with some nodes exchanged for others."""
        for name in nodes:
            self[name]
        return InterventionGraph(**{**self._nodes, **nodes})

    def scaled(self, *every: float | int, **strengths: float | int) -> InterventionGraph:
        """The graph with the change of some edits (or of every edit) multiplied; parameters are shared.

        `graph.scaled(german=0.5)` halves the edit `german`; `graph.scaled(2)` doubles all of them; 0 is no edit, a
        negative number the opposite change.

        Raises:
            GraphError: no such edit, or a strength that is not finite.
        """
        if len(every) > 1 or (every and strengths):
            raise GraphError("scaled(2) multiplies every edit, scaled(german=0.5) those that are named; give one kind.")
        strengths = dict.fromkeys(self.edits, every[0]) if every else strengths
        nodes: dict[str, Node] = {}
        for name, strength in strengths.items():
            if name not in self.edits:
                raise GraphError(f"scaled({name}={strength}): no edit is called {name!r}. {nearest(name, self.edits)}")
            edit = self.edits[name]
            nodes[name] = replace(edit, scale=edit.scale * strength)
        return self.replace(**nodes)

    def __add__(self, other: InterventionGraph) -> InterventionGraph:
        """Both graphs in one; names must differ."""
        shared = set(self._nodes) & set(other._nodes)
        if shared:
            raise GraphError(
                f"Both graphs have a node named {', '.join(map(repr, sorted(shared)))}. Rename one: "
                f"renamed({{'old': 'new'}})."
            )
        return InterventionGraph(**{**self._nodes, **other._nodes})

    def renamed(self, names: Mapping[str, str]) -> InterventionGraph:
        """The graph with some node names exchanged: `graph.renamed({"edit": "german"})`."""
        for name in names:
            self[name]
        new = [names.get(name, name) for name in self._nodes]
        if len(set(new)) < len(new):
            raise GraphError(f"renamed({dict(names)}) would give two nodes one name.")
        return InterventionGraph(**dict(zip(new, self._nodes.values(), strict=True)))

    def __getitem__(self, name: str) -> Node:
        if name not in self._nodes:
            raise GraphError(f"The graph has no node {name!r}. {nearest(name, self._nodes)}")
        return self._nodes[name]

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[str]:
        return iter(self._nodes)

    def __eq__(self, other: object) -> bool:
        """Same nodes in the same order with the same settings and bit-equal tensors."""
        if not isinstance(other, InterventionGraph):
            return NotImplemented
        (a, tensors_a), (b, tensors_b) = nodes_to_data(self._nodes), nodes_to_data(other._nodes)
        return a == b and all(torch.equal(tensors_a[key], tensors_b[key]) for key in tensors_a)

    __hash__ = None  # type: ignore[assignment] - equal by tensors, which may change: not hashable

    @property
    def n_trainable_parameters(self) -> int:
        """How many trainable numbers the graph holds, shared ones counted once."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def __repr__(self) -> str:
        head = (
            f"InterventionGraph: {counted(len(self.edits), 'edit')}, {counted(len(self.collects), 'collect')}, runs "
            f"{' -> '.join(self.runs)}, {counted(self.n_trainable_parameters, 'trainable parameter')}"
        )
        width = max((len(name) for name in self._nodes), default=0)
        return "\n".join([head, *(f"  {name:<{width}}  {node!r}" for name, node in self._nodes.items())])

    __treescope_repr__ = treescope_repr

    def _repr_html_(self) -> str:
        rows = [(name, *describe(node)) for name, node in self._nodes.items()]
        return html_table(repr(self).splitlines()[0], ("node", "run", "site", "featurizer", "source"), rows)

    def draw(self, ax: Axes | None = None) -> Axes:
        """Runs as lanes, sites along them, collects and edits as marks, and arrows from each read to its edit."""
        from causal_reft.graph.drawing import draw_nodes

        return draw_nodes(self._nodes, self.runs, self.n_trainable_parameters, ax)

    def save(self, folder: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write `graph.json`, `weights.safetensors` and their digests; `load_graph` reads them.

        Raises:
            StorageError: the folder holds anything and `overwrite` is false; a tensor holds NaN.
        """
        save_nodes(self._nodes, folder, overwrite)


def held_modules(node: Node) -> dict[str, nn.Module]:
    """The parameter holders of a node by role."""
    if isinstance(node, Collect):
        return {} if node.featurizer is None else {"featurizer": node.featurizer}
    source = node.source.source if isinstance(node.source, Shift) else node.source
    held: dict[str, nn.Module] = {"featurizer": node.featurizer}
    if isinstance(source, nn.Module):
        held["source"] = source
    if isinstance(source, Collect) and source.featurizer is not None:
        held["source_featurizer"] = source.featurizer
    return held


def describe(node: Node) -> tuple[str, str, str, str]:
    """Run, site, featurizer and source of a node, in words."""
    if isinstance(node, Collect):
        read = repr(node.featurizer) if node.featurizer else "the whole vector"
        return node.run, repr(node.site), read, "(collected)"
    return node.run, repr(node.site), repr(node.featurizer), repr(node.source)


def run_dependencies(nodes: Iterable[Node]) -> dict[str, set[str]]:
    """For each run, the other runs that must come first."""
    before: dict[str, set[str]] = {"base": set()}
    for node in nodes:
        needs = node.needs() if isinstance(node, Interchange) else ()
        before.setdefault(node.run, set()).update(need.run for need in needs if need.run != node.run)
        for need in needs:
            before.setdefault(need.run, set())
    return before


def _check_node(name: str, node: Node) -> None:
    if not isinstance(node, (Collect, Interchange)):
        raise GraphError(
            f"Node {name!r} is a {type(node).__name__}; a node is a Collect or an Interchange(site, featurizer, "
            f"source)."
        )
    if name in RESERVED or name.startswith("_"):
        raise GraphError(
            f"{name!r} cannot name a node; choose a name without a leading underscore other than {', '.join(RESERVED)}."
        )
    if name in _TORCH_NAMES or "." in name:
        raise GraphError(
            f"{name!r} cannot name a node, because torch modules use that name themselves. Write e.g. "
            f"{name.replace('.', '_')}_."
        )
    if isinstance(node, Collect) and node.site is None:
        raise GraphError(
            f"Node {name!r}: a Collect of its own needs a site. Write {name}=Collect({node.run!r}, Site(3))."
        )


def _order(nodes: Mapping[str, Node]) -> tuple[str, ...]:
    try:
        before = {run: sorted(others) for run, others in run_dependencies(nodes.values()).items()}
        return tuple(TopologicalSorter(before).static_order())  # sorted: the same order in every process
    except CycleError as error:
        raise GraphError(
            f"The runs wait for each other: {' -> '.join(error.args[1])}. An edit may only take what an earlier run "
            "collected; give the middle run a name of its own, e.g. Interchange(..., run='mid')."
        ) from error
