"""A graph on disk: `graph.json` (every setting) and `weights.safetensors` (every tensor). Lossless, versioned, atomic.

Modules that nodes share are stored once and shared again after loading. Nothing is imported by a name found in a file:
the kinds are the table below. Unknown fields are refused, because ignoring them would load something else.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from causal_reft.errors import StorageError, nearest
from causal_reft.featurizers import Autoencoder, Featurizer, Flow, Identity, Mask, Projection, Rotation, Subspace
from causal_reft.graph.interchange import Interchange
from causal_reft.graph.intervention_graph import InterventionGraph, Node
from causal_reft.graph.sources import Collect, Constant, LearnedSource, Noise, Shift, Source
from causal_reft.sites import Site, parse_positions
from causal_reft.tensors import Tensor

SCHEMA = 1
Data = dict[str, Any]
FEATURIZERS: dict[str, type[Featurizer]] = {
    kind.__name__: kind for kind in (Identity, Subspace, Projection, Mask, Autoencoder, Flow)
}


def register_featurizer(kind: type[Featurizer]) -> None:
    """Let graphs with a featurizer of your own be saved and loaded: its `config()` must be its constructor's
    arguments.
    """
    FEATURIZERS[kind.__name__] = kind


def save_graph(graph: InterventionGraph, folder: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Write the graph to a folder, all or nothing.

    Raises:
        StorageError: the folder holds anything and `overwrite` is false.
    """
    data, tensors = graph_to_data(graph)
    write_folder(folder, {"graph.json": data}, {"weights.safetensors": tensors}, overwrite)


def load_graph(folder: str | os.PathLike[str]) -> InterventionGraph:
    """Read a graph that `save_graph` wrote.

    Raises:
        StorageError: missing files, another schema, unknown fields or kinds, missing or superfluous tensors.
    """
    path = Path(folder)
    for name in ("graph.json", "weights.safetensors"):
        if not (path / name).is_file():
            raise StorageError(f"{path} holds no {name}; a saved graph is graph.json + weights.safetensors.")
    try:
        data = json.loads((path / "graph.json").read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise StorageError(
            f"{path / 'graph.json'} is no JSON ({error}); was it cut off while it was copied?"
        ) from error
    return graph_from_data(data, load_file(path / "weights.safetensors"))


def load_weights(graph: InterventionGraph, folder: str | os.PathLike[str]) -> None:
    """Copy the tensors of a saved graph of the same structure into this one (resuming a training).

    Raises:
        StorageError: the folder holds another graph.
    """
    saved, (data, _) = load_graph(folder), graph_to_data(graph)
    if graph_to_data(saved)[0] != data:
        raise StorageError(
            f"{folder} holds another graph than the one it should be loaded into:\n{saved!r}\ninstead of\n{graph!r}"
        )
    with torch.no_grad():
        for mine, theirs in zip(graph.parameters(), saved.parameters(), strict=True):
            mine.copy_(theirs)


def write_folder(
    folder: str | os.PathLike[str],
    documents: Mapping[str, Data],
    tensors: Mapping[str, Mapping[str, Tensor]],
    overwrite: bool,
) -> None:
    """Write files beside the target, then move them in; other files of an overwritten folder stay."""
    target = Path(folder)
    if target.exists() and any(target.iterdir()) and not overwrite:
        raise StorageError(f"{target} is not empty. Nothing was written. Choose another folder or pass overwrite=True.")
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        for name, document in documents.items():
            (scratch / name).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        for name, values in tensors.items():
            save_file(dict(values), scratch / name)
        target.mkdir(exist_ok=True)
        for name in (*tensors, *documents):
            os.replace(scratch / name, target / name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def graph_to_data(graph: InterventionGraph) -> tuple[Data, dict[str, Tensor]]:
    """The graph as JSON data and named tensors."""
    writer = _Writer()
    nodes = {name: writer.node(node) for name, node in graph.nodes.items()}
    return {"schema": SCHEMA, "library": "causal_reft", "nodes": nodes, "modules": writer.modules}, writer.tensors


def graph_from_data(data: Data, tensors: Mapping[str, Tensor]) -> InterventionGraph:
    """The inverse of `graph_to_data`."""
    _only(data, {"schema", "library", "nodes", "modules"}, "graph.json")
    if data["schema"] != SCHEMA:
        raise StorageError(f"graph.json has schema {data['schema']}; this version reads {SCHEMA}. Update causal_reft.")
    reader = _Reader(data["modules"], tensors)
    graph = InterventionGraph(**{name: reader.node(node) for name, node in data["nodes"].items()})
    unused = set(tensors) - reader.used
    if unused:
        raise StorageError(
            f"weights.safetensors holds tensors that graph.json does not name: {', '.join(sorted(unused))}."
        )
    return graph


def _only(data: Mapping[str, Any], allowed: set[str], where: str) -> None:
    """Every field must be there and known."""
    unknown, missing = set(data) - allowed, allowed - set(data)
    if unknown:
        name = sorted(unknown)[0]
        raise StorageError(
            f"{where} has an unknown field {name!r}. {nearest(name, allowed)} Was it written by a newer version?"
        )
    if missing:
        raise StorageError(f"{where} lacks the field {sorted(missing)[0]!r}.")


class _Writer:
    """Collects each module once, under a running name."""

    def __init__(self) -> None:
        self.modules: dict[str, Data] = {}
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[int, str] = {}

    def node(self, node: Node) -> Data:
        if isinstance(node, Collect):
            return self.source(node)
        return {
            "kind": "Interchange",
            "site": site_to_data(node.site),
            "featurizer": self.featurizer(node.featurizer),
            "source": self.source(node.source),
            "run": node.run,
            "dropout": node.dropout,
        }

    def source(self, source: Source) -> Data:
        match source:
            case Collect():
                return {
                    "kind": "Collect",
                    "run": source.run,
                    "site": None if source.site is None else site_to_data(source.site),
                    "featurizer": None if source.featurizer is None else self.featurizer(source.featurizer),
                }
            case Shift():
                return {"kind": "Shift", "source": self.source(source.source)}
            case Noise():
                return {"kind": "Noise", "std": source.std, "seed": source.seed}
            case Constant():
                name = f"constant{len(self.tensors)}"
                self.tensors[name] = source.tensor.contiguous()
                return {"kind": "Constant", "tensor": name}
            case LearnedSource():
                return {"kind": "LearnedSource", "module": self.learned(source)}
        raise StorageError(
            f"{source!r} exists for the rows of one call and is not stored; save the graphs that it serves."
        )

    def learned(self, source: LearnedSource) -> str:
        reads = None if source.reads is None else self.source(source.reads)
        return self._module(source, "source", {**source.config(), "reads": reads})

    def featurizer(self, featurizer: Featurizer) -> str:
        if type(featurizer) is not FEATURIZERS.get(type(featurizer).__name__):
            raise StorageError(
                f"{featurizer!r} is no featurizer that a folder can name. Register it: "
                f"register_featurizer({type(featurizer).__name__})."
            )
        extra: Data = {}
        if isinstance(featurizer, Subspace):
            extra["basis"] = self._module(featurizer.basis, "rotation", {})
        if isinstance(featurizer, Mask):
            extra["inner"] = self.featurizer(featurizer.inner)
        return self._module(featurizer, "featurizer", {**featurizer.config(), **extra})

    def _module(self, module: nn.Module, role: str, config: Data) -> str:
        if id(module) in self._names:
            return self._names[id(module)]
        name = self._names[id(module)] = f"{role}{len(self._names)}"
        own = dict(module.named_parameters(recurse=False))
        trainable = {key: p.requires_grad for key, p in own.items()}
        self.modules[name] = {"kind": type(module).__name__, "config": config, "trainable": trainable}
        self.tensors.update({f"{name}.{key}": p.detach().contiguous() for key, p in own.items()})
        return name


class _Reader:
    """Builds each module once."""

    def __init__(self, modules: Mapping[str, Data], tensors: Mapping[str, Tensor]) -> None:
        self.data, self.tensors, self.used = modules, tensors, set[str]()
        self._built: dict[str, nn.Module] = {}

    def node(self, data: Data) -> Node:
        if data.get("kind") == "Interchange":
            _only(data, {"kind", "site", "featurizer", "source", "run", "dropout"}, "an Interchange in graph.json")
            featurizer, source = self.module(data["featurizer"]), self.source(data["source"])
            assert isinstance(featurizer, Featurizer)
            return Interchange(site_from_data(data["site"]), featurizer, source, data["run"], data["dropout"])
        collect = self.source(data)
        if not isinstance(collect, Collect):
            raise StorageError(f"graph.json: a node of kind {data.get('kind')!r}; allowed are Collect and Interchange.")
        return collect

    def source(self, data: Data) -> Source:
        kind = data.get("kind")
        fields = {
            "Collect": {"run", "site", "featurizer"},
            "Shift": {"source"},
            "Noise": {"std", "seed"},
            "Constant": {"tensor"},
            "LearnedSource": {"module"},
        }
        if kind not in fields:
            raise StorageError(f"graph.json: source of kind {kind!r}. {nearest(str(kind), fields)}")
        _only(data, {"kind", *fields[kind]}, f"a {kind} in graph.json")
        match kind:
            case "Collect":
                site = None if data["site"] is None else site_from_data(data["site"])
                featurizer = None if data["featurizer"] is None else self.module(data["featurizer"])
                assert featurizer is None or isinstance(featurizer, Featurizer)
                return Collect(data["run"], site, featurizer)
            case "Shift":
                inner = self.source(data["source"])
                assert isinstance(inner, (Collect, Constant, Noise, LearnedSource))
                return Shift(inner)
            case "Noise":
                return Noise(data["std"], data["seed"])
            case "Constant":
                return Constant(self._tensor(data["tensor"]))
        learned = self.module(data["module"])
        assert isinstance(learned, LearnedSource)
        return learned

    def module(self, name: str) -> nn.Module:
        if name not in self._built:
            if name not in self.data:
                raise StorageError(f"graph.json names the module {name!r} but does not describe it.")
            entry = self.data[name]
            _only(entry, {"kind", "config", "trainable"}, f"module {name!r} in graph.json")
            module = self._build(name, entry["kind"], dict(entry["config"]))
            self._fill(module, name, entry["trainable"])
            self._built[name] = module
        return self._built[name]

    def _build(self, name: str, kind: str, config: Data) -> nn.Module:
        builders: dict[str, Callable[..., nn.Module]] = {
            **FEATURIZERS,
            "LearnedSource": LearnedSource,
            "Rotation": Rotation,
        }
        if kind not in builders:
            raise StorageError(f"graph.json: module {name!r} is of unknown kind {kind!r}. {nearest(kind, builders)}")
        if kind == "Rotation":
            return Rotation(self._tensor(f"{name}.master"))
        if kind == "Autoencoder":
            weights = {
                key: self._tensor(f"{name}.{key}") for key in ("encoder", "decoder", "encoder_bias", "decoder_bias")
            }
            threshold = self._tensor(f"{name}.threshold") if config["activation"] == "jumprelu" else None
            return Autoencoder(**weights, threshold=threshold, activation=config["activation"], k=config["k"])
        if kind == "Subspace":
            basis, (start, stop) = self.module(config.pop("basis")), config.pop("slice")
            assert isinstance(basis, Rotation)
            rows, width = basis.master.shape
            if width != config["d_model"] or not 0 <= start < stop <= rows or stop - start != config["rank"]:
                raise StorageError(
                    f"graph.json: module {name!r} is rows {start} to {stop - 1} of width {config['d_model']}, but its "
                    f"rotation in weights.safetensors has {rows} rows of width {width}."
                )
            config["_basis"], config["_slice"] = basis, (start, stop)
        if kind == "Mask":
            config["inner"] = self.module(config["inner"])
        if kind == "LearnedSource":
            config["reads"] = None if config["reads"] is None else self.source(config["reads"])
        try:
            module = builders[kind](**config)
        except TypeError as error:
            raise StorageError(
                f"graph.json: module {name!r} of kind {kind} has fields that this version does not know: {error}."
            ) from error
        if isinstance(module, LearnedSource):
            module.started = True
        return module

    @torch.no_grad()
    def _fill(self, module: nn.Module, name: str, trainable: Mapping[str, bool]) -> None:
        own = dict(module.named_parameters(recurse=False))
        _only(trainable, set(own), f"module {name!r}, field 'trainable',")
        for key, parameter in own.items():
            saved = self._tensor(f"{name}.{key}")
            if saved.shape != parameter.shape:
                raise StorageError(
                    f"weights.safetensors: {name}.{key} has shape {tuple(saved.shape)}, but graph.json describes a "
                    f"{type(module).__name__} in which it has {tuple(parameter.shape)}."
                )
            parameter.data = saved.clone()
            parameter.requires_grad_(trainable[key])

    def _tensor(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise StorageError(f"weights.safetensors lacks {name!r}, which graph.json names.")
        self.used.add(name)
        return self.tensors[name]


def site_to_data(site: Site) -> Data:
    """A site as JSON data."""
    if site.path is not None:
        return {"path": site.path, "port": site.port, "positions": site.where.to_data()}
    return {"layer": site.layer, "component": site.component, "positions": site.where.to_data(), "head": site.head}


def site_from_data(data: Data) -> Site:
    """The inverse of `site_to_data`."""
    fields = {"path", "port", "positions"} if "path" in data else {"layer", "component", "positions", "head"}
    _only(data, fields, "a site in graph.json")
    positions = parse_positions(data["positions"])
    return Site.at(**{**data, "positions": positions}) if "path" in data else Site(**{**data, "positions": positions})
