"""Folders of pyreft and pyvene: read as an intervention graph, and written from one; neither library is needed.

    graph = load_pyreft("my_pyreft_folder", positions="f5+l5")
    save_pyreft(graph, "another_pyreft_folder")

The format holds neither positions, which pyreft takes with every batch, nor activation and dropout: they are arguments.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from causal_reft.errors import StorageError, nearest
from causal_reft.featurizers import Featurizer, Projection, Subspace
from causal_reft.graph import Collect, Interchange, InterventionGraph, LearnedSource, Node, Shift, Source
from causal_reft.sites import PositionsLike, Site
from causal_reft.tensors import Tensor

State = Mapping[str, Tensor]
SAME_COMPONENTS = ("block_input", "block_output", "attention_output", "mlp_output")
_EDGE = re.compile(r"[fl]\d+")
_NAMES = re.compile(r"[a-z_]+")
_PATH = re.compile(r"(?P<path>[\w.\[\]]+)\.(?P<port>input|output)")


def load_pyreft(
    folder: str | Path, positions: PositionsLike = "last", activation: str | None = None, dropout: float = 0.0
) -> InterventionGraph:
    """The graph in a folder that `save` of pyreft 0.0.7 or pyvene 0.1.8 wrote.

    Args:
        folder: with config.json and one intkey_*.bin for each intervention.
        positions: of the sites, as pyreft's own argument: "f5+l5" names at most half of a prompt at each end. In a
            folder with untied weights (every site twice, pyreft's default) the first half of the interventions acts
            on the first tokens and the second half on the last. Other positions are those of `Site`.
        activation: of every learned source, which pyreft does not save: None for its default, "linear".
        dropout: on the edits, for further training.

    Returns:
        A node `edit` (or `edit_0`, `edit_1`, ... in the order of the folder). LoReFT, ConsReFT, LobiReFT, DiReFT,
        NoReFT, NodiReFT, and pyvene's low-rank DAS, whose source is the run "source".

    Raises:
        StorageError: no such folder; an intervention or component that has no equal here; untied weights with
            positions that do not name both ends.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise StorageError(f"{folder} has no config.json: give the folder that pyreft's or pyvene's save(...) wrote.")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    seen: Counter[str] = Counter()
    nodes = []
    where = _positions_of_each(positions, [(r[0], r[1]) for r in config["representations"]])
    for representation, kind in zip(config["representations"], config["intervention_types"], strict=True):
        layer, component, unit, count = representation[:4]
        key = _key(layer, component, unit, count)
        state = _tensors(folder / f"intkey_{key}#{seen[key]}.bin")
        seen[key] += 1
        featurizer, source = _parts(kind.split(".")[-1].rstrip("'>"), state, activation)
        nodes.append(Interchange(_site(layer, component, unit, where[len(nodes)]), featurizer, source, dropout=dropout))
    names = ["edit"] if len(nodes) == 1 else [f"edit_{index}" for index in range(len(nodes))]
    return InterventionGraph(**dict(zip(names, nodes, strict=True)))


def save_pyreft(graph: InterventionGraph, folder: str | Path) -> None:
    """Write LoReFT edits in the format that `pyreft.ReftModel.load` reads.

    W and b are written as they are, and R as its orthonormal rows, so `load_pyreft` with the same positions, activation
    and dropout gives the same edit. Where every site occurs twice (untied weights), the edits of the first tokens come
    first, as pyreft expects.

    Raises:
        StorageError: a folder that is not empty; a node that is not a LoReFT edit of the base run.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StorageError(f"{target} is not empty. Nothing was written. Choose another folder.")
    nodes = sorted(graph.nodes.items(), key=lambda item: _is_last(item[1]))
    parts = [(_representation(name, node), _loreft_state(node)) for name, node in nodes]
    seen: Counter[str] = Counter()
    files: dict[str, State] = {}
    for representation, state in parts:
        layer, component, unit, count = representation[:4]
        key = _key(layer, str(component), str(unit), int(str(count)))
        files[f"{key}#{seen[key]}"] = state
        seen[key] += 1
    config = {
        "representations": [representation for representation, _ in parts],
        "intervention_types": ["<class 'pyreft.interventions.LoreftIntervention'>"] * len(parts),
        "intervention_dimensions": [state["weight"].shape[1] for _, state in parts],
        "intervention_constant_sources": [True] * len(parts),
        "sorted_keys": list(files),
        "mode": "parallel",
    }
    target.mkdir(parents=True, exist_ok=True)
    for key, state in files.items():
        torch.save(dict(state), target / f"intkey_{key}.bin")
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _is_last(node: Node) -> bool:
    """Whether a node edits the last tokens only."""
    assert node.site is not None
    return all(part.kind == "last" for part in node.site.where.parts)


def _representation(name: str, node: Node) -> list[object]:
    """A row of config.json: layer, component, unit, count, rank, and fields that LoReFT leaves open."""
    source = node.source if isinstance(node, Interchange) else None
    if (
        not isinstance(node, Interchange)
        or not isinstance(source, LearnedSource)
        or not isinstance(node.featurizer, Subspace)
        or (node.run, node.scale, source.reads) != ("base", 1, None)
        or source.weight is None
        or source.bias is None
    ):
        raise StorageError(f"Node {name!r} is no LoReFT edit, which is all that save_pyreft writes: {node!r}.")
    site = node.site
    if site.head is not None or (site.path is None and site.component not in SAME_COMPONENTS):
        raise StorageError(f"{site!r} does not mean the same in pyreft. {nearest(site.component, SAME_COMPONENTS)}")
    path = None if site.path is None else re.sub(r"\.(\d+)", r"[\1]", site.path)
    component = site.component if path is None else f"{path}.{site.port}"
    layer = site.layer if path is None else int((re.findall(r"\[(\d+)\]", path) or ["0"])[0])
    return [layer, component, "pos", 1, source.rank, *[None] * 9]


@torch.no_grad()
def _loreft_state(node: Node) -> State:
    assert isinstance(node, Interchange) and isinstance(node.featurizer, Subspace)
    learned, F = node.source, node.featurizer
    assert isinstance(learned, LearnedSource) and learned.weight is not None and learned.bias is not None
    start, stop = F.slice
    stored, rows = F.basis.master[start:stop], F.rotation
    is_stored = stored.shape == rows.shape and torch.allclose(stored, rows, rtol=0, atol=1e-6)
    rows = stored if is_stored else rows  # so that a loaded R stays to the bit
    return {"weight": learned.weight.clone(), "bias": learned.bias.clone(), "rotate_layer": rows.mT.contiguous()}


def _positions_of_each(given: PositionsLike, sites: Sequence[tuple[int, str]]) -> Sequence[PositionsLike]:
    """The positions of each intervention, by pyreft's rules."""
    edges = isinstance(given, str) and all(_EDGE.fullmatch(word.strip()) for word in given.split("+"))
    if not edges:
        if len(set(sites)) < len(sites):
            raise StorageError(
                f"This folder holds {len(sites)} interventions at {len(set(sites))} sites: its weights for the first "
                "and the last tokens are untied. Give the positions that it was trained with: positions='f5+l5'."
            )
        return [given] * len(sites)
    assert isinstance(given, str)
    words = [f"{word.strip()}<half" for word in given.split("+")]
    middle = len(sites) // 2
    if len(set(sites)) == len(sites):
        return ["+".join(words)] * len(sites)
    first, last = ([word for word in words if word[0] == letter] for letter in "fl")
    if sites[:middle] != sites[middle:] or len(set(sites)) != middle or len(first) != 1 or len(last) != 1:
        raise StorageError(
            f"This folder holds {len(sites)} interventions at {len(set(sites))} sites, which are no two equal halves "
            f"for positions={given!r}. With untied weights give both ends, e.g. positions='f5+l5'."
        )
    return [first[0]] * middle + [last[0]] * middle


def _key(layer: object, component: str, unit: str, count: int) -> str:
    """pyvene's name of an intervention."""
    named = _NAMES.fullmatch(component)
    place = f"layer_{layer}_comp_{component}" if named else f"comp_{component.replace('.', '_')}"
    return f"{place}_unit_{unit}_nunit_{count}"


def _tensors(file: Path) -> State:
    if not file.is_file():
        raise StorageError(f"{file} is missing: the folder is not whole, or its names were changed.")
    return torch.load(file, map_location="cpu", weights_only=True)


def _site(layer: int, component: str, unit: str, positions: PositionsLike) -> Site:
    if unit != "pos":
        raise StorageError(f"Unit {unit!r} has no equal here; 'pos' has. Name a head with Site(..., head=...).")
    if component in SAME_COMPONENTS:
        return Site(layer, component, positions)
    if (path := _PATH.fullmatch(component)) is not None:
        return Site.at(re.sub(r"\[(\d+)\]", r".\1", path["path"]), path["port"], positions)
    raise StorageError(
        f"Component {component!r} does not mean the same here in every family. {nearest(component, SAME_COMPONENTS)}"
    )


def _parts(kind: str, state: State, activation: str | None) -> tuple[Featurizer, Source]:
    if kind not in _KINDS:
        raise StorageError(f"{kind} has no equal here. {nearest(kind, _KINDS)}")
    return _KINDS[kind](state, activation)


def _loreft(state: State, activation: str | None) -> tuple[Featurizer, Source]:
    subspace = Subspace.from_rows(state["rotate_layer"].mT.float())
    return subspace, _learned(subspace, state["weight"], state["bias"], activation)


def _consreft(state: State, activation: str | None) -> tuple[Featurizer, LearnedSource]:
    subspace = _rotated(state)
    return subspace, _learned(subspace, None, state["learned_source"], None)


def _direft(state: State, activation: str | None) -> tuple[Featurizer, Source]:
    subspace = _rotated(state)
    weight, bias = state["learned_source.weight"], state["learned_source.bias"]
    return subspace, Shift(_learned(subspace, weight, bias, activation))


def _noreft(state: State, activation: str | None) -> tuple[Featurizer, LearnedSource]:
    weight, rows = state["learned_source.weight"], state["proj_layer.weight"].float()
    projection = Projection(rows.shape[1], rows.shape[0])
    with torch.no_grad():
        projection.weight.copy_(rows)
    bias = state["learned_source.bias"]
    if "proj_layer.bias" in state:  # act(W h + b) - (A h + c): only without an activation can c join b
        if activation is not None and bool(state["proj_layer.bias"].any()):
            raise StorageError(
                "NoreftIntervention with add_bias=True and an activation has no equal here: its projection adds a "
                "constant after the activation."
            )
        bias = bias - state["proj_layer.bias"]
    return projection, _learned(projection, weight, bias, activation)


def _nodireft(state: State, activation: str | None) -> tuple[Featurizer, Source]:
    without_bias = {name: tensor for name, tensor in state.items() if name != "proj_layer.bias"}  # never used there
    projection, source = _noreft(without_bias, activation)
    return projection, Shift(source)


def _das(state: State, activation: str | None) -> tuple[Featurizer, Source]:
    return _rotated(state), Collect("source")


def _lobireft(state: State, activation: str | None) -> tuple[Featurizer, Source]:
    featurizer, source = _consreft(state, activation)
    return featurizer, Shift(source)


def _rotated(state: State) -> Subspace:
    """The orthonormal rows of a layer saved in torch's own orthogonal parametrisation."""
    layer = nn.Module()
    layer.weight = nn.Parameter(torch.empty_like(state["rotate_layer.parametrizations.weight.original"]).float())
    nn.init.orthogonal_(layer.weight)
    nn.utils.parametrizations.orthogonal(layer)
    prefix = "rotate_layer."
    layer.load_state_dict({name[len(prefix) :]: t.float() for name, t in state.items() if name.startswith(prefix)})
    return Subspace.from_rows(layer.weight.detach().mT)


def _learned(featurizer: Featurizer, weight: Tensor | None, bias: Tensor, activation: str | None) -> LearnedSource:
    """act(W h + b), or only b, with the tensors of the folder."""
    reads_input = weight is not None
    source = LearnedSource(featurizer.rank, featurizer.d_model, reads_input, activation=activation, init="random")
    with torch.no_grad():
        for mine, theirs in ((source.weight, weight), (source.bias, bias)):
            if mine is not None and theirs is not None:
                mine.copy_(theirs)
    return source


_KINDS: dict[str, Callable[[State, str | None], tuple[Featurizer, Source]]] = {
    "LoreftIntervention": _loreft,
    "ConsreftIntervention": _consreft,
    "LobireftIntervention": _lobireft,
    "DireftIntervention": _direft,
    "NoreftIntervention": _noreft,
    "NodireftIntervention": _nodireft,
    "LowRankRotatedSpaceIntervention": _das,
}
