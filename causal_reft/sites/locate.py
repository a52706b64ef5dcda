"""From a site to the module that holds it: `locate(model, site)`.

Nothing here knows a family: it reads the architecture table, the model's config, and the module tree.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from causal_reft.errors import SiteError, nearest
from causal_reft.sites.architectures import ARCHITECTURES, Architecture, Port
from causal_reft.sites.site import Site
from causal_reft.tensors import Int, Tensor


@dataclass(frozen=True)
class Location:
    """A module, its port, and which features of the value there belong to the site.

    `block` is the index of the block that contains the module, `None` outside the blocks or without a block list.
    """

    path: str
    module: nn.Module
    port: str
    layout: str = "whole"
    heads: int | None = None
    head: int | None = None
    block: int | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Sites with equal keys live in one tensor."""
        return self.path, self.port

    def features(self, width: int) -> Int[Tensor, " feature"] | None:
        """The indices of the site's features on the last axis of a value of this width; `None` for all of them."""
        if self.layout == "whole" and self.head is None:
            return None
        everything = torch.arange(width)
        kind, _, spec = self.layout.partition(":")
        if kind == "whole":
            mine = everything
        elif kind == "third":
            index, parts = map(int, spec.split("/"))
            mine = everything.view(parts, -1)[index]
        elif kind == "perhead":
            index, parts = map(int, spec.split("/"))
            assert self.heads is not None
            mine = everything.view(self.heads, parts, -1)[:, index].reshape(-1)
        else:
            start, stop = map(int, spec.split("-"))
            mine = everything[start:stop]
        if self.head is not None:
            assert self.heads is not None
            mine = mine.view(self.heads, -1)[self.head]
        return mine


@dataclass(frozen=True)
class Blocks:
    """The block list of a transformers model: where it is and the row that describes a block."""

    path: str
    modules: nn.ModuleList
    row: Architecture

    @property
    def parent(self) -> str:
        """The path of the module that owns the list."""
        return self.path.rpartition(".")[0]


def locate(model: nn.Module, site: Site) -> Location:
    """The module and port of a site in a model.

    Raises:
        SiteError: the model has no such layer, component, head or module; the message names the nearest.
    """
    return _by_path(model, site) if site.path is not None else _by_component(model, site)


def find_blocks(model: nn.Module) -> Blocks:
    """The block list of a transformers model in the architecture table.

    Raises:
        SiteError: no config, no row for its family, or no list of `num_hidden_layers` blocks.
    """
    config = model_config(model)
    if config is None:
        raise SiteError(
            f"{type(model).__name__} has no transformers config, so layers and components have no meaning in it. "
            f"Name the module by its path: Site.at('path.of.the.module'). "
            f"{nearest('', [name for name, _ in model.named_modules() if name][:12])}"
        )
    row = ARCHITECTURES.get(config.model_type)
    if row is None:
        raise SiteError(
            f"The architecture table has no row for {config.model_type!r} ({type(model).__name__}). "
            f"{nearest(config.model_type, ARCHITECTURES)} Give it one: "
            f"register_architecture({config.model_type!r}, blocks='layers', components={{'block_output': ('', 'output')}})."
        )
    found = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and path.rpartition(".")[2] == row.blocks
        and len(module) == config.num_hidden_layers
    ]
    if len(found) != 1:
        raise SiteError(
            f"{type(model).__name__} has {len(found)} lists named {row.blocks!r} of {config.num_hidden_layers} blocks "
            f"({', '.join(path for path, _ in found) or 'none'}); exactly one is needed. "
            f"Write Site.at('path.of.the.block') instead."
        )
    return Blocks(found[0][0], found[0][1], row)


def model_config(model: nn.Module):  # noqa: ANN201 - a transformers config or None
    """The text config of a transformers model (also when wrapped), or `None` for any other module."""
    config = getattr(model, "config", None)
    if config is None or getattr(config, "model_type", None) is None:
        return None
    text = config.get_text_config()
    return text if text.model_type in ARCHITECTURES else config


def _by_path(model: nn.Module, site: Site) -> Location:
    assert site.path is not None and site.port is not None
    modules = dict(model.named_modules())
    if site.path not in modules:
        raise SiteError(f"{site!r}: {type(model).__name__} has no module {site.path!r}. {_nearest_path(site.path, modules)}")
    return Location(site.path, modules[site.path], site.port, block=_containing_block(model, site.path))


def _nearest_path(path: str, modules: dict[str, nn.Module]) -> str:
    """Suggest among the modules that share the longest existing prefix, so that the list stays short."""
    parent = path
    while parent and parent not in modules:
        parent = parent.rpartition(".")[0]
    depth = parent.count(".") + (2 if parent else 1)
    inside = [p for p in modules if p and (not parent or p.startswith(parent + ".")) and p.count(".") + 1 == depth]
    return nearest(path, inside or [p for p in modules if p])


def _containing_block(model: nn.Module, path: str) -> int | None:
    try:
        blocks = find_blocks(model)
    except SiteError:
        return None
    inside = path.removeprefix(blocks.path + ".") if path.startswith(blocks.path + ".") else ""
    index = inside.partition(".")[0]
    return int(index) if index.isdigit() else None


def _by_component(model: nn.Module, site: Site) -> Location:
    blocks = find_blocks(model)
    port = blocks.row.components.get(site.component)
    family = type(model).__name__
    if port is None:
        raise SiteError(f"{site!r}: {family} has no {site.component!r}. {nearest(site.component, blocks.row.components)}")
    layer = 0 if site.component == "embeddings" else site.layer
    if layer is not None and layer >= len(blocks.modules):
        raise SiteError(f"{site!r}: {family} has layers 0 to {len(blocks.modules) - 1}.")
    path = _absolute_path(blocks, port, layer)
    try:
        module = model.get_submodule(path)
    except AttributeError as error:
        raise SiteError(
            f"{site!r}: the table says {path!r}, which this {family} does not have ({error}). "
            f"Describe its blocks with register_architecture, or write Site.at('path.of.the.module')."
        ) from error
    heads = _head_count(model, site.component)
    if site.head is not None and (heads is None or not 0 <= site.head < heads):
        raise SiteError(f"{site!r}: {family} has heads 0 to {(heads or 0) - 1} at {site.component!r}.")
    return Location(path, module, port.port, _layout(model, port), heads, site.head, layer)


def _absolute_path(blocks: Blocks, port: Port, layer: int | None) -> str:
    if port.path.startswith(".."):
        return f"{blocks.parent}.{port.path[2:]}".lstrip(".")
    return f"{blocks.path}.{layer}" + (f".{port.path}" if port.path else "")


def _head_count(model: nn.Module, component: str) -> int | None:
    config = model_config(model)
    queries = getattr(config, "num_attention_heads", None)
    if component in ("attention_key", "attention_value"):
        return getattr(config, "num_key_value_heads", None) or queries
    return queries if component.startswith("attention_") else None


def _layout(model: nn.Module, port: Port) -> str:
    """Turn the config-dependent layout "grouped:<part>" into a plain feature range."""
    kind, _, part = port.layout.partition(":")
    if kind != "grouped":
        return port.layout
    config = model_config(model)
    assert config is not None
    queries = config.num_attention_heads
    keys = getattr(config, "num_key_value_heads", None) or queries
    size = getattr(config, "head_dim", None) or config.hidden_size // queries
    starts = {"q": (0, queries), "k": (queries, queries + keys), "v": (queries + keys, queries + 2 * keys)}
    start, stop = starts[part]
    return f"range:{start * size}-{stop * size}"
