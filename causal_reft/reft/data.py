"""Records for training from data sets: prompts and completions, conversations, instructions, classes, preferences.

completions("alpaca.json", tokenizer)                    instruction, input, output; or prompt and completion, messages
classification(rows, tokenizer, classes=2)               a class for each text
preferences(rows, tokenizer)                             prompt, chosen, rejected

A prompt has the same tokens here as in `generate_texts`; only what follows it is scored.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from causal_reft.errors import CausalReftWarning, DataError
from causal_reft.execution import Examples
from causal_reft.reft.context import context_length
from causal_reft.reft.formats import PAIR, Written, written
from causal_reft.reft.rows import read_rows, text_of, value_of
from causal_reft.texts import (
    Record,
    check_tokenizer,
    continuations,
    ended,
    labelled_batch,
    pad_token_id,
    record,
    whole_tokens,
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
    return _records(texts, tokenizer, end, _Limit.of(max_length, model, truncate))


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
    tokenizer, limit = _checked(tokenizer, end), _Limit.of(max_length, model, False)
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


def classification(
    data: Any,
    tokenizer: Any,
    classes: int | Sequence[str] | None = None,
    max_length: int | None = None,
    *,
    fields: Sequence[str] = ("text", "label"),
    model: nn.Module | None = None,
) -> list[Record]:
    """Records of texts with a class each, for a model with a classification head.

    Args:
        data: (text, label) pairs, or rows as for `completions`.
        tokenizer: one with a pad token, by which classifiers find the end of a text.
        classes: how many, or their names in the order of the head's outputs; by default what `model` has.
        max_length: longest text in tokens; longer ones are refused.
        fields: the names of the text's field and of the label's; of two texts and the label for pairs of texts.
        model: the classifier, for its number of classes and its context.

    Returns:
        Records with `input_ids` and `labels` (the number of the class).

    Raises:
        DataError: naming the record: a missing or empty text, a label out of range or of another type; no pad token.
    """
    found = classes if classes is not None else getattr(getattr(model, "config", None), "num_labels", None)
    if found is None:
        raise DataError(
            "How many classes are there? Write classes=2, classes=['negative', 'positive'], or model=model."
        )
    rows = read_rows(data, fields)
    labels = [_class(number, value_of(number, row, fields[-1]), found) for number, row in enumerate(rows)]
    return _finished(rows, labels, tokenizer, fields, _Limit.of(max_length, model, False), model)


def regression(
    data: Any,
    tokenizer: Any,
    max_length: int | None = None,
    *,
    fields: Sequence[str] = ("text", "label"),
    model: nn.Module | None = None,
) -> list[Record]:
    """Records of texts with a number each; arguments and errors as for `classification`."""
    rows = read_rows(data, fields)
    labels = [_score(number, value_of(number, row, fields[-1])) for number, row in enumerate(rows)]
    return _finished(rows, labels, tokenizer, fields, _Limit.of(max_length, model, False), model)


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


# What is checked of every record ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Limit:
    """The longest record, why, and whether completions beyond it are cut."""

    length: int | None
    reason: str
    cut: bool

    @staticmethod
    def of(max_length: int | None, model: nn.Module | None, cut: bool) -> _Limit:
        context = None if model is None else context_length(getattr(model, "base_model", model))
        if max_length is not None and (type(max_length) is not int or max_length < 1):
            raise DataError(f"max_length={max_length!r} is no number of tokens. Give a whole number such as 512.")
        if cut and max_length is None and context is None:
            raise DataError("truncate=True needs max_length=..., or model=... with a context in its config.")
        if max_length is not None and (context is None or max_length <= context):
            return _Limit(max_length, f"max_length={max_length}", cut)
        return _Limit(context, f"the model's context of {context}", cut)

    def beyond(self, length: int) -> bool:
        return self.length is not None and length > self.length


def _records(texts: Sequence[Written], tokenizer: Any, end: bool, limit: _Limit) -> list[Record]:
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


def _shortened(number: int, made: Record, limit: _Limit) -> Record:
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


def _finished(
    rows: Sequence[Mapping[str, Any]],
    labels: Sequence[Any],
    tokenizer: Any,
    fields: Sequence[str],
    limit: _Limit,
    model: nn.Module | None,
) -> list[Record]:
    """Records of finished texts, which a head reads at their end."""
    config = getattr(model, "config", None)
    if check_tokenizer(tokenizer).pad_token_id is None or (config is not None and config.pad_token_id is None):
        raise DataError(
            "Classifiers find the end of a text by the pad token, and there is none. Write tokenizer.pad_token = "
            "tokenizer.eos_token and model.config.pad_token_id = tokenizer.pad_token_id."
        )
    texts = [[text_of(number, row, field) for field in fields[:-1]] for number, row in enumerate(rows)]
    encoded = _encoded(texts, tokenizer)
    for number, (text, entry) in enumerate(zip(texts, encoded, strict=True)):
        if not all(part.strip() for part in text) or not entry["input_ids"]:
            raise DataError(f"Record {number} has an empty text: {text!r}.")
        if limit.beyond(len(entry["input_ids"])):
            raise DataError(f"Record {number} has {len(entry['input_ids'])} tokens, more than {limit.reason}.")
    return [{**entry, "labels": label} for entry, label in zip(encoded, labels, strict=True)]


def _encoded(texts: Sequence[Sequence[str]], tokenizer: Any) -> list[Record]:
    if len(texts[0]) == 1:
        return [{"input_ids": ids} for ids in whole_tokens([text[0] for text in texts], tokenizer)]
    found = tokenizer(*map(list, zip(*texts, strict=True)), verbose=False)
    kept = [key for key in ("input_ids", "token_type_ids") if key in found]
    return [{key: list(found[key][number]) for key in kept} for number in range(len(texts))]


def _class(number: int, label: Any, classes: int | Sequence[str]) -> int:
    names = None if isinstance(classes, int) else list(classes)
    if names is not None and isinstance(label, str):
        if label not in names:
            raise DataError(
                f"Record {number} has the label {label!r}, which is none of the classes {', '.join(names)}."
            )
        return names.index(label)
    count = classes if isinstance(classes, int) else len(classes)
    whole = _number(label)
    if whole is None or not whole.is_integer():
        raise DataError(
            f"Record {number} has the label {label!r}, a {type(label).__name__}. Labels are numbers 0 to {count - 1}, "
            "or names with classes=[...]."
        )
    if not 0 <= whole < count:
        raise DataError(f"Record {number} has the label {label!r}, outside 0 to {count - 1}.")
    return int(whole)


def _score(number: int, label: Any) -> float:
    score = _number(label)
    if score is None or not math.isfinite(score):
        raise DataError(
            f"Record {number} has the label {label!r}, a {type(label).__name__}; it must be a finite number."
        )
    return score


def _number(label: Any) -> float | None:
    """A number, also one that a file holds as text."""
    try:
        return float(label)
    except (TypeError, ValueError, OverflowError):
        return None
