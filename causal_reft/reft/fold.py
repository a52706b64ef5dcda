"""A plain model with a graph's edits inside its weights, for tools that know nothing of graphs.

An affine edit of what a linear layer gives, or takes, makes another linear layer:

    h = W x + b  edited to  M h + c       W' = M W    b' = M b + c       LoReFT, LoRA, RED, ablation at its output
    x  edited to  M x + c                 W' = W M    b' = b + W c       (IA)^3 at MLP activations, LoFiT, JoLA at heads
    a block's output shifted by c         b' = b + c of its last layer   steering, LobiReFT

What an edit means is not said again here: the layer and its edits run on the zero vector and the unit vectors, in
float64, and the results are b' and the columns of W'. Every other edit is refused.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from causal_reft.errors import GraphError
from causal_reft.execution import IntervenedModel
from causal_reft.execution.locating import locate_graph
from causal_reft.execution.transform import States
from causal_reft.execution.visit import PortWork, transform_at
from causal_reft.featurizers import Featurizer, Identity, Projection, Subspace
from causal_reft.graph import (
    Collect,
    Constant,
    GatedScale,
    Interchange,
    InterventionGraph,
    LearnedScale,
    LearnedSource,
    Node,
    Shift,
    TopLatents,
)
from causal_reft.sites import Tokens, find_blocks, locate, model_config, unwrapped
from causal_reft.tensors import Float, Tensor

BIAS_SETTINGS = ("attention_bias", "mlp_bias", "bias")  # of configs: they give layers a bias and do nothing else
Values = Float[Tensor, "vector 1 width"]


@torch.no_grad()
def fold(model: nn.Module, graph: InterventionGraph) -> Any:
    """A copy of the model whose weights do what the graph does in evaluation mode.

    Args:
        model: the plain model; it is left as it is.
        graph: edits of every token ("all+generated"; "all" where nothing is generated) of what a linear layer gives or
            takes, affine in it; and shifts of block outputs, where these are sums that end in a linear layer.

    Returns:
        A model of the same class, which `save_pretrained` saves and `from_pretrained` loads. It equals the edited model
        up to the rounding of its precision. Where a layer lacks the bias that it needs, all layers get the biases that
        a setting of the config switches on.

    Raises:
        GraphError: an edit that weights cannot do exactly, with the reason.

    Example:
        >>> fold(model, steer(Site(8, positions="all+generated"), vector)).save_pretrained("steered")
    """
    if isinstance(model, IntervenedModel):
        raise GraphError("fold takes the plain model and its graph. Write fold(reft.base_model, reft.graph).")
    for name, node in graph.nodes.items():
        if why := _why_not(name, node, model):
            raise GraphError(f"Node {name!r} cannot be folded into weights: {why}.")
    folded, own = copy.deepcopy(model), InterventionGraph(**copy.deepcopy(graph.nodes))
    own.modules.to("cpu")
    ports = {port.location.key: port for port in locate_graph(own, folded).get("base", ())}
    shifts = [port for port in ports.values() if not _is_linear(port.location.module)]
    for path in dict.fromkeys(path for path, _ in ports):
        if _is_linear(layer := folded.get_submodule(path)):
            _fold_layer(folded, path, layer, ports.get((path, "input")), ports.get((path, "output")))
    for port in shifts:
        path = _last_layer(folded, port.edits[0][1])
        weight, bias = _weight_and_bias(folded.get_submodule(path))
        _write(folded, path, weight, _edited(port, bias[None, None], {})[0, 0])
    return folded


# What weights can do ------------------------------------------------------------------------------------------------


def _why_not(name: str, node: Node, model: nn.Module) -> str:
    """Why weights cannot do what a node does; empty where they can."""
    if isinstance(node, Collect):
        return "it only collects, and a plain model gives nothing but its output. Fold graph.only(...) of the edits"
    where, source = node.site.where, _inner(node)
    generates = locate(model, node.site).stack != "encoder" and getattr(unwrapped(model), "can_generate", bool)()
    needed = ("all", "generated") if generates else ("all",)
    differs = isinstance(source, Constant) and source.tensor.ndim == 2
    reasons = {
        f"it edits run {node.run!r}, and a plain model has one run": node.run != "base",
        "its values come from another run": any(need.run != node.run for need in node.needs()),
        f"positions={where} are some of the tokens, and weights act on all. If the edit is meant for all, write "
        f"positions={'+'.join(needed)!r}": not {part.kind for part in where.parts} >= set(needed),
        f"dropout={node.dropout:g} is for training. Write fold(model, graph.replace({name}="
        f"dataclasses.replace(graph[{name!r}], dropout=0.0)))": node.dropout > 0,
        f"{node.featurizer!r} is not linear": not _is_affine(node.featurizer),
        f"{source!r} is not linear": isinstance(source, TopLatents) or bool(getattr(source, "activation", None)),
        f"{source!r} differs from token to token": differs
        or not isinstance(source, (Collect, Constant, GatedScale, LearnedScale, LearnedSource)),
    }
    return next((why for why, holds in reasons.items() if holds), "") or _why_not_here(node, model)


def _why_not_here(node: Interchange, model: nn.Module) -> str:
    """Why the weights at a node's site cannot do what it does; empty where they can."""
    here = locate(model, node.site)
    for need in node.needs():
        assert need.site is not None
        there, read = locate(model, need.site), node.featurizer if need.featurizer is None else need.featurizer
        if there.path != here.path or there.port not in ("input", here.port) or need.site.where != node.site.where:
            return f"it reads {need.site!r}, which is not at the layer that it edits"
        if not _is_affine(read):
            return f"{read!r} is not linear"
    if _is_linear(here.module) and here.port in ("input", "output"):
        return _why_not_layer(model, here.path)
    if node.site.part != "block_output" or node.site.path is not None:
        return f"{here.path!r} is a {type(here.module).__name__}; only linear layers and block outputs can be folded"
    source = _inner(node)
    constant = isinstance(source, Constant) or (isinstance(source, LearnedSource) and not source.reads_input)
    if not isinstance(node.source, Shift) or not constant:
        return (
            "a block's output is a sum with the residual stream, of which weights can do a constant shift only. An "
            f"edit of a layer's output can be folded: Site({node.site.layer}, "
            f"{node.site.component.replace('block', 'mlp')!r}, positions={node.site.where})"
        )
    if not find_blocks(model, node.site.stack).row.adds_mlp(model_config(model)):
        return "more than the residual stream follows the block's last layer in this family, as a norm"
    return _why_not_layer(model, _last_layer(model, node))


def _why_not_layer(model: nn.Module, path: str) -> str:
    """Why new weights of a layer would do something else, or more; empty where they do not."""
    layer = model.get_submodule(path)
    if not _is_linear(layer):
        return f"{path!r} is a {type(layer).__name__}, and no plain linear layer"
    others = [
        f"{name}.{key}"
        for name, module in model.named_modules(remove_duplicate=False)
        for key, parameter in module._parameters.items()
        if parameter is not None and any(parameter is own for own in layer.parameters()) and name != path
    ]
    return f"{path!r} shares its weights with {', '.join(others)}" if others else ""


def _is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer without hooks, as its own forward confirms: none that is quantised, say."""
    if not isinstance(module, (nn.Linear, Conv1D)) or not module.weight.is_floating_point() or module.weight.is_meta:
        return False
    if module._forward_hooks or module._forward_pre_hooks:
        return False
    weight, bias = _weight_and_bias(module)
    probe = torch.linspace(-1, 1, len(weight), dtype=torch.float64)
    found = module(probe[None].to(module.weight))[0].to(weight)
    expected = probe @ weight + bias
    return torch.allclose(found, expected, rtol=0, atol=2e-2 * float(expected.abs().max()) + 1e-6)


def _is_affine(featurizer: Featurizer) -> bool:
    return isinstance(featurizer, (Identity, Projection, Subspace))


def _inner(node: Interchange) -> Any:
    """The source, without its `Shift`."""
    return node.source.source if isinstance(node.source, Shift) else node.source


def _last_layer(model: nn.Module, node: Interchange) -> str:
    """The path of the layer that gives the last summand of a block's output."""
    return locate(model, node.site.moved(component=node.site.component.replace("block_output", "mlp_output"))).path


# Doing it -----------------------------------------------------------------------------------------------------------


def _fold_layer(model: nn.Module, path: str, layer: nn.Module, taken: PortWork | None, given: PortWork | None) -> None:
    """One layer with the edits of what it takes and of what it gives."""
    weight, bias = _weight_and_bias(layer)
    states: States = {}
    vectors = torch.cat([torch.eye(len(weight)), torch.zeros(1, len(weight))]).to(weight)[:, None]
    h = _edited(taken, vectors, states) @ weight + bias
    h = _edited(given, h, states)[:, 0]
    _write(model, path, h[:-1] - h[-1], h[-1])


def _edited(port: PortWork | None, vectors: Values, states: States) -> Values:
    """What comes out of a port where the vectors flow in, each as a text of one token; `states` are filled."""
    if port is None:
        return vectors
    every = Tokens.of(torch.zeros(len(vectors), 1, dtype=torch.long))
    edited, kept = transform_at(port, vectors, "base", lambda node, site: every, states, training=False)
    states.update(kept)
    return edited


def _weight_and_bias(layer: Any) -> tuple[Float[Tensor, "d_in d_out"], Float[Tensor, " d_out"]]:
    """Those of a linear layer, in float64 on the CPU."""
    weight = layer.weight.detach().to("cpu", torch.float64)
    weight = weight if isinstance(layer, Conv1D) else weight.mT
    zeros = torch.zeros(weight.shape[1], dtype=torch.float64)
    return weight, zeros if layer.bias is None else layer.bias.detach().to(zeros)


def _write(model: nn.Module, path: str, weight: Float[Tensor, "d_in d_out"], bias: Float[Tensor, " d_out"]) -> None:
    """
    Raises:
        GraphError: a bias where the model can have none, numbers beyond the precision of the model.
    """
    layer: Any = model.get_submodule(path)
    if layer.bias is None and bool((bias != 0).any()) and not _add_biases(model, path):
        raise GraphError(
            f"{path!r} has no bias, which the edit needs, and no setting of {type(model).__name__} gives it one, so "
            "it would be lost when the folded model is loaded. An edit without a constant needs none: LoRA, for "
            "example, or LearnedSource(bias=False)."
        )
    layer.weight.copy_(weight if isinstance(layer, Conv1D) else weight.mT)
    if layer.bias is not None:
        layer.bias.copy_(bias)
    if not all(bool(torch.isfinite(parameter).all()) for parameter in layer.parameters()):
        raise GraphError(f"{path!r} has weights beyond {layer.weight.dtype} with the edit inside. Use another dtype.")


def _add_biases(model: nn.Module, path: str) -> bool:
    """Switch on the setting of the config that gives a layer a bias; every layer that gets one starts at zero.

    Whether it does is read off a model that is built from the config, as loading builds it.
    """
    config = model_config(model)
    for setting in BIAS_SETTINGS if isinstance(model, PreTrainedModel) else ():
        if getattr(config, setting, None) is not False:
            continue
        setattr(config, setting, True)
        with torch.device("meta"):
            built = type(model)(model.config)  # type: ignore[call-arg] - a pretrained model takes its config
        new = {name for name, _ in built.named_parameters()} - {name for name, _ in model.named_parameters()}
        if f"{path}.bias" in new:
            for name in new:
                owner: Any = model.get_submodule(name.removesuffix(".bias"))
                width = owner.weight.shape[-1 if isinstance(owner, Conv1D) else 0]
                owner.bias = nn.Parameter(owner.weight.new_zeros(width), owner.weight.requires_grad)
            return True
        setattr(config, setting, False)
    return False
