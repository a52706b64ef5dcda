"""Records of texts with a class or a number each, for a model with a head that reads a text at its end.

classification(rows, tokenizer, classes=2)               a class for each text, or for each pair of texts
regression(rows, tokenizer)                              a number
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from causal_reft.errors import DataError
from causal_reft.reft.context import Limit
from causal_reft.reft.rows import read_rows, text_of, value_of
from causal_reft.texts import Record, check_tokenizer, whole_tokens


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
    return _finished(rows, labels, tokenizer, fields, Limit.of(max_length, model, False), model)


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
    return _finished(rows, labels, tokenizer, fields, Limit.of(max_length, model, False), model)


def _finished(
    rows: Sequence[Mapping[str, Any]],
    labels: Sequence[Any],
    tokenizer: Any,
    fields: Sequence[str],
    limit: Limit,
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
