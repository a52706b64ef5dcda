"""From a site to the module that holds it: `locate(model, site)`.

Nothing here knows a family: it reads the architecture table, the model's config, and the module tree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from causal_reft.errors import SiteError, nearest
from causal_reft.sites.architectures import ARCHITECTURES, Architecture, Port
from causal_reft.sites.site import STACKS, WITH_HEADS, Site
from causal_reft.tensors import Int, Tensor


@dataclass(frozen=True)
class Location:
    """A module, its port, and which features of the value there belong to the site.

    `heads` counts (query heads, key heads); `head` is the site's own. `block` is the index of the block that contains
    the module, `None` outside the blocks. `stack` says which of two stacks of an encoder-decoder model it belongs to.
    """

    path: str
    module: nn.Module
    port: str
    layout: str = "whole"
    heads: tuple[int, int] | None = None
    head: int | None = None
    block: int | None = None
    stack: str = ""
    part: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Sites with equal keys live in one tensor."""
        return self.path, self.port

    def features(self, width: int) -> Int[Tensor, " feature"] | None:
        """The indices of the site's features on the last axis of a value of this width; `None` for all of them."""
        if self.layout == "whole" and self.head is None:
            return None
        assert self.heads is not None
        return _features(self.layout, self.heads, self.head, self.part in ("attention_key", "attention_value"), width)


def _features(
    layout: str, heads: tuple[int, int], head: int | None, of_keys: bool, width: int
) -> Int[Tensor, " feature"]:
    queries, keys = heads
    order, _, part = layout.partition(":")
    everything = torch.arange(width)
    if order == "whole":
        mine = everything.view(keys if of_keys else queries, -1)
    elif order == "side":
        by_head = everything.view(queries + 2 * keys, -1)
        mine = by_head.split([queries, keys, keys])["qkv".index(part)]
    else:
        by_group = everything.view(keys, queries // keys + 2, -1)
        mine = by_group.split([queries // keys, 1, 1], dim=1)["qkv".index(part)].flatten(0, 1)
    return mine.reshape(-1) if head is None else mine[head]


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


def find_blocks(model: nn.Module, stack: str = "") -> Blocks:
    """The block list of a transformers model in the architecture table.

    Args:
        model: the model, also inside a wrapper.
        stack: "encoder" or "decoder" of an encoder-decoder model, "" elsewhere.

    Raises:
        SiteError: no config, no row for its family, not exactly one list of blocks, a stack too many or too few.
    """
    config = model_config(model)
    if config is None:
        raise SiteError(
            f"{type(model).__name__} has no transformers config, so layers and components have no meaning in it. Name "
            "the module by its path: Site.at('path.of.the.module'). "
            f"{nearest('', [name for name, _ in model.named_modules() if name][:12])}"
        )
    row = ARCHITECTURES.get(config.model_type)
    if row is None:
        raise SiteError(
            f"The architecture table has no row for {config.model_type!r} ({type(model).__name__}). "
            f"{nearest(config.model_type, ARCHITECTURES)} Give it one: register_architecture({config.model_type!r}, "
            f"blocks='layers', components={{'block_output': ('', 'output')}})."
        )
    row = _stack_row(model, row, stack)
    wanted = _depth(config, stack)
    found = [
        (path, module) for path, module in model.named_modules() if _is_list(model, config, path, module, row, wanted)
    ]
    if len(found) != 1:
        raise SiteError(
            f"{type(model).__name__} has {len(found)} lists named {row.blocks!r} of {wanted} blocks "
            f"({', '.join(path for path, _ in found) or 'none'}); exactly one is needed. "
            f"Write Site.at('path.of.the.block') instead."
        )
    path, modules = found[0]
    assert isinstance(modules, nn.ModuleList)
    return Blocks(path, modules, row)


def model_config(model: nn.Module) -> Any:
    """The text config of a transformers model (also when wrapped), or `None` for any other module."""
    config = getattr(unwrapped(model), "config", None)
    if config is None or getattr(config, "model_type", None) is None:
        return None
    text = config.get_text_config()
    return text if text.model_type in ARCHITECTURES else config


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside `torch.compile`, data parallel and PEFT wrappers: the one whose `forward` is the model's own."""
    if "_orig_mod" in model._modules:
        return unwrapped(model.get_submodule("_orig_mod"))
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return unwrapped(model.module)
    inside: Any = getattr(model, "get_base_model", None)  # PEFT's wrappers have it
    return model if inside is None else unwrapped(inside())


def _stack_row(model: nn.Module, row: Architecture, stack: str) -> Architecture:
    """The row of the stack that a site names.

    Raises:
        SiteError: a stack named in a model that has one, or none named in a model that has two.
    """
    family = type(unwrapped(model)).__name__
    if row.decoder is None and stack:
        raise SiteError(
            f"{family} has one stack of blocks, so a component takes no {stack!r}. Write Site(0, 'block_output')."
        )
    if row.decoder is not None and not stack:
        raise SiteError(
            f"{family} has two stacks of blocks. Say which: Site(0, 'encoder.block_output') or Site(0, "
            "'decoder.block_output')."
        )
    return row.decoder if stack == "decoder" and row.decoder is not None else row


def _depth(config: Any, stack: str) -> int:
    decoder = getattr(config, "num_decoder_layers", None)
    return decoder if stack == "decoder" and decoder is not None else config.num_hidden_layers


def _is_list(model: nn.Module, config: Any, path: str, module: nn.Module, row: Architecture, depth: int) -> bool:
    """A list of this name and length whose nearest owner with a config is of the text model's family."""
    if not isinstance(module, nn.ModuleList) or not f".{path}".endswith(f".{row.blocks}") or len(module) != depth:
        return False
    owner = path
    while owner:
        owner = owner.rpartition(".")[0]
        theirs: Any = getattr(model.get_submodule(owner), "config", None)
        if getattr(theirs, "model_type", None) is not None:
            return theirs.model_type == config.model_type or theirs.get_text_config().model_type == config.model_type
    return True


def _by_path(model: nn.Module, site: Site) -> Location:
    assert site.path is not None and site.port is not None
    modules = dict(model.named_modules())
    if site.path not in modules:
        raise SiteError(
            f"{site!r}: {type(model).__name__} has no module {site.path!r}. {_nearest_path(site.path, modules)}"
        )
    block, stack = _containing_block(model, site.path)
    return Location(site.path, modules[site.path], site.port, block=block, stack=stack)


def _nearest_path(path: str, modules: dict[str, nn.Module]) -> str:
    """Suggest among the modules that share the longest existing prefix, so that the list stays short."""
    parent = path
    while parent and parent not in modules:
        parent = parent.rpartition(".")[0]
    depth = parent.count(".") + (2 if parent else 1)
    inside = [p for p in modules if p and (not parent or p.startswith(parent + ".")) and p.count(".") + 1 == depth]
    return nearest(path, inside or [p for p in modules if p])


def _containing_block(model: nn.Module, path: str) -> tuple[int | None, str]:
    """The index of the block around a module, and its stack."""
    config = model_config(model)
    row = None if config is None else ARCHITECTURES.get(config.model_type)
    for stack in () if row is None else STACKS if row.decoder is not None else ("",):
        try:
            blocks = find_blocks(model, stack)
        except SiteError:
            continue
        if path.startswith(blocks.path + "."):
            index = path.removeprefix(blocks.path + ".").partition(".")[0]
            return int(index), stack
        if stack and f"{path}.".startswith(blocks.parent + "."):
            return None, stack
    return None, ""


def _by_component(model: nn.Module, site: Site) -> Location:
    blocks = find_blocks(model, site.stack)
    port = blocks.row.components.get(site.part)
    family = type(unwrapped(model)).__name__
    if port is None:
        raise SiteError(f"{site!r}: {family} has no {site.component!r}. {nearest(site.part, blocks.row.components)}")
    layer = 0 if site.part == "embeddings" else site.layer
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
    heads = _head_counts(model, site, blocks.row, family)
    return Location(path, module, port.port, port.layout, heads, site.head, layer, site.stack, site.part)


def _absolute_path(blocks: Blocks, port: Port, layer: int | None) -> str:
    if port.path.startswith(".."):
        return f"{blocks.parent}.{port.path[2:]}".lstrip(".")
    return f"{blocks.path}.{layer}" + (f".{port.path}" if port.path else "")


def _head_counts(model: nn.Module, site: Site, row: Architecture, family: str) -> tuple[int, int] | None:
    """(query heads, key heads) for a component that has heads.

    Raises:
        SiteError: a head that the component does not have.
    """
    if site.part not in WITH_HEADS:
        return None
    config = model_config(model)
    counts = config.num_attention_heads, row.key_heads(config)
    mine = counts[site.part in ("attention_key", "attention_value")]
    if site.head is not None and not 0 <= site.head < mine:
        raise SiteError(f"{site!r}: {family} has heads 0 to {mine - 1} at {site.component!r}.")
    return counts
