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
from causal_reft.execution.input_checks import forward_arguments, refuse_filled_caches
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


OTHER_LOOPS = {  # options that decode by a loop of their own, and the value under which they do not
    "assistant_early_exit": None,
    "constraints": None,
    "custom_generate": None,
    "dola_layers": None,
    "force_words_ids": None,
    "num_beam_groups": 1,
    "penalty_alpha": 0,
    "speculation_type": None,
    "token_healing": False,
    "use_mtp": False,
}


def check_generation(model: nn.Module, options: Mapping[str, Any]) -> None:
    """Refuse ways of decoding under which an edit would act in another place than in training.

    Raises:
        RunError: labels; a model that does not generate, or keeps a memory of its own; an assistant that shares
            modules with the edited model; own decoding loops; guidance by a second text; a cache that holds tokens
            already.
    """
    if not callable(getattr(model, "generate", None)):
        raise RunError(f"{type(model).__name__} has no generate; it gives no texts.")
    if memory := forward_arguments(model) & {"mems", "past_buckets_states"}:
        raise RunError(
            f"{type(model).__name__} decodes by a memory of its own ({memory.pop()}), which does not say which tokens "
            "it holds. Use a model that decodes with keys and values, or with a recurrent state."
        )
    if "labels" in options:
        raise RunError("generate takes no labels; pass only the prompt.")
    if "inputs" in options:
        raise RunError("generate takes the prompt as its first argument, not as inputs=. Write generate(batch).")
    refuse_filled_caches(options, "generate")
    assistant: Any = options.get("assistant_model")
    if assistant is not None and set(unwrapped(assistant).modules()) & set(model.modules()):
        raise RunError(
            "The assistant shares modules with the edited model, so the edits would also change what it proposes. "
            "Pass another assistant_model, e.g. a copy: copy.deepcopy(assistant_model)."
        )
    if (scale := _asked("guidance_scale", model, options)) not in (None, 1):
        raise RunError(
            f"generate(guidance_scale={scale}) also reads a text without the prompt, whose tokens would be taken for "
            "the prompt's. Leave it out."
        )
    if _asked("cache_implementation", model, options) == "paged":
        raise RunError(
            "generate(cache_implementation='paged') joins prompts to one row, in threads of its own, where the edits' "
            "positions are not known. Leave it out, or write 'static'."
        )
    for name, off in OTHER_LOOPS.items():
        if (value := _asked(name, model, options)) is not None and value != off:
            raise RunError(
                f"generate({name}={value!r}) decodes in its own way, where the edits' positions are not known. Leave "
                "it out."
            )


def _asked(name: str, model: nn.Module, options: Mapping[str, Any]) -> Any:
    """What `generate` uses for an option: the keyword, else the given config, else the model's own."""
    if name in options:
        return options[name]
    configs = options.get("generation_config"), getattr(model, "generation_config", None)
    return next((value for config in configs if (value := getattr(config, name, None)) is not None), None)


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
