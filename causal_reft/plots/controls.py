"""A score among the scores of random subspaces: the question is not how high it is, but how far it stands out."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from causal_reft.errors import DataError
from causal_reft.plots.columns import require, require_numbers
from causal_reft.plots.style import (
    HIGHLIGHT,
    LABEL,
    QUIET,
    Number,
    axis_labels,
    heading,
    label,
    new_axes,
    number,
    plain,
    tidy,
)


def random_controls(
    table: pd.DataFrame,
    score: Number,
    value: str = "iia",
    low: Number | None = None,
    high: Number | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A histogram of the controls' scores, with the score marked and the share of controls below it.

    Args:
        table: one row for each random subspace (same rank, same site), its score in `value`.
        score: of the subspace that is compared.
        value: the column of the scores.
        low, high: the score's interval, drawn as a band.
        title: instead of "0.97 lies above 100 of 100 random subspaces".
        ax: Axes to draw on.

    Raises:
        DataError: missing column, text where numbers belong, no finite control, a score or an interval that is none.
    """
    require(table, "random_controls", value=value)
    require_numbers(table, "random_controls", value)
    scores = table[value].to_numpy(dtype=float, na_value=np.nan)
    known = scores[np.isfinite(scores)]
    _check(known, score, low, high)
    below = int((known < score).sum())
    p = (1 + int((known >= score).sum())) / (1 + len(known))
    ax = new_axes(ax, 5.0, 2.9)
    tidy(ax, grid="y")
    reach = [known.min(), known.max(), score, *([] if low is None or high is None else [low, high])]
    ax.hist(known, bins=_bins(min(reach), max(reach)), color=QUIET, alpha=0.55, linewidth=0)
    if low is not None and high is not None:
        ax.axvspan(low, high, color=HIGHLIGHT, alpha=0.15, linewidth=0)
    ax.axvline(score, color=HIGHLIGHT, linewidth=1.8)
    _name_the_line(ax, score, min(reach), max(reach), 100 * below / len(known))
    left_out = f" · {len(scores) - len(known)} controls without a score left out" if len(known) < len(scores) else ""
    note = f"at least as high: p = {p:.2g}, (1 + {len(known) - below}) / (1 + {len(known)}){left_out}"
    heading(ax, title or f"{number(score)} lies above {below} of {len(known)} random subspaces", note)
    axis_labels(ax, label(value), "random subspaces")
    ax.margins(y=0.28)
    return ax


def _check(known: np.ndarray, score: Number, low: Number | None, high: Number | None) -> None:
    if not len(known):
        raise DataError("random_controls: no control has a finite score. Print the table before plotting it.")
    if not math.isfinite(score):
        raise DataError(f"random_controls(score={score}): the score to compare must be a finite number.")
    if (low is None) != (high is None) or (low is not None and high is not None and not low <= high):
        raise DataError(
            f"random_controls(low={low}, high={high}): give both ends of the interval in order, or neither."
        )


def _bins(low: Number, high: Number) -> list[float]:
    """Thirty equal steps over everything that is drawn."""
    if low == high:
        low, high = low - 0.05, high + 0.05
    return np.linspace(low, high, 31).tolist()


def _name_the_line(ax: Axes, score: Number, low: Number, high: Number, percentile: Number) -> None:
    """Beside the line, on the side with more room."""
    leftwards = score > (low + high) / 2
    text = f"this subspace {number(score)}\npercentile {percentile:.0f}"
    place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "va": "top"}
    side = {"xytext": (-5, 0), "ha": "right"} if leftwards else {"xytext": (5, 0), "ha": "left"}
    plain([ax.annotate(text, (score, 0.99), fontsize=LABEL, color=HIGHLIGHT, **place, **side)])
