"""Ways of finetuning a causal language model: each gives a module whose trainable parameters are the method's.

Interventions come from the presets; LoRA, DoRA and prefix tuning from `peft`; BitFit and full finetuning train the
model's own parameters. A method that changes the model works on a copy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import causal_reft as cr
from causal_reft.errors import DataError
from causal_reft.seeds import derive

# Learning rates of the search, the same number for every method: a middle, a larger and a smaller one. ReFT's hold the
# paper's 9e-4; a scale, a bias or a prefix takes larger ones than a product of two matrices.
REFT_RATES, PEFT_RATES, FULL_RATES = (3e-3, 9e-3, 9e-4), (1e-3, 3e-3, 3e-4), (5e-5, 2e-4, 1e-5)
VECTOR_RATES = (1e-2, 3e-2, 3e-3)


@dataclass(frozen=True)
class Shape:
    """Where and how large an edit is. Methods read what concerns them.

    Args:
        rank: of a subspace, or of LoRA's matrices.
        layers: numbers joined by ";", or "all".
        positions: in the language of `Site`.
        share: as in the presets: "positions", "layers", "all" or None, as text.
    """

    rank: int = 4
    layers: str = "all"
    positions: str = "f5+l5"
    share: str = "positions"

    def sites(self, model: Any, component: str = "block_output", positions: str | None = None) -> list[cr.Site]:
        """A site at each of the layers.

        Raises:
            DataError: layers that the model does not have.
        """
        depth = model.config.num_hidden_layers
        numbers = range(depth) if self.layers == "all" else [int(word) for word in self.layers.split(";")]
        if wrong := [layer for layer in numbers if not 0 <= layer < depth]:
            raise DataError(f"layers {self.layers!r}: there is no layer {wrong[0]}; the model has 0 to {depth - 1}.")
        return cr.site_grid(numbers, [positions or self.positions], [component])


@dataclass(frozen=True)
class Method:
    """A way of finetuning.

    Args:
        build: (model, tokenizer, shape, seed) -> the module that is trained.
        rates: learning rates of the search: a middle one, a larger and a smaller one.
        has_shape: whether positions, layers and tying mean anything to it.
    """

    build: Callable[[Any, Any, Shape, int], nn.Module]
    rates: tuple[float, ...] = REFT_RATES
    has_shape: bool = True


def _edit(preset: Callable[..., cr.InterventionGraph], **options: Any) -> Method:
    def build(model: Any, tokenizer: Any, shape: Shape, seed: int) -> nn.Module:
        share = None if shape.share == "None" else shape.share
        width = model.config.hidden_size
        graph = preset(shape.sites(model), width, shape.rank, seed=seed, share=share, **options)
        return cr.IntervenedModel(model, graph, tokenizer)

    return Method(build)


def _red(model: Any, tokenizer: Any, shape: Shape, seed: int) -> nn.Module:
    graph = cr.red(shape.sites(model, "mlp_output", "all+generated"), model.config.hidden_size)
    return cr.IntervenedModel(model, graph, tokenizer)


def _bottleneck(model: Any, tokenizer: Any, shape: Shape, seed: int) -> nn.Module:
    """h + A relu(W h + b) after each MLP (Houlsby et al. 2019, arXiv 1902.00751), with A starting at zero."""
    nodes, width = {}, model.config.hidden_size
    for index, site in enumerate(shape.sites(model, "mlp_output", "all+generated")):
        A = cr.Projection(width, shape.rank)
        nn.init.zeros_(A.weight)
        W = cr.LearnedSource(shape.rank, width, activation="relu", init="random", seed=derive(seed, "site", index))
        nodes[f"edit_{index}"] = cr.Interchange(site, A, cr.Shift(W))
    return cr.IntervenedModel(model, cr.InterventionGraph(**nodes), tokenizer)


def _peft(config: Callable[[Any, Shape], Any], rates: tuple[float, ...] = PEFT_RATES) -> Method:
    def build(model: Any, tokenizer: Any, shape: Shape, seed: int) -> nn.Module:
        from peft import get_peft_model

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return get_peft_model(copy.deepcopy(model), config(model, shape))

    return Method(build, rates, has_shape=False)


def _lora(model: Any, shape: Shape, **options: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=shape.rank, lora_alpha=2 * shape.rank, target_modules="all-linear", task_type="CAUSAL_LM", **options
    )


def _prefix(model: Any, shape: Shape) -> Any:
    from peft import PrefixTuningConfig

    return PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2 * shape.rank)


def _own(trained: Callable[[str], bool]) -> Method:
    def build(model: Any, tokenizer: Any, shape: Shape, seed: int) -> nn.Module:
        made = copy.deepcopy(model)
        for name, parameter in made.named_parameters():
            parameter.requires_grad_(trained(name))
        if not any(parameter.requires_grad for parameter in made.parameters()):
            raise DataError(f"BitFit trains biases, and {type(model).__name__} has none.")
        return made

    return Method(build, FULL_RATES, has_shape=False)


METHODS: dict[str, Method] = {
    "LoReFT": _edit(cr.loreft),
    "DiReFT": _edit(cr.direft),
    "ConsReFT": _edit(cr.consreft),
    "RED": Method(_red, VECTOR_RATES, has_shape=False),
    "bottleneck adapter": Method(_bottleneck, has_shape=False),
    "LoRA": _peft(_lora),
    "DoRA": _peft(lambda model, shape: _lora(model, shape, use_dora=True)),
    "prefix tuning": _peft(_prefix, VECTOR_RATES),
    "BitFit": _own(lambda name: name.endswith(".bias")),
    "full finetuning": _own(lambda name: True),
}
