"""Keep the examples that the model gets right without any intervention, and say what was dropped.

An interchange on a prompt that the model answers wrongly measures nothing. The caller runs the model and passes its
answers, or a function that gives them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from causal_reft.causal.counterfactuals import TEXT, CounterfactualDataset
from causal_reft.errors import CausalModelError, nearest

Verdict = Sequence[Any] | np.ndarray | pd.Series


@dataclass(frozen=True, eq=False, repr=False)
class Solved:
    """`data`: the rows solved in every run. `report`: per run and answer, how many rows there were and were solved."""

    data: CounterfactualDataset
    dropped: int
    report: pd.DataFrame

    def __repr__(self) -> str:
        total = len(self.data) + self.dropped
        return (
            f"Kept {len(self.data)} of {total} rows that are right in every run; dropped {self.dropped}.\n"
            f"{self.report.to_string(index=False)}"
        )


def keep_solved(
    data: CounterfactualDataset, answers: Callable[[pd.DataFrame], Verdict] | Mapping[str, Verdict]
) -> Solved:
    """Keep rows whose base and sources are all answered rightly.

    `answers`: a function of a run's frame (with its `prompt` and `text` columns), called once per run, or a mapping
    from run name to its result. A result is one bool per row, or one predicted answer per row, compared with `text`.
    """
    given = {run: answers(frame) for run, frame in data.runs.items()} if callable(answers) else dict(answers)
    missing = [run for run in data.runs if run not in given]
    if missing or len(given) > len(data.runs):
        odd = missing[0] if missing else next(run for run in given if run not in data.runs)
        raise CausalModelError(f"keep_solved needs the answers of each run; see {odd!r}. {nearest(odd, data.runs)}")
    right = {run: _is_right(run, frame, given[run]) for run, frame in data.runs.items()}
    kept = np.logical_and.reduce(list(right.values()))
    report = pd.concat([_tally(run, frame, right[run]) for run, frame in data.runs.items()], ignore_index=True)
    return Solved(data[np.flatnonzero(kept)], int((~kept).sum()), report)


def _is_right(run: str, frame: pd.DataFrame, verdict: Verdict) -> np.ndarray:
    values = np.asarray(verdict)
    if values.shape != (len(frame),):
        raise CausalModelError(f"Run {run!r} has {len(frame)} rows, its answers the shape {values.shape}.")
    if values.dtype == bool:
        return values
    if TEXT not in frame:
        raise CausalModelError(f"Run {run!r} has no answer texts to compare with; give one bool per row.")
    if values.dtype.kind not in "UO" or not all(isinstance(value, str) for value in values):
        raise CausalModelError(f"The answers of run {run!r} are {values.dtype}; give bools or answer texts.")
    return values.astype(object) == frame[TEXT].to_numpy(dtype=object)


def _tally(run: str, frame: pd.DataFrame, right: np.ndarray) -> pd.DataFrame:
    answers = frame[TEXT] if TEXT in frame else pd.Series(["(any)"] * len(frame))
    table = pd.DataFrame({"answer": answers.to_numpy(), "right": right}).groupby("answer", sort=True)["right"]
    counts = table.agg(rows="size", solved="sum").reset_index()
    counts.insert(0, "run", run)
    return counts.assign(share=(counts["solved"] / counts["rows"]).round(4))
