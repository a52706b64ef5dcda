"""Prompt-completion pairs, tokenised so that training sees exactly the prompt tokens that generation will see.

The prompt is tokenised alone, as it will be for generation; the completion is what follows. Labels cover the
completion, and `prompt_lengths` tells the position language where each prompt ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from causal_reft.errors import DataError
from causal_reft.execution import Examples
from causal_reft.execution.inputs import IGNORED_LABEL
from causal_reft.tensors import Tensor

Record = dict[str, Any]


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
    records = []
    for row, (prompt, completion) in enumerate(pairs):
        prompt_ids, answer_ids = _split(prompt, completion, tokenizer)
        if not prompt_ids or not answer_ids:
            raise DataError(
                f"Pair {row} has an empty {'prompt' if not prompt_ids else 'completion'}: {(prompt, completion)!r}."
            )
        answer_ids = [*answer_ids, tokenizer.eos_token_id] if end else answer_ids
        if max_length is not None and len(prompt_ids) + len(answer_ids) > max_length:
            raise DataError(
                f"Pair {row} has {len(prompt_ids) + len(answer_ids)} tokens, more than max_length={max_length}."
            )
        ids, labels = [*prompt_ids, *answer_ids], [IGNORED_LABEL] * len(prompt_ids) + answer_ids
        records.append({"input_ids": ids, "labels": labels, "prompt_lengths": len(prompt_ids)})
    return records


def _split(prompt: str, completion: str, tokenizer: Any) -> tuple[list[int], list[int]]:
    """The prompt's own tokens, and those of the completion as they follow it (or alone, where the two would merge)."""
    prompt_ids = list(tokenizer(prompt)["input_ids"])
    if tokenizer.eos_token_id is not None and len(prompt_ids) > 1 and prompt_ids[-1] == tokenizer.eos_token_id:
        prompt_ids = prompt_ids[:-1]
    whole = list(tokenizer(prompt + completion)["input_ids"])
    if tokenizer.eos_token_id is not None and whole and whole[-1] == tokenizer.eos_token_id:
        whole = whole[:-1]
    if whole[: len(prompt_ids)] == prompt_ids:
        return prompt_ids, whole[len(prompt_ids) :]
    return prompt_ids, list(tokenizer(completion, add_special_tokens=False)["input_ids"])


@dataclass(frozen=True)
class ReftCollator:
    """Pads records on the right and adds the attention mask."""

    pad_token_id: int

    def __call__(self, records: Sequence[Record]) -> dict[str, Tensor]:
        width = max(len(record["input_ids"]) for record in records)
        return {
            "input_ids": _padded([record["input_ids"] for record in records], width, self.pad_token_id),
            "attention_mask": _padded([[1] * len(record["input_ids"]) for record in records], width, 0),
            "labels": _padded([record["labels"] for record in records], width, IGNORED_LABEL),
            "prompt_lengths": torch.tensor([int(record["prompt_lengths"]) for record in records]),
        }


def as_examples(records: Sequence[Record], tokenizer: Any) -> Examples:
    """The same records as `Examples`, for `fit`."""
    batch = ReftCollator(pad_id(tokenizer))(records)
    labels = batch.pop("labels")
    return Examples({"base": batch}, labels)


def pad_id(tokenizer: Any) -> int:
    """A token to pad with; the attention mask hides it, so any will do."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def _padded(rows: Sequence[Sequence[int]], width: int, fill: int) -> Tensor:
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])
