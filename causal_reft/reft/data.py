"""Records for training from data sets: prompts and completions, conversations, instructions, preferences.

completions("alpaca.json", tokenizer)                    instruction, input, output; or prompt and completion, messages
preferences(rows, tokenizer)                             prompt, chosen, rejected

A prompt has the same tokens here as in `generate_texts`; only what follows it is scored.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from causal_reft.errors import CausalReftWarning, DataError
from causal_reft.execution import Examples
from causal_reft.reft.context import Limit
from causal_reft.reft.formats import PAIR, Written, written
from causal_reft.reft.rows import read_rows
from causal_reft.texts import (
    Record,
    check_tokenizer,
    continuations,
    ended,
    labelled_batch,
    pad_token_id,
    record,
)

PREFERENCE = ("prompt", "chosen", "rejected")
PACKED = ("position_ids", "seq_idx", "cu_seq_lens_q", "seq_lengths")
PACKING = (
    "several texts are packed into one row. Positions are counted in a row's prompt, so every text but the first would "
    "be trained without its edit. Give each text a row of its own, and group rows by length to save padding."
)


def completions(
    data: Any,
    tokenizer: Any,
    end: bool = True,
    max_length: int | None = None,
    *,
    fields: Sequence[str] | None = None,
    chat: bool = False,
    turns: str = "last",
    truncate: bool = False,
    model: nn.Module | None = None,
    packing: bool = False,
) -> list[Record]:
    """Training records: what follows each prompt is learned, the prompt is given.

    Args:
        data: (prompt, completion) pairs; mappings, a `datasets.Dataset`, a DataFrame, or a .json, .jsonl or .csv file
            with the fields prompt and completion (or response), question and answer, instruction, input and output
            (Alpaca), or messages (conversations).
        tokenizer: a transformers tokenizer.
        end: whether a completion ends with the tokenizer's end-of-text token, so that generation learns to stop.
        max_length: longest record in tokens; longer ones are refused.
        fields: the names of the prompt's and the completion's field, or of the messages', where they are others; their
            texts are taken as they are.
        chat: whether prompt and completion become the turns of a conversation under the tokenizer's chat template;
            messages always do.
        turns: of conversations, learn the "last" assistant turn or "every" one, each as a record of its own.
        truncate: whether a record beyond max_length loses the end of its completion, with a warning. Prompts, where
            edits are, are never cut.
        model: the model to be trained, whose context no record may exceed.
        packing: refused, with the reason.

    Returns:
        Records with `input_ids`, `labels` (-100 on the prompt) and `prompt_lengths`, for `ReftTrainer` or
        `as_examples`.

    Raises:
        DataError: naming the record and its field: a missing, empty or non-string field, an empty prompt or
            completion, too many tokens; no end-of-text token, no chat template.
    """
    if packing:
        raise DataError(f"packing=True: {PACKING}")
    tokenizer = _checked(tokenizer, end)
    rows = read_rows(data, fields if fields is not None and len(fields) == 2 else PAIR)
    texts = written(rows, tokenizer, fields, chat, turns)
    return _records(texts, tokenizer, end, Limit.of(max_length, model, truncate))


def preferences(
    data: Any,
    tokenizer: Any,
    end: bool = True,
    max_length: int | None = None,
    *,
    fields: Sequence[str] = PREFERENCE,
    chat: bool = False,
    model: nn.Module | None = None,
) -> list[dict[str, Record]]:
    """Pairs of records with one prompt: `chosen`, the completion to prefer, and `rejected`.

    Args:
        data: as for `completions`: (prompt, chosen, rejected) tuples, or rows with these fields.
        tokenizer, end, max_length, chat, model: as for `completions`.
        fields: the names of the three fields.

    Raises:
        DataError: as `completions`; equal completions.
    """
    tokenizer, limit = _checked(tokenizer, end), Limit.of(max_length, model, False)
    rows = read_rows(data, fields)
    sides = {
        name: _records(written(rows, tokenizer, (fields[0], field), chat), tokenizer, end, limit)
        for name, field in zip(("chosen", "rejected"), fields[1:], strict=True)
    }
    pairs = [dict(zip(sides, pair, strict=True)) for pair in zip(*sides.values(), strict=True)]
    for number, pair in enumerate(pairs):
        if pair["chosen"] == pair["rejected"]:
            raise DataError(
                f"Record {number}: {fields[1]!r} and {fields[2]!r} are the same, so there is no preference."
            )
    return pairs


@dataclass(frozen=True)
class ReftCollator:
    """Pads records and adds the attention mask; preferences become one batch each of `chosen` and `rejected`."""

    pad_token_id: int
    padding_side: str = "right"

    def __call__(self, records: Sequence[Record]) -> dict[str, Any]:
        if records and (packed := next((key for key in PACKED if key in records[0]), None)):
            raise DataError(f"The records hold {packed!r}, as where {PACKING}")
        if records and all(set(entry) == {"chosen", "rejected"} for entry in records):
            return {side: self([entry[side] for entry in records]) for side in ("chosen", "rejected")}
        return labelled_batch(records, self.pad_token_id, self.padding_side)


def as_examples(records: Sequence[Record], tokenizer: Any) -> Examples:
    """The same records as `Examples`, for `fit`; those of `regression` with `loss=squared_error`.

    Raises:
        DataError: no records; records without labels, or of preferences.
    """
    for number, entry in enumerate(records):
        if "labels" not in entry:
            raise DataError(
                f"Record {number} has no labels (its fields: {', '.join(map(str, entry)) or 'none'}). as_examples "
                "takes records of cr.completions, cr.classification and cr.regression; preferences are for ReftTrainer."
            )
    batch = ReftCollator(pad_token_id(tokenizer))(records)
    labels = batch.pop("labels")
    return Examples({"base": batch}, labels)


def _records(texts: Sequence[Written], tokenizer: Any, end: bool, limit: Limit) -> list[Record]:
    framed = texts[0].framed
    prompts, answers = [text.prompt for text in texts], [text.completion for text in texts]
    names = [text.record for text in texts]
    records, cut = [], 0
    for text, found in zip(texts, continuations(prompts, answers, tokenizer, framed, names), strict=True):
        if not found.prompt or not found.completion:
            which = "prompt" if not found.prompt else "completion"
            raise DataError(f"Record {text.record} has an empty {which}: {(text.prompt, text.completion)!r}.")
        made = record(found.prompt, ended(found.completion, tokenizer, framed) if end else found.completion)
        if limit.beyond(len(made["input_ids"])):
            made, cut = _shortened(text.record, made, limit), cut + 1
        records.append(made)
    if cut:
        warnings.warn(
            f"{cut} of {len(records)} completions are cut at {limit.reason}: they end without their end-of-text token.",
            CausalReftWarning,
            stacklevel=3,
        )
    return records


def _shortened(number: int, made: Record, limit: Limit) -> Record:
    length, prompt = len(made["input_ids"]), made["prompt_lengths"]
    assert limit.length is not None
    if not limit.cut:
        raise DataError(
            f"Record {number} has {length} tokens ({prompt} of them its prompt), more than {limit.reason}. Drop it, or "
            "cut completions with truncate=True."
        )
    if prompt >= limit.length:
        raise DataError(
            f"Record {number} has a prompt of {prompt} tokens, which leaves nothing of {limit.reason} for its "
            "completion. Prompts are not cut, for edits are at their tokens. Drop the record or shorten its prompt."
        )
    cut = slice(0, limit.length)
    return {**made, "input_ids": made["input_ids"][cut], "labels": made["labels"][cut]}


def _checked(tokenizer: Any, end: bool) -> Any:
    if end and check_tokenizer(tokenizer).eos_token_id is None:
        raise DataError("This tokenizer has no end-of-text token. Pass end=False, or set tokenizer.eos_token.")
    return tokenizer
