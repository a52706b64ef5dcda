"""Strings wherever a batch of tokens goes: one text, several, or conversations, through the model's own tokenizer.

model("The king said", source=["The queen said"])      model.generate("The king said")      model.collect([...])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from causal_reft.errors import DataError, RunError
from causal_reft.execution.locating import device_of
from causal_reft.execution.output_layout import NEXT_TOKEN, output_layout
from causal_reft.tensors import Tensor
from causal_reft.texts import encode

Text = str | Sequence[Any]  # a text, texts, a conversation, conversations


def tokenised(run: str, given: Any, model: nn.Module, tokenizer: Any) -> Any:
    """Strings and conversations as a batch on the model's device; anything else as it is.

    A model that continues texts reads them as prompts (see `causal_reft.texts.tokens`); any other, an encoder for
    example, reads what the tokenizer gives.

    Raises:
        RunError: strings without a tokenizer; a list that mixes strings with something else.
    """
    if isinstance(given, Tensor | Mapping) or not _holds_text(given):
        return given
    if tokenizer is None:
        raise RunError(
            f"run {run!r} was given text, {str(given)[:60]!r}, and this model has no tokenizer. Write "
            "IntervenedModel(model, graph, tokenizer), or pass tokenizer(prompts, padding=True, return_tensors='pt')."
        )
    try:
        batch = encode(given, tokenizer, continued=output_layout(model) == NEXT_TOKEN)
    except DataError as error:
        raise RunError(f"run {run!r}: {error}") from error
    device = device_of(getattr(model, "get_input_embeddings", lambda: None)() or model)
    return {key: value.to(device) for key, value in batch.items()}


def _holds_text(given: Any) -> bool:
    if isinstance(given, str):
        return True
    return isinstance(given, Sequence) and any(_holds_text(part) or _is_message(part) for part in given)


def _is_message(part: Any) -> bool:
    return isinstance(part, Mapping) and "role" in part
