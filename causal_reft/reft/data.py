"""Prompt-completion pairs, tokenised so that training sees exactly the prompt tokens that generation will see.

The prompt is tokenised alone, as it will be for generation; the completion is what follows. Labels cover the
completion, and `prompt_lengths` tells the position language where each prompt ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from causal_reft.errors import DataError
from causal_reft.execution import Examples
from causal_reft.texts import Record, continuations, ended, labelled_batch, pad_token_id, record


def completions(
    pairs: Sequence[tuple[str, str]], tokenizer: Any, end: bool = True, max_length: int | None = None
) -> list[Record]:
    """Tokenised training records, one for each (prompt, completion).

    Args:
        pairs: texts; the completion is learned, the prompt is given.
        tokenizer: a transformers tokenizer.
        end: whether the completion ends with the tokenizer's end-of-text token, so that generation learns to stop.
        max_length: longest record in tokens; longer ones are refused, not cut.

    Returns:
        Records with `input_ids`, `labels` (-100 on the prompt) and `prompt_lengths`, for `Trainer` or `as_examples`.

    Raises:
        DataError: an empty prompt or completion, a record that is too long, no end-of-text token.
    """
    if end and tokenizer.eos_token_id is None:
        raise DataError("This tokenizer has no end-of-text token. Pass end=False, or set tokenizer.eos_token.")
    prompts, answers = [prompt for prompt, _ in pairs], [answer for _, answer in pairs]
    records = []
    for row, found in enumerate(continuations(prompts, answers, tokenizer)):
        if not found.prompt or not found.completion:
            raise DataError(
                f"Pair {row} has an empty {'prompt' if not found.prompt else 'completion'}: {tuple(pairs[row])!r}."
            )
        made = record(found.prompt, ended(found.completion, tokenizer) if end else found.completion)
        if max_length is not None and len(made["input_ids"]) > max_length:
            raise DataError(f"Pair {row} has {len(made['input_ids'])} tokens, more than max_length={max_length}.")
        records.append(made)
    return records


@dataclass(frozen=True)
class ReftCollator:
    """Pads records and adds the attention mask."""

    pad_token_id: int
    padding_side: str = "right"

    def __call__(self, records: Sequence[Record]) -> dict[str, Any]:
        return labelled_batch(records, self.pad_token_id, self.padding_side)


def as_examples(records: Sequence[Record], tokenizer: Any) -> Examples:
    """The same records as `Examples`, for `fit`."""
    batch = ReftCollator(pad_token_id(tokenizer))(records)
    labels = batch.pop("labels")
    return Examples({"base": batch}, labels)
