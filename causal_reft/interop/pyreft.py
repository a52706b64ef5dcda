"""A folder that pyreft or pyvene saved, as an intervention graph: the same edit, without either library.

    graph = load_pyreft("my_pyreft_folder", positions="f5+l5")
    reft = IntervenedModel(model, graph, tokenizer)

What such a folder does not hold must be said: the positions (pyreft is given them with every batch) and the activation
of the learned source.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from causal_reft.errors import StorageError, nearest
from causal_reft.featurizers import Featurizer, Projection, Subspace
from causal_reft.graph import Collect, Interchange, InterventionGraph, LearnedSource, Shift, Source
from causal_reft.sites import PositionsLike, Site
from causal_reft.tensors import Tensor

State = Mapping[str, Tensor]
SAME_COMPONENTS = ("block_input", "block_output", "attention_output", "mlp_output")
_NAMES = re.compile(r"[a-z_]+")
_PATH = re.compile(r"(?P<path>[\w.\[\]]+)\.(?P<port>input|output)")


def load_pyreft(
    folder: str | Path, positions: PositionsLike = "last", activation: str | None = None, dropout: float = 0.0
) -> InterventionGraph:
    """The graph in a folder that `save` of pyreft 0.0.7 or pyvene 0.1.8 wrote.

    Args:
        folder: with config.json and one intkey_*.bin for each intervention.
        positions: of every site.
        activation: of every learned source, which pyreft does not save: None for its default, "linear".
        dropout: on the edits, for further training.

    Returns:
        A node `edit` (or `edit_0`, `edit_1`, ... in the order of the folder). LoReFT, ConsReFT, LobiReFT, DiReFT,
        NoReFT, NodiReFT, and pyvene's low-rank DAS, whose source is the run "source".

    Raises:
        StorageError: no such folder; an intervention or component that has no equal here.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise StorageError(f"{folder} has no config.json: give the folder that pyreft's or pyvene's save(...) wrote.")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    seen: Counter[str] = Counter()
    nodes = []
    for representation, kind in zip(config["representations"], config["intervention_types"], strict=True):
        layer, component, unit, count = representation[:4]
        place = (
            f"layer_{layer}_comp_{component}" if _NAMES.fullmatch(component) else f"comp_{component.replace('.', '_')}"
        )
        key = f"{place}_unit_{unit}_nunit_{count}"
        state = _tensors(folder / f"intkey_{key}#{seen[key]}.bin")
        seen[key] += 1
        featurizer, source = _parts(kind.split(".")[-1].rstrip("'>"), state, activation)
        nodes.append(Interchange(_site(layer, component, unit, positions), featurizer, source, dropout=dropout))
    names = ["edit"] if len(nodes) == 1 else [f"edit_{index}" for index in range(len(nodes))]
    return InterventionGraph(**dict(zip(names, nodes, strict=True)))


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
                "constant behind the activation."
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
    """act(W h + b), or b alone, with the tensors of the folder."""
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
