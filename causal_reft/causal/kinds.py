"""What rows ask for: that the answer changes, or that it stays where a leak would change it (RAVEL; Huang et al. 2024).

    cause        the interchange changes the answer
    isolate      it does not, but the base with *all* of the source's entity would be answered differently
    unscored     neither: whatever leaks, the answer is the same

The source's entity is the inputs that the interchanged variables depend on. Rows of a kind count equally, or, by the
causal model's `averaged_by`, are averaged within its groups from the last column to the first: RAVEL's ("asked",
"wording") averages rows by prompt, and prompts by the attribute that they ask for.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from causal_reft.causal.counterfactuals import TEXT, CounterfactualDataset
from causal_reft.causal.model import CausalModel

CAUSE, ISOLATE, UNSCORED = "cause", "isolate", "unscored"


def with_source_inputs(model: CausalModel, data: CounterfactualDataset) -> pd.DataFrame:
    """Every variable of the base with the inputs that the interchanged variables depend on taken from their sources."""
    inputs = {name: data.base[name].copy() for name in model.inputs}
    for variable in data.variables:
        for name in _input_ancestors(model, variable):
            inputs[name] = data.sources[variable][name].copy()
    return model.run(pd.DataFrame(inputs))


def row_kinds(data: CounterfactualDataset, model: CausalModel | None) -> np.ndarray:
    """The kind of each row: "rows". Without a causal model no row is known to be of kind "isolate"."""
    base = _outputs(data.base, data.labels)
    changed = _differ(_outputs(data.labels, data.labels), base)
    seen = np.zeros(len(data), bool) if model is None else _differ(with_source_inputs(model, data), base)
    return np.where(changed, CAUSE, np.where(seen, ISOLATE, UNSCORED))


def row_weights(kinds: np.ndarray, groups: pd.DataFrame) -> np.ndarray:
    """The weight of each row in the mean over its kind, zero where unscored: "rows"; they sum to 1 in each kind."""
    table = groups.assign(**{"kind of row": kinds})
    keys = ["kind of row", *groups]
    weights = 1 / table.groupby(keys)[keys[0]].transform("size").to_numpy(float)
    for depth in range(1, len(keys)):
        weights /= table.groupby(keys[:depth])[keys[depth]].transform("nunique").to_numpy(float)
    return np.where(kinds == UNSCORED, 0.0, weights)


def scored_rows(data: CounterfactualDataset, model: CausalModel | None) -> tuple[np.ndarray, np.ndarray]:
    """The kind and the weight of each row."""
    kinds = row_kinds(data, model)
    return kinds, row_weights(kinds, data.base[list(model.averaged_by if model else ())])


def mean_of_kind(scores: np.ndarray, kinds: np.ndarray, weights: np.ndarray, kind: str) -> float:
    """The mean score of the rows of a kind; nan where there are none."""
    mine = kinds == kind
    return float(np.average(scores[mine], weights=weights[mine])) if mine.any() else float("nan")


def _input_ancestors(model: CausalModel, variable: str) -> list[str]:
    found, frontier = dict[str, None](), [variable]
    while frontier:
        name = frontier.pop()
        frontier.extend(parent for parent in model.parents[name] if parent not in found)
        found[name] = None
    return [name for name in found if name in model.inputs]


def _outputs(frame: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    return frame[[name for name in labels if name != TEXT and name in frame]]


def _differ(one: pd.DataFrame, two: pd.DataFrame) -> np.ndarray:
    shared = [name for name in two if name in one]
    return np.logical_or.reduce([one[name].to_numpy() != two[name].to_numpy() for name in shared])
