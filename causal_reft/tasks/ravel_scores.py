"""RAVEL's own Cause and Isolate (Huang et al. 2024, "RAVEL: Evaluating Interpretability Methods on Disentangling
Language Model Representations") of rows drawn from a `Ravel` task with one interchanged attribute.

    cause        base prompts that ask for the attribute: the answer becomes that of the source entity
    isolate      base prompts that ask for another attribute: the answer stays
    disentangle  the mean of the two

A row is scored where the base prompt, asked about the source entity, has another answer; elsewhere a leak would not be
seen. Rows are averaged by prompt, prompts by the attribute that they ask for, and attributes with equal weight
(`causal.kinds`). The target is the network's own answer (`with_own_answers`), not the data's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from causal_reft.causal import (
    CAUSE,
    ISOLATE,
    UNSCORED,
    CounterfactualDataset,
    Task,
    mean_of_kind,
    row_kinds,
    scored_rows,
)
from causal_reft.errors import DataError


@dataclass(frozen=True, eq=False, repr=False)
class RavelScores:
    """Cause, isolate and disentangle in [0, 1] (nan without such rows), and the table that they are means of.

    `prompts` has a row for each prompt: `kind`, `attribute` (that it asks for), `wording`, `rows`, `score`.
    """

    cause: float
    isolate: float
    prompts: pd.DataFrame

    @property
    def disentangle(self) -> float:
        """The mean of cause and isolate."""
        return (self.cause + self.isolate) / 2

    def __repr__(self) -> str:
        rows = self.prompts.groupby("kind")["rows"].sum()
        counts = ", ".join(f"{kind} over {rows.get(kind, 0)} rows" for kind in (CAUSE, ISOLATE))
        return (
            f"RAVEL: cause {self.cause:.3f}, isolate {self.isolate:.3f}, disentangle {self.disentangle:.3f} "
            f"({counts}; {len(self.prompts)} prompts)"
        )


def ravel_scores(task: Task, data: CounterfactualDataset, right: Sequence[bool] | np.ndarray) -> RavelScores:
    """The scores of one attribute's rows.

    Args:
        task: the `Ravel` task that the rows were drawn from.
        data: the rows, interchanging one attribute.
        right: for each row whether the intervened network gives the row's target.

    Raises:
        DataError: other data; not one value for each row.
    """
    _attribute(data)
    correct, (kinds, weights) = np.asarray(right), scored_rows(data, task.causal_model)
    if correct.shape != kinds.shape:
        raise DataError(f"right has the shape {correct.shape} for {len(kinds)} rows; give one value for each row.")
    rows = pd.DataFrame({"kind": kinds, "attribute": data.base["asked"], "wording": data.base["wording"]})
    rows = rows.assign(score=correct.astype(np.float64)).loc[kinds != UNSCORED]
    prompts = rows.groupby(["kind", "attribute", "wording"])["score"].agg(rows="size", score="mean").reset_index()
    cause, isolate = (mean_of_kind(correct.astype(float), kinds, weights, kind) for kind in (CAUSE, ISOLATE))
    return RavelScores(cause, isolate, prompts)


def with_own_answers(
    task: Task, data: CounterfactualDataset, answers: Callable[[pd.DataFrame], Sequence[str]]
) -> CounterfactualDataset:
    """The rows with the network's own answers as targets (the column `text` of the labels).

    A cause row takes the answer to the base prompt asked about the source entity, any other the answer to the base
    prompt.

    Args:
        task: the task that the rows were drawn from.
        data: the rows.
        answers: from a frame with the column `prompt` to the text with which the network continues each prompt.
    """
    attribute = _attribute(data)
    moved = row_kinds(data, task.causal_model) == CAUSE
    entity = np.where(moved, data.sources[attribute]["entity"], data.base["entity"])
    frame = task.write(pd.DataFrame({"entity": entity, "wording": data.base["wording"]}))[0]
    return replace(data, labels=data.labels.assign(text=list(answers(frame))))


def _attribute(data: CounterfactualDataset) -> str:
    needed = {"entity", "wording", "asked", "answer"}
    if len(data.variables) != 1 or not needed <= set(data.base) or data.variables[0] not in data.base:
        raise DataError(
            f"RAVEL's scores are of one attribute, but these rows interchange {list(data.variables)} and have the "
            f"columns {sorted(map(str, data.base))}. Draw them with load_ravel(...).task().counterfactuals('Country', "
            "...)."
        )
    return data.variables[0]
