"""Rows of one attribute of RAVEL's cities, to train on and to score: prompts that are answered about both cities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

import causal_reft as cr
from causal_reft.alignment import TextEncoding
from causal_reft.causal import CAUSE, UNSCORED, row_kinds
from causal_reft.errors import DataError
from causal_reft.experiments.alignments.study import Effort, right_answers
from causal_reft.tasks import load_ravel
from causal_reft.tasks.ravel import Ravel

DRAWN = 20


@dataclass(frozen=True, eq=False)
class Setting:
    """A model and the rows of both parts; `known` is the share of prompts that it answers, by part and attribute."""

    model: Any
    tokenizer: Any
    task: cr.Task
    attribute: str
    train: cr.CounterfactualDataset
    test: cr.CounterfactualDataset
    known: pd.DataFrame
    effort: Effort

    @property
    def width(self) -> int:
        """Of the model's states."""
        return self.model.config.hidden_size

    @property
    def source(self) -> str:
        """The name of the source run."""
        return self.train.run_of(self.attribute)

    def examples(self, data: cr.CounterfactualDataset) -> cr.Examples:
        """As the model reads them."""
        return TextEncoding(self.tokenizer).examples(data)


def city_setting(
    model: nn.Module,
    tokenizer: Any,
    effort: Effort,
    data: Path,
    attribute: str,
    beside: Sequence[str],
    entities: int,
    wordings: int = 4,
) -> Setting:
    """Rows for training and scoring, from some cities and some prompts of each of RAVEL's splits.

    Raises:
        DataError: fewer than 8 rows that the model answers are left in a part.
    """
    ravel, names = load_ravel(data), (attribute, *beside)
    task, parts, known = ravel.task(names), [], []
    for number, part in enumerate(("train", "test")):
        asked = task.write(_drawn_settings(ravel, names, part, entities, wordings, number))[0]
        asked = asked.assign(right=right_answers(model, tokenizer, asked))
        parts.append(_rows(task, asked[asked["right"]], attribute, effort.rows * (1 + number), number))
        shares = asked.groupby("asked", sort=False)["right"].agg(prompts="size", answered="sum", share="mean")
        known.append(shares.rename_axis("attribute").reset_index().assign(part=part, rows=len(parts[-1])))
    train, test = parts
    return Setting(model, tokenizer, task, attribute, train, test, pd.concat(known, ignore_index=True), effort)


def _drawn_settings(
    ravel: Ravel, names: Sequence[str], part: str, entities: int, wordings: int, seed: int
) -> pd.DataFrame:
    """All pairs of some cities and some prompts of each attribute."""
    draw, prompts = np.random.default_rng(seed), ravel.prompts[ravel.prompts["split"] == part]
    every = [ravel.entities.index[ravel.entities["split"] == part]]
    every += [prompts.index[prompts["attribute"] == name] for name in names]
    most = [entities, *(wordings for _ in names)]
    cities, *texts = (draw.permutation(some)[:count].tolist() for some, count in zip(every, most, strict=True))
    return pd.DataFrame(product(cities, chain(*texts)), columns=["entity", "wording"])


def _rows(task: cr.Task, answered: pd.DataFrame, attribute: str, n: int, seed: int) -> cr.CounterfactualDataset:
    """Scored rows whose base prompt the model answers about both cities; half must change, as far as there are such."""
    among = answered[["entity", "wording"]].reset_index(drop=True)
    if among.empty:
        raise DataError("The model answers none of these prompts. Give it more cities: --entities, or another model.")
    drawn = replace(task, among=among).counterfactuals(attribute, DRAWN * n, seed, "uniform")
    pairs = set(zip(among["entity"], among["wording"], strict=True))
    about_source = zip(drawn.sources[attribute]["entity"], drawn.base["wording"], strict=True)
    kinds = row_kinds(drawn, task.causal_model)
    kept = np.array([pair in pairs for pair in about_source]) & (kinds != UNSCORED)
    if kept.sum() < 8:
        raise DataError(
            f"Only {kept.sum()} rows are left in which the model answers the prompt about both cities. Give it more "
            "cities: --entities, or another model."
        )
    changed, same = np.flatnonzero(kept & (kinds == CAUSE)), np.flatnonzero(kept & (kinds != CAUSE))
    changed = changed[: max(n // 2, n - len(same))]
    return drawn[np.sort(np.concatenate([changed, same[: n - len(changed)]]))]
