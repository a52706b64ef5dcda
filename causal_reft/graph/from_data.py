"""JSON data and named tensors as nodes: every setting, kind and shape is checked before anything is built from it.

The last check is the round trip: what was built, written again, must be the document that was read. So no field is
ignored and no value is turned into another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from causal_reft.errors import CausalReftError, StorageError, nearest
from causal_reft.featurizers import Autoencoder, Featurizer, Rotation
from causal_reft.graph.fields import FLAG, RECORD, SEED, TEXT, Field, checked, maybe, number, whole
from causal_reft.graph.interchange import Interchange, Node
from causal_reft.graph.kinds import FEATURIZERS, SETTINGS, shapes_of
from causal_reft.graph.sources import (
    Collect,
    Constant,
    GatedScale,
    LearnedScale,
    LearnedSource,
    Noise,
    Shift,
    Source,
    TopLatents,
)
from causal_reft.graph.to_data import SCHEMA, Data, nodes_to_data
from causal_reft.sites import Site, parse_positions
from causal_reft.tensors import Tensor

DOCUMENT = {"schema": whole(), "library": TEXT, "nodes": RECORD, "modules": RECORD}
MODULE = {"kind": TEXT, "config": RECORD, "trainable": RECORD}
KIND = Field("the name of a kind", lambda value: True)  # compared where it is used
INTERCHANGE = {
    "kind": KIND,
    "site": RECORD,
    "featurizer": TEXT,
    "source": RECORD,
    "run": TEXT,
    "dropout": number("a probability in [0, 1)", lambda value: 0 <= value < 1),
    "scale": number("a finite number", lambda value: True),
}
SOURCES: dict[str, dict[str, Field]] = {
    "Collect": {"run": TEXT, "site": maybe(RECORD), "featurizer": maybe(TEXT)},
    "Shift": {"source": RECORD},
    "Noise": {"std": number("a number that is not negative", lambda value: value >= 0), "seed": SEED},
    "Constant": {"tensor": TEXT},
    "LearnedSource": {"module": TEXT},
    "LearnedScale": {"module": TEXT},
    "GatedScale": {"module": TEXT},
    "TopLatents": {"module": TEXT},
}
OF_SETTINGS: dict[str, type[nn.Module]] = {
    kind.__name__: kind for kind in (LearnedScale, GatedScale, TopLatents)
}  # built from their settings and nothing else
INDEX = whole(-(2**31), 2**31)
POSITIONS = Field(
    "a word such as 'last' or 'f5+l5', a list of token indices, or {'slice': [start, stop, step]}",
    lambda value: (
        (type(value) is str and len(value) < 10_000 and not any(len(digits) > 9 for digits in _numbers(value)))
        or (type(value) is list and bool(value) and all(INDEX.accepts(index) for index in value))
        or (type(value) is dict and set(value) == {"slice"} and _is_slice(value["slice"]))
    ),
)
PATH_SITE = {"path": TEXT, "port": TEXT, "positions": POSITIONS}
SITE = {"layer": maybe(whole(0)), "component": TEXT, "positions": POSITIONS, "head": maybe(whole(0))}
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MAY_BE_INFINITE = ("threshold", "logits")  # a feature that never fires, a coordinate that is always in the mask
DEEPEST = 8  # featurizers inside featurizers

Module = TypeVar("Module", bound=nn.Module)


def nodes_from_data(data: object, tensors: Mapping[str, Tensor]) -> dict[str, Node]:
    """The nodes in a document of this schema or an older one.

    Raises:
        StorageError: anything in it that this version does not know or that cannot be.
    """
    data, tensors = upgraded(data, tensors)
    checked(data, DOCUMENT, "graph.json")
    try:
        reader = _Reader(data["modules"], tensors)
        nodes = {name: reader.node(node) for name, node in data["nodes"].items()}
    except StorageError:
        raise
    except (CausalReftError, ValueError, OverflowError) as error:
        raise StorageError(f"graph.json describes a graph that cannot be: {error}") from error
    if unused := sorted(set(tensors) - reader.used):
        raise StorageError(f"weights.safetensors holds tensors that graph.json does not name: {', '.join(unused)}.")
    if nodes_to_data(nodes)[0] != data:
        raise StorageError(
            "graph.json holds settings that this version would write in another way, so they may mean something else: "
            "it was edited, or written by another version. Build the graph anew and save it."
        )
    return nodes


def upgraded(data: object, tensors: Mapping[str, Tensor]) -> tuple[Data, Mapping[str, Tensor]]:
    """The document of an older schema in the form of this one.

    Raises:
        StorageError: no document, or of a schema that this version does not know.
    """
    schema = data.get("schema") if isinstance(data, dict) else None
    if not isinstance(data, dict) or type(schema) is not int or not 1 <= schema <= SCHEMA:
        raise StorageError(f"graph.json has schema {schema!r}; this version reads 1 to {SCHEMA}. Update causal_reft.")
    if schema == SCHEMA:
        return data, tensors
    checked(data, DOCUMENT, "graph.json")
    nodes = {
        name: {**node, "scale": 1.0} if isinstance(node, dict) and node.get("kind") == "Interchange" else node
        for name, node in data["nodes"].items()
    }
    modules, renamed = dict(data["modules"]), dict(tensors)
    for name, module in data["modules"].items():
        trainable = module.get("trainable") if isinstance(module, dict) else None
        if isinstance(trainable, dict) and module.get("kind") == "LearnedSource" and "offset" in trainable:
            others = {key: flag for key, flag in trainable.items() if key != "offset"}
            modules[name] = {**module, "trainable": {**others, "bias": trainable["offset"]}}
            if f"{name}.offset" in renamed:
                renamed[f"{name}.bias"] = renamed.pop(f"{name}.offset")
    return {**data, "schema": SCHEMA, "nodes": nodes, "modules": modules}, renamed


class _Reader:
    """Builds each module once."""

    def __init__(self, modules: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self.data, self.tensors, self.used = modules, tensors, set[str]()
        self._built: dict[str, nn.Module] = {}
        self._open: list[str] = []

    def node(self, data: Any) -> Node:
        if isinstance(data, dict) and data.get("kind") == "Interchange":
            checked(data, INTERCHANGE, "an Interchange in graph.json")
            featurizer, source = self.module(data["featurizer"], Featurizer), self.source(data["source"])
            site = site_from_data(data["site"])
            dropout, scale = float(data["dropout"]), float(data["scale"])
            return Interchange(site, featurizer, source, data["run"], dropout, scale)
        collect = self.source(data)
        if not isinstance(collect, Collect):
            raise StorageError(f"graph.json: a node of kind {data['kind']!r}; allowed are Collect and Interchange.")
        return collect

    def source(self, data: Any, inside: bool = False) -> Source:
        kind = data.get("kind") if isinstance(data, dict) else None
        if not isinstance(kind, str) or kind not in SOURCES or (inside and kind == "Shift"):
            allowed = set(SOURCES) - ({"Shift"} if inside else set())
            raise StorageError(f"graph.json: source of kind {kind!r}. {nearest(str(kind), allowed)}")
        checked(data, {"kind": KIND, **SOURCES[kind]}, f"a {kind} in graph.json")
        match kind:
            case "Collect":
                site = None if data["site"] is None else site_from_data(data["site"])
                featurizer = None if data["featurizer"] is None else self.module(data["featurizer"], Featurizer)
                return Collect(data["run"], site, featurizer)
            case "Shift":
                return Shift(self.source(data["source"], inside=True))  # type: ignore[arg-type] - no Shift in it
            case "Noise":
                return Noise(float(data["std"]), data["seed"])
            case "Constant":
                return Constant(self._tensor(data["tensor"]))
            case "LearnedScale" | "GatedScale" | "TopLatents":
                return self.module(data["module"], OF_SETTINGS[kind])  # type: ignore[return-value] - each is a source
        return self.module(data["module"], LearnedSource)

    def module(self, name: str, kind: type[Module]) -> Module:
        """The module of this name, which must be of this kind."""
        if name not in self._built:
            if name in self._open or len(self._open) >= DEEPEST:
                raise StorageError(f"graph.json: module {name!r} contains itself, or lies more than {DEEPEST} deep.")
            self._open.append(name)
            self._built[name] = self._module(name)
            self._open.pop()
        found = self._built[name]
        if not isinstance(found, kind):
            raise StorageError(f"graph.json: module {name!r} is a {type(found).__name__}, not a {kind.__name__}.")
        return found

    def _module(self, name: str) -> nn.Module:
        if name not in self.data:
            raise StorageError(f"graph.json names the module {name!r} but does not describe it.")
        where = f"module {name!r} in graph.json"
        entry = checked(self.data[name], MODULE, where)
        kind, config = entry["kind"], dict(entry["config"])
        if kind not in SETTINGS and kind not in FEATURIZERS:
            known = [*SETTINGS, *FEATURIZERS]
            raise StorageError(f"graph.json: module {name!r} is of unknown kind {kind!r}. {nearest(kind, known)}")
        config = {"groups": None, **config} if kind == "Mask" else config
        if kind in SETTINGS:
            checked(config, SETTINGS[kind], where)
        self._check_shapes(name, kind, shapes_of(kind, config, len(self.tensors)))
        module = self._build(name, kind, config)
        self._fill(module, name, entry["trainable"])
        return module

    def _build(self, name: str, kind: str, config: Data) -> nn.Module:
        match kind:
            case "Rotation":
                return self._rotation(name)
            case "Autoencoder":
                return self._autoencoder(name, config)
            case "Subspace":
                return self._subspace(name, config)
            case "LearnedScale" | "GatedScale" | "TopLatents":
                return OF_SETTINGS[kind](**config)
            case "Mask":
                config["inner"] = self.module(config["inner"], Featurizer)
                config["temperature"] = float(config["temperature"])
            case "LearnedSource":
                config["reads"] = None if config["reads"] is None else self.source(config["reads"])
                learned = LearnedSource(**config)
                learned.started = True
                return learned
        builder: Callable[..., nn.Module] = FEATURIZERS[kind]
        try:
            return builder(**config)
        except TypeError as error:
            raise StorageError(
                f"graph.json: module {name!r} of kind {kind} has fields that this version does not know: {error}."
            ) from error

    def _rotation(self, name: str) -> Rotation:
        master = self._tensor(f"{name}.master")
        if master.ndim != 2 or not 1 <= master.shape[0] <= master.shape[1] or bool((master == 0).all(1).any()):
            raise StorageError(
                f"weights.safetensors: {name}.master, of shape {tuple(master.shape)}, is no rotation: it needs rank x "
                "d_model numbers with rank <= d_model, and no row of zeros."
            )
        key = f"{name}.within"
        if key not in self.tensors:
            return Rotation(master)
        within = self._tensor(key)
        if within.ndim != 2 or not master.shape[1] == within.shape[0] <= within.shape[1]:
            raise StorageError(
                f"weights.safetensors: {key}, of shape {tuple(within.shape)}, holds no rows for {name}.master of shape "
                f"{tuple(master.shape)}: it needs {master.shape[1]} rows of at least that width."
            )
        return Rotation(master, within)

    def _autoencoder(self, name: str, config: Data) -> Autoencoder:
        keys = ("encoder", "decoder", "encoder_bias", "decoder_bias")
        threshold = self._tensor(f"{name}.threshold") if config["activation"] == "jumprelu" else None
        if config["k"] is not None and config["k"] > config["rank"]:
            raise StorageError(f"graph.json: module {name!r} keeps k={config['k']} of {config['rank']} features.")
        weights = {key: self._tensor(f"{name}.{key}") for key in keys}
        return Autoencoder(**weights, threshold=threshold, activation=config["activation"], k=config["k"])

    def _subspace(self, name: str, config: Data) -> nn.Module:
        basis, (start, stop) = self.module(config.pop("basis"), Rotation), config.pop("slice")
        rows, width = len(basis.master), basis.d_model
        if width != config["d_model"] or not 0 <= start < stop <= rows or stop - start != config["rank"]:
            raise StorageError(
                f"graph.json: module {name!r} is rows {start} to {stop - 1} of width {config['d_model']}, but its "
                f"rotation in weights.safetensors has {rows} rows of width {width}."
            )
        return FEATURIZERS["Subspace"](**config, _basis=basis, _slice=(start, stop))

    def _check_shapes(self, name: str, kind: str, shapes: Mapping[str, tuple[int, ...]] | None) -> None:
        """Before anything of that size is allocated."""
        for key, shape in (shapes or {}).items():
            saved = tuple(self._tensor(f"{name}.{key}").shape)
            if saved != shape:
                raise StorageError(
                    f"weights.safetensors: {name}.{key} has shape {saved}, but graph.json describes a {kind} in which "
                    f"it has {shape}."
                )

    @torch.no_grad()
    def _fill(self, module: nn.Module, name: str, trainable: Mapping[str, Any]) -> None:
        own = dict(module.named_parameters(recurse=False))
        checked(trainable, dict.fromkeys(own, FLAG), f"module {name!r}, field 'trainable',")
        self._check_shapes(name, type(module).__name__, {key: tuple(p.shape) for key, p in own.items()})
        for key, parameter in own.items():
            parameter.data = self._tensor(f"{name}.{key}").clone()
            parameter.requires_grad_(trainable[key])

    def _tensor(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise StorageError(f"weights.safetensors lacks {name!r}, which graph.json names.")
        if name not in self.used:
            check_numbers(name, self.tensors[name])
            self.used.add(name)
        return self.tensors[name]


def check_numbers(name: str, tensor: Tensor) -> None:
    """Whether a stored tensor is one that a graph can hold.

    Raises:
        StorageError: not floating point, NaN, or infinite.
    """
    if tensor.dtype not in DTYPES:
        raise StorageError(f"weights.safetensors: {name} is {tensor.dtype}; a graph holds floating-point numbers.")
    finite = name.rpartition(".")[2] not in MAY_BE_INFINITE
    if not bool(torch.isfinite(tensor).all() if finite else ~tensor.isnan().any()):
        raise StorageError(f"weights.safetensors: {name} holds NaN or infinity. Was its training divergent?")


def site_from_data(data: Any) -> Site:
    """The inverse of `site_to_data`.

    Raises:
        StorageError: unknown or missing fields, or values of another type.
        CausalReftError: a site or positions that do not exist.
    """
    fields = PATH_SITE if isinstance(data, dict) and "path" in data else SITE
    checked(data, fields, "a site in graph.json")
    positions = parse_positions(data["positions"])
    return Site.at(**{**data, "positions": positions}) if "path" in data else Site(**{**data, "positions": positions})


def _numbers(word: str) -> list[str]:
    return "".join(letter if letter.isdigit() else " " for letter in word).split()


def _is_slice(value: object) -> bool:
    if type(value) is not list or len(value) != 3 or value[2] == 0:
        return False
    return all(bound is None or INDEX.accepts(bound) for bound in value)
