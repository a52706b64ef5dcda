"""One point for each row with its interval: a score against what it costs."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from causal_reft.errors import DataError
from causal_reft.plots.columns import interval_columns, require, require_numbers
from causal_reft.plots.style import DASHES, MARKERS, PALETTE, axis_labels, heading, label, legend, new_axes, tidy


def points_with_intervals(
    table: pd.DataFrame,
    x: str,
    y: str,
    name: str,
    low: str | None = None,
    high: str | None = None,
    log: bool = False,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """y against x, one marker for each row with a bar over its interval; the legend names the rows.

    Args:
        table: columns `x`, `y` and `name`, one row for each name; intervals in `<y>_low`, `<y>_high`.
        x, y, name, low, high: the names of those columns. With `x` the same as `name`, the names stand at equal
            steps of the axis, and there is no legend.
        log: whether the x axis is logarithmic.
        title: instead of "y by x".
        ax: Axes to draw on.

    Raises:
        DataError: missing columns, text where numbers belong, two rows of one name.
    """
    require(table, "points_with_intervals", x=x, y=y, name=name)
    ends = interval_columns(table, "points_with_intervals", y, low, high)
    require_numbers(table, "points_with_intervals", *([] if x == name else [x]), y, *(ends or []))
    if table[name].duplicated().any():
        twice = table.loc[table[name].duplicated(), name].iloc[0]
        raise DataError(f"points_with_intervals: {name} {twice!r} has several rows. Average them, or name them apart.")
    ax = new_axes(ax, 6.2, 3.4)
    tidy(ax, grid="y")
    for number, (shown, (_, row)) in enumerate(zip(map(str, table[name]), table.iterrows(), strict=True)):
        bars = None if ends is None else [[max(row[y] - row[ends[0]], 0)], [max(row[ends[1]] - row[y], 0)]]
        colour, marker = PALETTE[number % len(PALETTE)], MARKERS[number % len(MARKERS)]
        filled = colour if (number // len(PALETTE)) % len(DASHES) == 0 else "none"
        style = {"color": colour, "marker": marker, "markersize": 6, "elinewidth": 1.2, "capsize": 2.5}
        style |= {"linestyle": "none", "markerfacecolor": filled, "label": shown}
        ax.errorbar([shown if x == name else row[x]], [row[y]], bars, **style)
    if log:
        ax.set_xscale("log")
    note = "" if ends is None else "bars: interval"
    heading(ax, title or f"{label(y).split(' (')[0]} by {label(x).split(' (')[0]}", note)
    axis_labels(ax, label(x), label(y))
    if x == name:
        ax.margins(x=0.5 / len(table))
    else:
        legend(ax, len(table), label(name))
    return ax
