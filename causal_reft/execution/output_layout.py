"""Where a model's logits live, and which label each is compared with: a fact of the model's class.

    causal language model       (row, column, class); the logits at column c predict the token at c + 1
    masked language model,
    token classifier            (row, column, class); the logits at column c predict the label at c
    encoder-decoder model       (row, column of the decoder, class); the logits at column c predict the label at c
    classifier of whole inputs  (row, class)

The classes come from transformers' own tables of which class does which task.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import nn

from causal_reft.sites import model_config, unwrapped


@dataclass(frozen=True)
class OutputLayout:
    """One kind of model. `shift`: the logits at column c are compared with the label at column c + shift."""

    name: str
    by_token: bool = True
    shift: int = 0
    in_decoder: bool = False


NEXT_TOKEN = OutputLayout("a causal language model", shift=1)
SAME_TOKEN = OutputLayout("a model that labels its own tokens")
DECODER_TOKEN = OutputLayout("an encoder-decoder model", in_decoder=True)
ROW = OutputLayout("a classifier of whole inputs", by_token=False)

# tasks of `transformers.models.auto.modeling_auto`; a class that is in several belongs to the first
TASKS = {
    "SEQ_TO_SEQ_CAUSAL_LM": DECODER_TOKEN,
    "SPEECH_SEQ_2_SEQ": DECODER_TOKEN,
    "CAUSAL_LM": NEXT_TOKEN,
    "IMAGE_TEXT_TO_TEXT": NEXT_TOKEN,
    "MASKED_LM": SAME_TOKEN,
    "TOKEN_CLASSIFICATION": SAME_TOKEN,
    "SEQUENCE_CLASSIFICATION": ROW,
    "IMAGE_CLASSIFICATION": ROW,
    "AUDIO_CLASSIFICATION": ROW,
}
# in the table of causal language models, but their labels stand beside the logits
NOT_SHIFTED = ("XLNetLMHeadModel", "XLMWithLMHeadModel", "FlaubertWithLMHeadModel")


@cache
def _classes() -> dict[str, OutputLayout]:
    from transformers.models.auto import modeling_auto

    found: dict[str, OutputLayout] = dict.fromkeys(NOT_SHIFTED, SAME_TOKEN)
    for task, layout in TASKS.items():
        for names in getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES", {}).values():
            for name in (names,) if isinstance(names, str) else names:
                found.setdefault(name, layout)
    return found


def output_layout(model: nn.Module) -> OutputLayout:
    """The layout of a model's logits; a class that no table names is one for rows unless it generates texts.

    Any other module than a transformers model is read as a causal language model where its inputs are a text.
    """
    inner: Any = unwrapped(model)
    if model_config(model) is None:
        return NEXT_TOKEN
    for kind in type(inner).__mro__:
        if kind.__name__ in _classes():
            return _classes()[kind.__name__]
    generates = getattr(inner, "can_generate", None)
    if not (callable(generates) and generates()):
        return ROW
    return DECODER_TOKEN if getattr(inner.config, "is_encoder_decoder", False) else NEXT_TOKEN
