"""The texts with which an edited model continues prompts, in batches of prompts of similar length."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, overload

from causal_reft.errors import DataError
from causal_reft.execution import IntervenedModel
from causal_reft.reft.context import check_context
from causal_reft.texts import Messages, as_prompts, check_tokenizer, is_conversation, pad_token_id, prompt_rows
from causal_reft.texts import token_batch as batch_of


@overload
def generate_texts(model: IntervenedModel, prompts: str, batch_size: int = 32, **options: Any) -> str: ...  # pyright: ignore[reportOverlappingOverload]
@overload
def generate_texts(
    model: IntervenedModel, prompts: Iterable[str | Messages], batch_size: int = 32, **options: Any
) -> list[str]: ...
def generate_texts(model: IntervenedModel, prompts: Any, batch_size: int = 32, **options: Any) -> str | list[str]:
    """The continuations of prompts as text, without the prompts.

    Args:
        model: an intervened model with a tokenizer.
        prompts: a string, or any number of them of any length; or conversations (lists of {"role": ..., "content":
            ...}), which the tokenizer's chat template turns into prompts.
        batch_size: prompts of a forward pass; they are sorted by length and padded on the left.
        options: of `generate`: max_new_tokens, num_beams, ...; greedy by default.

    Returns:
        The continuation of each prompt, in the order given; one string for one string or one conversation.

    Raises:
        DataError: no tokenizer; an empty prompt; a prompt beyond the model's context; batch_size below 1; more than one
            sequence for a prompt.
    """
    if model.tokenizer is None:
        raise DataError("generate_texts needs the model's tokenizer: IntervenedModel(model, graph, tokenizer).")
    if batch_size < 1:
        raise DataError(f"batch_size={batch_size}: at least one prompt goes into a forward pass.")
    if options.get("num_return_sequences", 1) != 1 or options.get("return_dict_in_generate"):
        raise DataError("generate_texts gives one text for each prompt. For more, call model.generate(prompts, ...).")
    tokenizer, given = check_tokenizer(model.tokenizer), list(prompts) if _is_several(prompts) else [prompts]
    if not as_prompts(given):
        return []
    rows = prompt_rows(given, tokenizer, continued=not _encodes(model))
    check_context(rows, model.base_model, "Prompt")
    options = {"do_sample": False, "pad_token_id": pad_token_id(tokenizer), **options}
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    texts = [""] * len(rows)
    for start in range(0, len(order), batch_size):
        some = order[start : start + batch_size]
        batch = batch_of([rows[row] for row in some], pad_token_id(tokenizer), side="left")
        out = model.generate({key: value.to(model.device) for key, value in batch.items()}, **options)
        new = out if _encodes(model) else out[:, batch["input_ids"].shape[1] :]
        for row, text in zip(some, tokenizer.batch_decode(new, skip_special_tokens=True), strict=True):
            texts[row] = text
    return texts if _is_several(prompts) else texts[0]


def _is_several(prompts: Any) -> bool:
    return not isinstance(prompts, str) and not is_conversation(prompts)


def _encodes(model: IntervenedModel) -> bool:
    return bool(getattr(model.config, "is_encoder_decoder", False))
