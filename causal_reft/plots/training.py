"""What happened in a training run: the loss, the validation loss, and the score on an axis of its own."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from causal_reft.errors import DataError
from causal_reft.plots.columns import require, require_numbers
from causal_reft.plots.style import LABEL, PALETTE, TICK, axis_labels, heading, label, new_axes, number, tidy

SMOOTHED_FROM = 100  # steps: below, every point can be seen


def training_curve(
    table: pd.DataFrame,
    loss: str = "loss",
    step: str = "step",
    validation_loss: str = "validation_loss",
    iia: str = "iia",
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Loss by step; validation loss as a dashed line and IIA on a right-hand axis from 0 to 1, where there are such.

    Long runs are drawn pale with their running mean on top. The loss axis is logarithmic where the loss falls by more
    than two decades. Steps without a finite loss are gaps, and the figure says from where.

    Args:
        table: columns `step` and `loss`; `validation_loss` and `iia` (nan between evaluations) where there are such.
        loss, step, validation_loss, iia: the names of those columns.
        title: instead of "Training: loss 0.69 to 0.02 in 240 steps".
        ax: Axes to draw on.

    Raises:
        DataError: missing columns, text where numbers belong, no finite loss at all.
    """
    if not len(table):
        raise DataError(
            "training_curve: the table has no steps: nothing has been trained. Call fit(..., epochs=1) or more."
        )
    require(table, "training_curve", step=step, loss=loss)
    held = [column for column in (validation_loss, iia) if column in table.columns]
    require_numbers(table, "training_curve", step, loss, *held)
    finite = table[np.isfinite(table[loss])]
    if not len(finite):
        raise DataError(
            f"training_curve: none of {len(table)} losses is finite. Lower the learning rate: fit(..., lr=...)."
        )
    ax = new_axes(ax, 5.2, 3.0)
    tidy(ax, grid="y")
    drawn = _losses(ax, table, step, loss)
    if validation_loss in held:
        known = table[np.isfinite(table[validation_loss])]
        style = {"color": PALETTE[1], "marker": "o", "markersize": 3.5, "linewidth": 1.2, "markeredgewidth": 0}
        ax.plot(known[step], known[validation_loss], "--", label="validation loss", **style)
        drawn += 1
    if _spans_decades(finite[loss]):
        ax.set_yscale("log")
    first, last = (number(float(finite[loss].iloc[i])) for i in (0, -1))
    heading(ax, title or f"Training: loss {first} to {last} in {len(table):,} steps", _diverged(table, loss, step))
    axis_labels(ax, label(step), label("loss"))
    if drawn > 1:
        ax.legend(fontsize=TICK, frameon=False, ncols=drawn, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    if iia in held:
        _score_axis(ax, table, step, iia)
    return ax


def _losses(ax: Axes, table: pd.DataFrame, step: str, loss: str) -> int:
    """The loss, and its running mean where the run is long; returns how many lines."""
    values = table[loss].where(np.isfinite(table[loss]))
    window = len(table) // 25
    smooth = len(table) >= SMOOTHED_FROM
    marker = "o" if len(table) <= 30 else None
    alpha, width = (0.3, 0.8) if smooth else (1.0, 1.4)
    style = {"color": PALETTE[0], "marker": marker, "markersize": 3, "alpha": alpha, "linewidth": width}
    ax.plot(table[step], values, label="loss", **style)
    if smooth:
        mean = values.rolling(window, min_periods=1, center=True).mean().where(values.notna())
        ax.plot(table[step], mean, color=PALETTE[0], linewidth=1.6, label=f"loss (mean of {window} steps)")
    return 1 + smooth


def _score_axis(ax: Axes, table: pd.DataFrame, step: str, iia: str) -> None:
    known = table[np.isfinite(table[iia])]
    right = ax.twinx()
    tidy(right, spines=("right",))
    style = {"color": PALETTE[2], "marker": "s", "markersize": 3.5, "linewidth": 1.2, "markeredgewidth": 0}
    right.plot(known[step], known[iia], label=iia, **style)
    right.set_ylim(-0.03, 1.03)
    right.set_ylabel(label(iia), fontsize=LABEL, color=PALETTE[2])
    right.tick_params(labelcolor=PALETTE[2])


def _spans_decades(losses: pd.Series) -> bool:
    return bool(losses.min() > 0 and losses.max() > 100 * losses.min())


def _diverged(table: pd.DataFrame, loss: str, step: str) -> str:
    bad = table[~np.isfinite(table[loss])]
    if not len(bad):
        return ""
    return f"not finite (gaps): {len(bad)} of {len(table)} losses, the first at step {bad[step].iloc[0]:g}"
