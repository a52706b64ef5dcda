"""How many times faster, beside how many times fewer operations: bars on a logarithmic axis that starts at 1."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from causal_reft.errors import DataError
from causal_reft.plots.columns import interval_columns, require, require_numbers
from causal_reft.plots.style import (
    HIGHLIGHT,
    INK,
    PALETTE,
    TICK,
    axis_labels,
    heading,
    new_axes,
    plain,
    tick_names,
    tidy,
)

BAR = 0.36


def ratio_bars(
    table: pd.DataFrame,
    name: str = "name",
    time: str = "time_ratio",
    flops: str = "flop_ratio",
    low: str | None = None,
    high: str | None = None,
    target: str | None = None,
    title: str = "Times less than the reference",
    ax: Axes | None = None,
) -> Axes:
    """For each case two bars, the ratio of times and that of FLOPs; right of 1 is faster than the reference.

    Args:
        table: one row for each case, drawn from the top: columns `name`, `time`, `flops` (nan where unknown), and the
            interval of the time ratio in `<time>_low`, `<time>_high`.
        name, time, flops, low, high: the names of those columns.
        target: a column with the time ratio that was aimed at (`target` where the table has it), marked by a line.
        title: of the figure.
        ax: Axes to draw on.

    Raises:
        DataError: missing columns, text where numbers belong, two rows of one name, ratios that are not positive.
    """
    require(table, "ratio_bars", name=name, time=time, flops=flops, **({"target": target} if target else {}))
    target = target or ("target" if "target" in table.columns else None)
    ends = interval_columns(table, "ratio_bars", time, low, high)
    columns = [time, flops, *(ends or []), *([target] if target else [])]
    require_numbers(table, "ratio_bars", *columns)
    _check(table, name, columns)
    rows = np.arange(len(table))
    ax = new_axes(ax, 6.4, 0.42 * len(table) + 1.3)
    tidy(ax, grid="x", spines=("left",))
    middle = table[time].to_numpy(float)
    bottom, top = (table[end].to_numpy(float) for end in ends) if ends else (middle, middle)
    _bars(ax, rows - BAR / 2, table[time], "time", PALETTE[0], bottom, top)
    _bars(ax, rows + BAR / 2, table[flops], "FLOPs", "#9fc8e0", *2 * (table[flops].to_numpy(float),))
    if ends:
        reach = np.abs(np.stack([middle - bottom, top - middle]))
        ax.errorbar(middle, rows - BAR / 2, xerr=reach, fmt="none", ecolor=INK, elinewidth=0.8, capsize=2)
    if target:
        ax.vlines(table[target], rows - BAR, rows, color=HIGHLIGHT, linewidth=2, label="aim (time)", zorder=4)
    _finish(ax, table, name, columns)
    heading(ax, title, "thin lines: interval over repeats" if ends else "")
    axis_labels(ax, "times less than the reference (log scale)", "")
    return ax


def _bars(
    ax: Axes, places: np.ndarray, ratios: pd.Series, name: str, colour: str, low: np.ndarray, high: np.ndarray
) -> None:
    """Bars from 1, and beyond their interval their number."""
    ax.barh(places, ratios - 1, left=1, height=BAR, color=colour, label=name, linewidth=0)
    for place, ratio, bottom, top in zip(places, ratios.to_numpy(float), low, high, strict=True):
        text = "unknown" if np.isnan(ratio) else f"×{ratio:.3g}"
        side = {"ha": "left", "xytext": (3, 0)} if not ratio < 1 else {"ha": "right", "xytext": (-3, 0)}
        at = 1.0 if np.isnan(ratio) else np.nanmin([ratio, bottom]) if ratio < 1 else np.nanmax([ratio, top])
        style = {"textcoords": "offset points", "va": "center", "fontsize": TICK - 1, "color": INK, **side}
        plain([ax.annotate(text, (at, place), **style)])


def _finish(ax: Axes, table: pd.DataFrame, name: str, columns: list[str]) -> None:
    """Logarithmic axis around 1 with room for the numbers, names from the top, one legend."""
    known = table[columns].to_numpy(float)
    known = known[np.isfinite(known)]
    ax.set_xscale("log")
    low, high = min(1.0, known.min(initial=1.0)), max(1.0, known.max(initial=1.0))
    span = max(np.log10(high / low), 0.3)
    ax.set_xlim(low / 10 ** (0.14 * span * (low < 1) + 0.01 * span), high * 10 ** (0.14 * span))
    ax.axvline(1, color=INK, linewidth=0.8)
    ax.set_ylim(len(table) - 0.4, -0.6)
    tick_names(ax, "y", [str(entry) for entry in table[name]])
    ax.xaxis.set_major_formatter(lambda ratio, _: f"×{ratio:g}")
    ax.tick_params(which="minor", length=0)
    handles, names = ax.get_legend_handles_labels()
    order = sorted(range(len(names)), key=lambda i: ["time", "FLOPs", "aim (time)"].index(names[i]))
    beside = {"fontsize": TICK, "frameon": False, "loc": "upper left", "bbox_to_anchor": (1, 1)}
    ax.legend([handles[i] for i in order], [names[i] for i in order], **beside)


def _check(table: pd.DataFrame, name: str, columns: list[str]) -> None:
    twice = table[name][table[name].duplicated()]
    if len(twice):
        raise DataError(
            f"ratio_bars: {len(twice) + 1} rows or more are named {twice.iloc[0]!r}; a bar is one row. "
            f"Write table.groupby({name!r}, as_index=False).median(numeric_only=True)."
        )
    for column in columns:
        wrong = table[column][~(table[column] > 0) & table[column].notna()]
        if len(wrong):
            raise DataError(f"ratio_bars: {column!r} holds {wrong.iloc[0]:g}; a ratio of times or FLOPs is positive.")
