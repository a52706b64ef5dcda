"""Nodes as JSON data and named tensors. Modules that nodes share are stored once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from causal_reft.errors import StorageError
from causal_reft.featurizers import Featurizer, Mask, Subspace
from causal_reft.graph.interchange import Node
from causal_reft.graph.kinds import FEATURIZERS
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
from causal_reft.sites import Site
from causal_reft.tensors import Tensor

SCHEMA = 2  # 1: LearnedSource.bias was called offset, an Interchange had no scale, and folders had no digests
Data = dict[str, Any]


def nodes_to_data(nodes: Mapping[str, Node]) -> tuple[Data, dict[str, Tensor]]:
    """The nodes as JSON data and named tensors.

    Raises:
        StorageError: a featurizer that is not registered, a source that lives for one call only.
    """
    writer = _Writer()
    described = {name: writer.node(node) for name, node in nodes.items()}
    return {"schema": SCHEMA, "library": "causal_reft", "nodes": described, "modules": writer.modules}, writer.tensors


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
            "scale": float(node.scale),
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
            case LearnedScale() | GatedScale() | TopLatents():
                return {"kind": type(source).__name__, "module": self._module(source, "source", source.config())}
        raise StorageError(
            f"{source!r} belongs to the rows of one call and is not stored. Save the graphs that are served, or the "
            "values beside the data."
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


def site_to_data(site: Site) -> Data:
    """A site as JSON data."""
    if site.path is not None:
        return {"path": site.path, "port": site.port, "positions": site.where.to_data()}
    return {"layer": site.layer, "component": site.component, "positions": site.where.to_data(), "head": site.head}
