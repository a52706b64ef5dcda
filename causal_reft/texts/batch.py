"""Token rows -> the tensors of a batch; padding on either side means the same.

A *record* is one row before padding: `input_ids`, `labels` (-100 where nothing is scored), `prompt_lengths` (an int)
and, where the data names parts of a prompt, `spans` (name -> range of tokens, counted from the row's first token).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from causal_reft.errors import DataError
from causal_reft.tensors import Tensor
from causal_reft.texts.chat import as_prompts, chat_prompt
from causal_reft.texts.tokens import Ids, prompt_tokens, whole_tokens

Record = dict[str, Any]
IGNORED_LABEL = -100
SIDES = ("right", "left")


def record(prompt: Sequence[int], completion: Sequence[int]) -> Record:
    """A prompt and a completion as a training record: the labels are those of the completion."""
    labels = [IGNORED_LABEL] * len(prompt) + list(completion)
    return {"input_ids": [*prompt, *completion], "labels": labels, "prompt_lengths": len(prompt)}


def pad_token_id(tokenizer: Any) -> int:
    """A token to pad with; the attention mask hides it, so any will do."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def token_batch(rows: Sequence[Sequence[int]], pad: int, side: str = "right") -> dict[str, Any]:
    """`input_ids` and `attention_mask`, (row, column), of token rows that are padded on one side."""
    return {
        "input_ids": padded(rows, pad, side),
        "attention_mask": padded([[1] * len(row) for row in rows], 0, side),
    }


def labelled_batch(records: Sequence[Record], pad: int, side: str = "right") -> dict[str, Any]:
    """The tensors of records: `input_ids`, `attention_mask`, `labels`, and what else the records hold of
    `prompt_lengths`, `token_type_ids` and `spans`.

    Labels are one for each token, or one for each record (a class as int, a score as float).

    Raises:
        DataError: no records; records of different kinds.
    """
    _same_keys(records)
    batch = token_batch([row["input_ids"] for row in records], pad, side)
    if "token_type_ids" in records[0]:
        batch["token_type_ids"] = padded([row["token_type_ids"] for row in records], 0, side)
    if "labels" in records[0]:
        batch["labels"] = _labels([row["labels"] for row in records], side)
    if "prompt_lengths" in records[0]:
        batch["prompt_lengths"] = torch.tensor([int(row["prompt_lengths"]) for row in records])
    if "spans" in records[0]:
        batch["spans"] = {name: [row["spans"][name] for row in records] for name in records[0]["spans"]}
    return batch


def encode(given: Any, tokenizer: Any, continued: bool = True, side: str = "right") -> dict[str, Any]:
    """A batch of one text, several texts, or conversations.

    Args:
        given: a string, a list of strings, a conversation (a list of {"role": ..., "content": ...}) or a list of these.
        tokenizer: a transformers tokenizer.
        continued: whether the model continues the texts (a decoder), or reads them as finished.
        side: where rows are padded.

    Raises:
        DataError: no texts; a text without tokens; a conversation without a chat template.
    """
    return token_batch(prompt_rows(given, tokenizer, continued), pad_token_id(tokenizer), side)


def prompt_rows(given: Any, tokenizer: Any, continued: bool = True) -> list[Ids]:
    """The token rows of what `encode` takes, before padding.

    Raises:
        DataError: as `encode`; strings and conversations in one list.
    """
    prompts = as_prompts(given)
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    if not prompts or 0 < len(texts) < len(prompts):
        raise DataError(
            "Strings and conversations are in one list. Give a list of either."
            if prompts
            else "No text was given: the list is empty."
        )
    chats = [chat_prompt(p, tokenizer, f"Conversation {i}") for i, p in enumerate(prompts) if not isinstance(p, str)]
    if chats:
        return prompt_tokens(chats, tokenizer, framed=True)
    rows = prompt_tokens(texts, tokenizer) if continued else whole_tokens(texts, tokenizer)
    if (empty := next((i for i, row in enumerate(rows) if not row), None)) is not None:
        raise DataError(f"Text {empty} has no tokens: {texts[empty]!r}. Give it a word.")
    return rows


def padded(rows: Sequence[Sequence[int]], fill: int, side: str = "right") -> Tensor:
    """Rows of unequal length as one tensor (row, column).

    Raises:
        DataError: no such side.
    """
    if side not in SIDES:
        raise DataError(f"padding_side={side!r}: rows are padded on the 'right' or on the 'left'.")
    width = max(map(len, rows))
    filled = [[fill] * (width - len(row)) for row in rows]
    return torch.tensor(
        [[*row, *more] if side == "right" else [*more, *row] for row, more in zip(rows, filled, strict=True)]
    )


def _labels(labels: Sequence[Any], side: str) -> Tensor:
    return torch.tensor(labels) if isinstance(labels[0], int | float) else padded(labels, IGNORED_LABEL, side)


def _same_keys(records: Sequence[Record]) -> None:
    if not records:
        raise DataError("There are no records, so there is no batch to make of them.")
    for row, entry in enumerate(records):
        if "input_ids" not in entry:
            raise DataError(
                f"Record {row} has no input_ids (its fields: {', '.join(map(str, entry)) or 'none'}). Records are made "
                "by cr.completions(data, tokenizer)."
            )
        if set(entry) != set(records[0]):
            raise DataError(
                f"Record {row} has the fields {sorted(entry)}, and record 0 has {sorted(records[0])}. One batch holds "
                "records of one kind."
            )
