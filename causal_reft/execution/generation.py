"""What generation needs beside the hooks: which keywords are inputs, what cannot be right, and prompts padded on the
left.

A decoder continues at the last column, so prompts of unequal length must be padded on the left. Positions are counted
in prompt tokens, so moving the padding changes none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from causal_reft.errors import RunError
from causal_reft.execution.input_checks import refuse_filled_cache
from causal_reft.sites import unwrapped
from causal_reft.tensors import Tensor

GENERATION_INPUTS = (
    "input_ids",
    "attention_mask",
    "inputs_embeds",
    "token_type_ids",
    "position_ids",
    "pixel_values",
    "decoder_input_ids",
    "decoder_attention_mask",
)


def check_generation(model: nn.Module, options: Mapping[str, Any]) -> None:
    """Refuse ways of decoding under which an edit would act in another place than in training.

    Raises:
        RunError: labels; a model that does not generate; an assistant that is the edited model itself; own decoding
            loops; guidance by a second text; a cache that holds tokens already.
    """
    if not callable(getattr(model, "generate", None)):
        raise RunError(f"{type(model).__name__} has no generate; it gives no texts.")
    if "labels" in options:
        raise RunError("generate takes no labels; pass the prompt alone.")
    refuse_filled_cache(options.get("past_key_values"), "generate")
    config = options.get("generation_config") or getattr(model, "generation_config", None)
    asked = {
        name: options.get(name, getattr(config, name, None))
        for name in ("assistant_early_exit", "dola_layers", "custom_generate", "guidance_scale")
    }
    if asked["guidance_scale"] not in (None, 1):
        raise RunError(
            f"generate(guidance_scale={asked['guidance_scale']}) also reads a text without the prompt, whose tokens "
            "would be taken for the prompt's. Leave it out."
        )
    if asked["assistant_early_exit"] is not None or unwrapped(
        options.get("assistant_model") or nn.Module()
    ) is unwrapped(model):
        raise RunError(
            "The assistant is the edited model itself, so the edits would also change what it proposes. Pass another "
            "assistant_model."
        )
    for name in ("dola_layers", "custom_generate"):
        if asked[name] is not None:
            raise RunError(
                f"generate({name}=...) decodes in its own way, where the edits' positions are not known. Leave it out."
            )


def padded_left(given: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """The same prompts with their padding moved to the left (decoders only); other inputs are returned as they are."""
    mask = given.get("attention_mask")
    encodes = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    if encodes or not isinstance(mask, Tensor) or mask.ndim != 2 or bool((mask[:, -1] != 0).all()):
        return dict(given)
    shift = mask.shape[1] - (mask != 0).sum(1) - (mask != 0).long().argmax(1)
    columns = (torch.arange(mask.shape[1], device=mask.device)[None] - shift[:, None]) % mask.shape[1]
    per_token = {
        key: value for key, value in given.items() if isinstance(value, Tensor) and value.shape[:2] == mask.shape
    }
    return {**given, **{key: _rolled(value, columns) for key, value in per_token.items()}}


def _rolled(value: Tensor, columns: Tensor) -> Tensor:
    index = columns.to(value.device).reshape(*columns.shape, *[1] * (value.ndim - 2)).expand_as(value)
    return value.gather(1, index)
