"""Composing subspaces: skills learned in slices of one rotation, or apart, and what their combinations do.

    h' = h + sum over i in S of (W_i h + b_i - R_i h) R_i            (Wu et al. 2024, arXiv 2404.03592, section 5)

`learn_together` trains orthogonal slices of one rotation in mixed batches, each example writing only its own rows.
`learn_apart` trains one edit for each skill by itself; such subspaces need not be orthogonal, so there are several
ways to put them together (in sequence, added, orthogonalised), and they differ. `learn_jointly` trains one edit on all
examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import combinations
from operator import add
from typing import Any

import pandas as pd
import torch
from torch import nn

from causal_reft.errors import DataError, GraphError
from causal_reft.execution import Examples, IntervenedModel
from causal_reft.featurizers import Subspace, principal_angles
from causal_reft.graph import Collect, Interchange, InterventionGraph, LearnedSource, Shift
from causal_reft.reft import as_examples, completions
from causal_reft.seeds import derive
from causal_reft.sites import Site, model_config
from causal_reft.tensors import Float, Tensor
from causal_reft.training import fit

DEFAULTS: Mapping[str, Any] = {
    "epochs": 1_000,
    "max_steps": 250,
    "batch_size": 48,
    "lr": {"featurizer": 1e-3, "source": 4e-3},
    "schedule": "linear",
    "warmup": 0.0,
}


@dataclass(frozen=True)
class Skill:
    """Something that an edit learns from (prompt, continuation) pairs, in `rank` dimensions."""

    name: str
    pairs: Sequence[tuple[str, str]] = field(repr=False)
    rank: int = 4

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise DataError(
                f"Skill(name={self.name!r}): the name becomes a node of the graph, so it must be an identifier."
            )
        if not self.pairs:
            raise DataError(f"Skill {self.name!r} has no examples.")


def learn_together(
    model: nn.Module,
    tokenizer: Any,
    skills: Sequence[Skill],
    site: Site,
    seed: int = 0,
    progress: bool = True,
    **settings: Any,
) -> InterventionGraph:
    """Slices of one rotation, trained in mixed batches; each example is edited by its own skill's rows alone.

    Args:
        model, tokenizer: a causal language model.
        skills: one slice each, in this order.
        site: where; "all" positions means all prompt tokens.
        seed: of the rotation and of the data order.
        progress: whether to show a bar.
        settings: of `fit`; `DEFAULTS` otherwise.

    Returns:
        A graph with one node for each skill.
    """
    slices = _frame(model, skills, seed).split(**{skill.name: skill.rank for skill in skills})
    graph = InterventionGraph(**{name: _loreft_node(site, part) for name, part in slices.items()})
    return _fitted(graph, model, tokenizer, mixed_examples(skills, tokenizer), seed, progress, settings)


def learn_apart(
    model: nn.Module,
    tokenizer: Any,
    skills: Sequence[Skill],
    site: Site,
    seed: int = 0,
    progress: bool = True,
    **settings: Any,
) -> InterventionGraph:
    """One subspace for each skill, each trained by itself on its own examples."""
    spaces = {skill.name: _frame(model, [skill], seed, skill.name) for skill in skills}
    graphs = {name: InterventionGraph(**{name: _loreft_node(site, space)}) for name, space in spaces.items()}
    for skill in skills:
        _fitted(graphs[skill.name], model, tokenizer, _examples([skill], tokenizer), seed, progress, settings)
    return reduce(add, graphs.values())


def learn_jointly(
    model: nn.Module,
    tokenizer: Any,
    skills: Sequence[Skill],
    site: Site,
    seed: int = 0,
    progress: bool = True,
    **settings: Any,
) -> InterventionGraph:
    """One edit of the same total rank, trained on the examples of all skills alike: nothing to switch off."""
    graph = InterventionGraph(joint=_loreft_node(site, _frame(model, skills, seed)))
    return _fitted(graph, model, tokenizer, _examples(skills, tokenizer), seed, progress, settings)


def mixed_examples(skills: Sequence[Skill], tokenizer: Any) -> Examples:
    """The examples of all skills; `active` says that each row is edited by its own skill's node alone."""
    owner = [skill.name for skill in skills for _ in skill.pairs]
    examples = _examples(skills, tokenizer)
    base = examples.runs["base"]
    assert isinstance(base, Mapping)
    active = {skill.name: torch.tensor([name == skill.name for name in owner]) for skill in skills}
    return Examples({"base": {**base, "active": active}}, examples.labels, {"skill": owner})


# Putting edits together ---------------------------------------------------------------------------------------------


def added(graph: InterventionGraph, **coefficients: float) -> InterventionGraph:
    """The edits as additions to the stream, each times its coefficient (1 by default): order does not matter.

    Where the subspaces are orthogonal and all coefficients are 1, this is the graph itself.
    """
    for name in coefficients:
        graph[name]
    return InterventionGraph(
        **{name: _scaled(name, node, coefficients.get(name, 1.0)) for name, node in graph.edits.items()}
    )


def reordered(graph: InterventionGraph, *names: str) -> InterventionGraph:
    """The same nodes in another order: at one site the later write wins where subspaces overlap."""
    if sorted(names) != sorted(graph.nodes):
        raise GraphError(f"reordered({', '.join(names)}) must name every node once: {', '.join(graph.nodes)}.")
    return InterventionGraph(**{name: graph[name] for name in names})


def orthogonalised(graph: InterventionGraph) -> InterventionGraph:
    """Edits whose subspaces are made orthogonal, earlier ones first (Gram-Schmidt); each keeps its change in
    coordinates.
    """
    nodes = graph.edits
    rows = torch.cat([_subspace(name, node).rotation.detach() for name, node in nodes.items()])
    slices = Subspace.from_rows(rows).split(**{name: _subspace(name, node).rank for name, node in nodes.items()})
    return InterventionGraph(**{name: _moved(name, node, slices[name]) for name, node in nodes.items()})


def subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    """All 2^n subsets, the empty one first."""
    return [subset for size in range(len(names) + 1) for subset in combinations(names, size)]


def subset_name(subset: Sequence[str]) -> str:
    """`"german + answer"`, or `"unedited"`."""
    return " + ".join(subset) or "unedited"


# Measuring how they meet --------------------------------------------------------------------------------------------


def angles(graph: InterventionGraph) -> pd.DataFrame:
    """Principal angles between the subspaces of every two edits: columns `one`, `two`, `index`, `degrees`."""
    spaces = {name: _subspace(name, node).rotation.detach() for name, node in graph.edits.items()}
    return pd.DataFrame([
        {"one": one, "two": two, "index": index, "degrees": float(angle)}
        for one, two in combinations(spaces, 2)
        for index, angle in enumerate(principal_angles(spaces[one], spaces[two]))
    ], columns=["one", "two", "index", "degrees"])  # fmt: skip


@torch.no_grad()
def interference(model: nn.Module, graph: InterventionGraph, inputs: Mapping[str, Tensor]) -> pd.DataFrame:
    """What each edit does to the coordinates of every subspace, on given prompts.

    Columns `edit`, `subspace`, `share`: the root mean square of the part of the edit's change that lies in the
    subspace, over that of the whole change. 1 on the diagonal; 0 elsewhere where the subspaces are orthogonal.
    """
    changes = {name: _change(model, name, graph, inputs) for name in graph.edits}
    spaces = {name: _subspace(name, node) for name, node in graph.edits.items()}
    return pd.DataFrame([
        {"edit": edit, "subspace": name, "share": float(space.read(change).norm() / change.norm().clamp_min(1e-30))}
        for edit, change in changes.items()
        for name, space in spaces.items()
    ])  # fmt: skip


def _change(
    model: nn.Module, name: str, graph: InterventionGraph, inputs: Mapping[str, Tensor]
) -> Float[Tensor, "token d_model"]:
    """What one edit adds at its site, at the tokens that it names."""
    node = graph.edits[name]
    seen = InterventionGraph(seen=Collect(node.run, node.site))
    before = IntervenedModel(model, seen).collect(inputs)["seen"]
    after = IntervenedModel(model, graph.only(name) + seen).collect(inputs)["seen"]
    change = (after - before).flatten(0, 1)
    return change[~change.isnan().any(-1)]


def _scaled(name: str, node: Interchange, coefficient: float) -> Interchange:
    space, source = _subspace(name, node), _learned(name, node)
    assert source.weight is not None and source.bias is not None
    rows, strength = space.rotation.detach(), coefficient * node.scale
    shift = LearnedSource(space.rank, space.d_model, init="random")
    _copy(shift, strength * (source.weight.detach() - rows), strength * source.bias.detach())
    return Interchange(node.site, space, Shift(shift), node.run)


def _moved(name: str, node: Interchange, space: Subspace) -> Interchange:
    old, source = _subspace(name, node), _learned(name, node)
    assert source.weight is not None and source.bias is not None
    moved = LearnedSource(space.rank, space.d_model, init="random")
    _copy(moved, source.weight.detach() - old.rotation.detach() + space.rotation.detach(), source.bias.detach())
    return Interchange(node.site, space, moved, node.run, scale=node.scale)


@torch.no_grad()
def _copy(source: LearnedSource, weight: Tensor, bias: Tensor) -> None:
    assert source.weight is not None and source.bias is not None
    source.weight.copy_(weight)
    source.bias.copy_(bias)


def _subspace(name: str, node: Interchange) -> Subspace:
    if not isinstance(node.featurizer, Subspace):
        raise GraphError(f"Node {name!r} has {node.featurizer!r}; composing is about edits in a Subspace.")
    return node.featurizer


def _learned(name: str, node: Interchange) -> LearnedSource:
    source = node.source
    if not isinstance(source, LearnedSource) or source.activation or source.weight is None or source.bias is None:
        raise GraphError(
            f"Node {name!r} has {source!r}; only a linear LearnedSource with a bias (LoReFT) can be scaled or moved."
        )
    return source


def _loreft_node(site: Site, space: Subspace) -> Interchange:
    return Interchange(site, space, LearnedSource(space.rank, space.d_model))


def _examples(skills: Sequence[Skill], tokenizer: Any) -> Examples:
    pairs = [pair for skill in skills for pair in skill.pairs]
    return as_examples(completions(pairs, tokenizer, end=False), tokenizer)


def _frame(model: nn.Module, skills: Sequence[Skill], seed: int, *purpose: str) -> Subspace:
    """An untrained rotation with the rows of all skills."""
    config = model_config(model)
    if config is None:
        raise DataError(f"{type(model).__name__} has no transformers config; composing needs a language model.")
    rank = sum(skill.rank for skill in skills)
    return Subspace(int(config.hidden_size), rank, derive(seed, "rotation", *purpose))


def _fitted(
    graph: InterventionGraph,
    model: nn.Module,
    tokenizer: Any,
    examples: Examples,
    seed: int,
    progress: bool,
    settings: Mapping[str, Any],
) -> InterventionGraph:
    intervened = IntervenedModel(model, graph, tokenizer)
    fit(intervened, examples, seed=seed, progress=progress, interruptible=False, **{**DEFAULTS, **settings})
    return graph
