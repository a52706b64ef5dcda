"""What generation needs beside the hooks: which keywords are inputs, and prompts padded where decoding expects it.

A decoder continues at the last column, so prompts of unequal length must be padded on the left. Positions are counted in
prompt tokens, so moving the padding changes none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from causal_reft.tensors import Tensor

GENERATION_INPUTS = ("input_ids", "attention_mask", "inputs_embeds", "token_type_ids", "position_ids", "pixel_values")


def padded_left(given: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """The same prompts with their padding moved to the left (decoders only); other inputs are returned as they are."""
    mask = given.get("attention_mask")
    encodes = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    if encodes or not isinstance(mask, Tensor) or mask.ndim != 2 or bool((mask[:, -1] != 0).all()):
        return dict(given)
    shift = mask.shape[1] - (mask != 0).sum(1)
    columns = (torch.arange(mask.shape[1], device=mask.device)[None] - shift[:, None]) % mask.shape[1]
    per_token = {key: value for key, value in given.items() if isinstance(value, Tensor) and value.shape[:2] == mask.shape}
    return {**given, **{key: _rolled(value, columns) for key, value in per_token.items()}}


def _rolled(value: Tensor, columns: Tensor) -> Tensor:
    index = columns.to(value.device).reshape(*columns.shape, *[1] * (value.ndim - 2)).expand_as(value)
    return value.gather(1, index)
