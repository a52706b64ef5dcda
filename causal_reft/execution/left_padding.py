"""Whether a model reads a left-padded text as it reads the text itself, asked of the model once.

Many families number tokens by their column, so padding on the left moves every position. Some of those take
`position_ids`, which say the true numbers; the architecture table knows the most common. For all others one short text
is run by itself and padded, with and without `position_ids`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from causal_reft.errors import RunError
from causal_reft.execution.input_checks import forward_arguments
from causal_reft.execution.probing import probing
from causal_reft.sites import model_config, unwrapped
from causal_reft.tensors import Tensor

TOKENS, PADS = 6, 3
_NEEDS_NUMBERS: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def true_positions(mask: Tensor) -> Tensor:
    """The number of every token within its text, (batch, tokens)."""
    return (mask.long().cumsum(1) - 1).clamp_min(0)


def needs_position_ids(run: str, model: nn.Module) -> bool:
    """Whether left-padded texts need `position_ids`.

    Raises:
        RunError: a model that reads padded texts otherwise in every way, or that cannot be asked (on `meta`).
    """
    if model not in _NEEDS_NUMBERS:
        _NEEDS_NUMBERS[model] = _ask(run, model)
    return _NEEDS_NUMBERS[model]


@torch.no_grad()
def _ask(run: str, model: nn.Module) -> bool:
    home = next(model.parameters(), None)
    if home is not None and not home.is_meta:
        with probing(model):
            wanted = _read(model, padded=False, numbered=False)
            for numbered in (False, True):
                if numbered and "position_ids" not in forward_arguments(model):
                    continue
                if _alike(_read(model, padded=True, numbered=numbered), wanted):
                    return numbered
    raise RunError(
        f"run {run!r} is padded on the left, and {type(unwrapped(model)).__name__} gives other numbers for a text that "
        "is padded so than for the text itself. Pad on the right (tokenizer.padding_side = 'right'), or give texts of "
        "equal length."
    )


def _alike(found: Tensor, wanted: Tensor) -> bool:
    """Up to rounding, which is far below what another position changes."""
    precise = wanted.dtype in (torch.float32, torch.float64)
    return bool((found - wanted).norm() <= (1e-3 if precise else 0.05) * wanted.norm())


def _read(model: Any, padded: bool, numbered: bool) -> Tensor:
    """What a model gives at the last token of a short text, (width,)."""
    config, device = model_config(model), next(model.parameters()).device
    pad = config.pad_token_id if isinstance(config.pad_token_id, int) else 0
    text = torch.tensor([list(_ordinary_tokens(config, pad))], device=device)
    pads = torch.full((1, PADS if padded else 0), pad, device=device)
    ids, mask = torch.cat([pads, text], 1), torch.cat([torch.zeros_like(pads), torch.ones_like(text)], 1)
    inputs = {"input_ids": ids, "attention_mask": mask} | ({"position_ids": true_positions(mask)} if numbered else {})
    if getattr(config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = text[:, :1]
    output = model(**inputs)
    values = output.get("logits", output[0])
    return (values[0, -1] if values.ndim == 3 else values[0]).double()


def _ordinary_tokens(config: Any, pad: int) -> Iterator[int]:
    """A few tokens without a meaning of their own."""
    special = {pad, *(getattr(config, f"{name}_token_id", None) for name in ("bos", "eos", "sep", "cls", "mask"))}
    found = [token for token in range(min(config.vocab_size, 200)) if token not in special]
    step = max(1, len(found) // TOKENS)
    return (found[(i * step) % len(found)] for i in range(TOKENS))
