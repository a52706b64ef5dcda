"""Measured behaviours: what a model's continuation of a prompt is, one row a prompt, and rates with intervals.

A behaviour is a name and a test of one continuation against its row: which language it is in, whether it is the known
right answer. The language classifier counts words that only one of two sets of texts contains; it is exact on
vocabularies that it was made from and means nothing beyond them. For open text pass a function of a
language-identification library instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from torch import nn

from causal_reft.execution import IntervenedModel
from causal_reft.graph import InterventionGraph
from causal_reft.reft import completion_losses, completions, generate_texts
from causal_reft.texts import text_tokens

Row = Mapping[str, str]
LanguageOf = Callable[[str], str]


@dataclass(frozen=True)
class Behaviour:
    """A name, and whether a continuation shows it, given the row of data that its prompt came from."""

    name: str
    holds: Callable[[str, Row], bool]


@dataclass(frozen=True)
class WordLists:
    """A two-language classifier: each word of one list alone is a vote."""

    words: Mapping[str, frozenset[str]]

    @staticmethod
    def of(lists: Mapping[str, Iterable[str]]) -> WordLists:
        """From given lists: {"english": [...], "german": [...]}."""
        return WordLists({language: frozenset(words) for language, words in lists.items()})

    @staticmethod
    def from_texts(texts: Mapping[str, Iterable[str]]) -> WordLists:
        """From sample texts of each language; words that two languages share do not vote."""
        found = {language: {word for text in lines for word in _words(text)} for language, lines in texts.items()}
        others = {language: set().union(*(found[o] for o in found if o != language)) for language in found}
        return WordLists({language: frozenset(words - others[language]) for language, words in found.items()})

    def __call__(self, text: str) -> str:
        """The language with the most votes, or "unclear"."""
        votes = sorted(
            ((sum(word in listed for word in _words(text)), name) for name, listed in self.words.items()), reverse=True
        )
        return "unclear" if votes[0][0] == votes[1][0] else votes[0][1]


def language_and_answers(language_of: LanguageOf) -> tuple[Behaviour, ...]:
    """The behaviours of German + instruction following: in German at all; the right answer in English; in German.

    A row brings the right answers as `english` and `german`; answers are compared as lines, white space at the ends
    aside.
    """
    return (
        Behaviour("german", lambda text, row: language_of(text) == "german"),
        Behaviour("english answer", lambda text, row: text.strip() == row["english"].strip()),
        Behaviour("german answer", lambda text, row: text.strip() == row["german"].strip()),
    )


def continuations(
    model: IntervenedModel, prompts: Sequence[str], max_new_tokens: int = 24, batch_size: int = 128
) -> list[str]:
    """Greedy continuations to the end of the line."""
    line_end = _line_end(model.tokenizer)
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens} | (
        {} if line_end is None else {"eos_token_id": line_end}
    )
    texts = generate_texts(model, list(prompts), batch_size, **options)
    return [text.split("\n")[0] for text in texts]


def behaviour_rows(
    model: IntervenedModel, rows: Sequence[Row], behaviours: Sequence[Behaviour], max_new_tokens: int = 24
) -> pd.DataFrame:
    """One row a prompt: the columns of `continuation_rows`, and a column of bool for each behaviour."""
    return with_behaviours(continuation_rows(model, rows, max_new_tokens), rows, behaviours)


def continuation_rows(model: IntervenedModel, rows: Sequence[Row], max_new_tokens: int = 24) -> pd.DataFrame:
    """One row a prompt: `prompt`, `task`, `text` (the continuation), and `base_loss`.

    `base_loss` is the mean loss of the continuation under the unedited model, in nats a token: how unusual the text is.
    """
    prompts = [row["prompt"] for row in rows]
    texts = continuations(model, prompts, max_new_tokens)
    pairs = [(prompt, text + "\n") for prompt, text in zip(prompts, texts, strict=True)]
    losses = base_losses(model.base_model, model.tokenizer, pairs)
    tasks = [row.get("task", "") for row in rows]
    return pd.DataFrame({"prompt": prompts, "task": tasks, "text": texts, "base_loss": losses})


def with_behaviours(table: pd.DataFrame, rows: Sequence[Row], behaviours: Sequence[Behaviour]) -> pd.DataFrame:
    """A table with a `text` for each row of data, and beside it whether each behaviour holds."""
    texts = table["text"].tolist()
    found = {b.name: [b.holds(text, row) for text, row in zip(texts, rows, strict=True)] for b in behaviours}
    return table.assign(**found)


def base_losses(
    model: nn.Module, tokenizer: Any, pairs: Sequence[tuple[str, str]], batch_size: int = 128
) -> list[float]:
    """The mean loss (nats a token) of each continuation given its prompt under a plain model."""
    plain = IntervenedModel(model, InterventionGraph(), tokenizer)
    return completion_losses(plain, completions(pairs, tokenizer, end=False), batch_size)


def rates(rows: pd.DataFrame, by: Sequence[str], behaviours: Sequence[str], unit: str = "seed") -> pd.DataFrame:
    """Long table of rates: for each group of `by` and each behaviour the mean over units, `low`, `high`, `units`,
    `prompts`.

    The interval is a 95 % t-interval over the means of the units (adapter seeds), cut to [0, 1]; with one unit it is a
    Wilson interval over its prompts.
    """
    found = []
    for key, group in rows.groupby(list(by), sort=False):
        for behaviour in behaviours:
            means = group.groupby(unit)[behaviour].mean().to_numpy(dtype=float)
            low, high = _interval(means, group[behaviour].to_numpy(dtype=float))
            values = {"behaviour": behaviour, "rate": means.mean(), "rate_low": low, "rate_high": high}
            named = dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True))
            found.append({**named, **values, "units": len(means), "prompts": group["prompt"].nunique()})
    return pd.DataFrame(found)


def _interval(means: np.ndarray, single: np.ndarray) -> tuple[float, float]:
    if len(means) > 1:
        half = stats.t.ppf(0.975, len(means) - 1) * means.std(ddof=1) / np.sqrt(len(means))
        return max(0.0, float(means.mean() - half)), min(1.0, float(means.mean() + half))
    wilson = stats.binomtest(int(single.sum()), len(single)).proportion_ci(method="wilson")
    return float(wilson.low), float(wilson.high)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _line_end(tokenizer: Any) -> int | None:
    """The token that ends a line, where one token does."""
    ids = text_tokens(["a\n"], tokenizer)[0]
    return int(ids[-1]) if tokenizer.decode(ids[-1:]) == "\n" else None
