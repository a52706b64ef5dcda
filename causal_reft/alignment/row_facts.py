"""What belongs to the rows of a dataset beside their inputs: clusters, kinds, target runs, columns of the records."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from causal_reft.alignment.encoding import Encoding
from causal_reft.causal import CausalModel, CounterfactualDataset, Task, scored_rows, with_source_inputs
from causal_reft.causal.columns import as_column, row_keys
from causal_reft.causal.counterfactuals import PROMPT, TEXT
from causal_reft.execution import Examples
from causal_reft.execution.target_positions import TargetPositions


def clusters_of(data: CounterfactualDataset, unit: str = "pair") -> np.ndarray:
    """A number for each row, equal where the network sees the same base and sources (or the same base): "rows"."""
    frames = [data.base] if unit == "base" else list(data.runs.values())
    columns = [PROMPT] if PROMPT in data.base else list(data.inputs)
    return row_keys(as_column(frame[name]) for frame in frames for name in columns)


def factors_of(data: CounterfactualDataset, unit: str = "pair") -> dict[str, np.ndarray]:
    """The clusters of rows, and which rows have the same base, and the same source: name -> "rows", the unit first."""
    columns = [PROMPT] if PROMPT in data.base else list(data.inputs)
    runs = {run: row_keys(as_column(frame[name]) for name in columns) for run, frame in data.runs.items()}
    return {unit: clusters_of(data, unit)} | {run: codes for run, codes in runs.items() if run != unit}


def kinds_of(data: CounterfactualDataset, model: CausalModel | Task | None) -> tuple[np.ndarray, np.ndarray]:
    """The kind and the weight of each row (`causal.kinds`)."""
    return scored_rows(data, model.causal_model if isinstance(model, Task) else model)


def target_settings(model: CausalModel, data: CounterfactualDataset) -> tuple[pd.DataFrame, np.ndarray]:
    """For each row a setting that gives the expected answer with no interchange, and where one was found.

    It is the base with the inputs that the interchanged variables depend on taken from their sources; it counts where
    the causal model then gives every interchanged variable its source's value and the expected output.
    """
    frame = with_source_inputs(model, data)
    wanted = {name: data.sources[name][name] for name in data.variables} | {
        name: data.labels[name] for name in model.outputs if name in data.labels
    }
    valid = np.logical_and.reduce([(frame[name].to_numpy() == column.to_numpy()) for name, column in wanted.items()])
    base = model.run(data.base[list(model.inputs)])
    return frame.where(pd.Series(valid), base), valid


def target_examples(model: CausalModel | Task, data: CounterfactualDataset, encoding: Encoding) -> Examples | None:
    """The target runs of all rows (`info["valid"]`: which count); `None` where texts cannot be written or compared."""
    causal = model.causal_model if isinstance(model, Task) else model
    if any(isinstance(cell, np.ndarray) for cell in data.base.iloc[0]):
        return None
    frame, valid = target_settings(causal, data)
    if TEXT in data.labels:
        if not isinstance(model, Task):
            return None
        frame = model.write(frame)[0]
    found, expected = encoding.equivalent_run(data, frame), encoding.examples(data)
    if not torch.equal(TargetPositions.of(found).targets, TargetPositions.of(expected).targets):
        return None
    return replace(found, info={"valid": valid.tolist()})


def records_of(data: CounterfactualDataset, clusters: np.ndarray, task: Task | CausalModel | None) -> pd.DataFrame:
    """What the result's records say of each report row."""
    kinds, weights = kinds_of(data, task)
    columns: dict[str, Any] = {"row": range(len(data)), "cluster": clusters, "kind": kinds, "weight": weights}
    for run, frame in data.runs.items():
        if PROMPT in frame:
            columns[f"{run}_prompt"] = frame[PROMPT].tolist()
        else:
            settings = frame[list(data.inputs)]
            columns[f"{run}_setting"] = [
                str({k: _as_json(v) for k, v in row.items()}) for row in settings.to_dict("records")
            ]
    columns |= {f"expected_{name}": [_as_json(value) for value in data.labels[name]] for name in data.labels}
    columns |= {
        f"base_{name}": [_as_json(value) for value in data.base[name]]
        for name in data.labels
        if name in data.base and name != TEXT
    }
    return pd.DataFrame(columns)


def _as_json(value: Any) -> Any:
    """A value as JSON can hold it."""
    if isinstance(value, np.ndarray):
        return [round(float(x), 4) for x in value]
    return (
        value.item()
        if isinstance(value, np.generic)
        else value
        if isinstance(value, (str, int, float, bool))
        else str(value)
    )
