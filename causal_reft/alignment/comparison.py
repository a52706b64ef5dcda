"""A score beside its controls: the columns that say what stands beside a cell, and how far it is above the best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from causal_reft.alignment.columns import COMPARED
from causal_reft.alignment.metrics import Means
from causal_reft.alignment.statistics import percentile, separation
from causal_reft.alignment.variance import Factors, SeedVariance


@dataclass(frozen=True, eq=False)
class Controlled:
    """What stands beside one cell of the grid, as row scores: the controls, name -> "draw rows"; and the whole vector's
    ("rows"), which is none.
    """

    rivals: Mapping[str, np.ndarray]
    full_patch: np.ndarray | None

    def columns(self, scores: np.ndarray, means: Means, cause: Means) -> dict[str, float]:
        """What a row of a table of "seed rows" says of the controls."""
        score = float(means.value(scores).mean())
        found = {name: means.value(rows) for name, rows in self.rivals.items()}
        draws = found.get("random", np.array([np.nan]))
        named = {
            name: float(found[name].mean()) if name in found else float("nan")
            for name in ("no_edit", "pca", "permuted", "shuffled")
        }
        random = {
            "random_mean": float(draws.mean()),
            "random_best": float(draws.max()),
            "random_percentile": percentile(score, draws) if "random" in found else float("nan"),
        }
        whole = float("nan") if self.full_patch is None else float(means.value(self.full_patch))
        changed = float(cause.value(scores).mean())
        share = float("nan")
        if self.full_patch is not None and changed > 0:
            share = float(cause.value(self.full_patch)) / changed
        return named | random | {"full_patch": whole, "whole_share": share}

    @property
    def series(self) -> dict[str, np.ndarray]:
        """The controls and the whole vector: name -> "draw rows"."""
        return {**self.rivals, **({} if self.full_patch is None else {"full_patch": self.full_patch[None]})}


def compared(
    scores: np.ndarray,
    means: Means,
    cause: Means,
    controls: Controlled | None,
    clusters: Factors,
    seeds: SeedVariance | None = None,
) -> dict[str, Any]:
    """The columns of the controls and of the separation from the best of them; empty where there are none yet."""
    if controls is None:
        return dict.fromkeys(COMPARED, float("nan"))
    found = separation(scores, controls.rivals, clusters, seeds=seeds, means=means)
    return controls.columns(scores, means, cause) | {
        "best_control": found.best_control,
        "control": float(means.value(scores).mean()) - found.value,
        "separation": found.value,
        "separation_low": found.low,
        "separation_high": found.high,
        "p": found.p,
    }
