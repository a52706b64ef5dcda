"""Lines with their uncertainty: one line a group, a band for the interval, gaps where nothing was measured."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, islice

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, NullLocator

from causal_reft.errors import DataError
from causal_reft.plots.columns import Cells, Levels, cells, levels, require, require_numbers
from causal_reft.plots.style import (
    DASHES,
    INK,
    LABEL,
    MARKERS,
    PALETTE,
    QUIET,
    TICK,
    TITLE,
    Number,
    axis_labels,
    heading,
    label,
    legend,
    new_axes,
    plain,
    shown,
    tick_names,
    tidy,
)


def curves_with_intervals(
    table: pd.DataFrame,
    x: str,
    y: str,
    group: str | None = None,
    low: str | None = None,
    high: str | None = None,
    log: str = "",
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """y against x, one line for each group, with a band from `<y>_low` to `<y>_high`.

    Several rows on one point (seeds) become their mean, the band their range, and the figure says so.

    Args:
        table: columns `x`, `y`, and `group` where there are several lines; intervals in `<y>_low`, `<y>_high`.
        x, y, group, low, high: the names of those columns. An x of text or categories is drawn at equal steps.
        log: "x", "y" or "xy" for logarithmic axes.
        title: instead of "y by x".
        ax: Axes to draw on.

    Raises:
        DataError: missing columns, text where numbers belong, intervals for points of several rows.
    """
    made, across, lines = _points(table, "curves_with_intervals", x, y, group, low, high)
    ax = new_axes(ax, 5.2, 3.2)
    tidy(ax, grid="y")
    draw_lines(ax, made, across, lines)
    if "x" in log:
        _measured_ticks(ax, across)
    if "y" in log:
        ax.set_yscale("log")
    heading(ax, title or f"{label(y).split(' (')[0]} by {label(x).split(' (')[0]}", _band_note(made))
    axis_labels(ax, label(x), label(y))
    legend(ax, len(lines.names) if group else 0, label(group) if group else None)
    return ax


def iia_against_rank(
    table: pd.DataFrame,
    value: str = "iia",
    rank: str = "rank",
    group: str | None = None,
    low: str | None = None,
    high: str | None = None,
    control: str | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """How much of the score needs how many dimensions: a line with its interval above the grey band of the controls.

    Args:
        table: columns `rank` and `value`; intervals in `<value>_low`, `<value>_high`; the controls' score at each rank
            in `control`, with `control_low`, `control_high` for a band.
        value, rank, group, low, high: the names of those columns.
        control: the column of the controls (`control` where the table has it). With several groups its band spans them.
        title: of the figure.
        ax: Axes to draw on.

    Raises:
        DataError: as `curves_with_intervals`.
    """
    made, across, lines = _points(table, "iia_against_rank", rank, value, group, low, high)
    require_numbers(table, "iia_against_rank", rank)
    control = control or ("control" if "control" in table.columns else None)
    ax = new_axes(ax, 5.0, 3.2)
    tidy(ax, grid="y")
    if control:
        require(table, "iia_against_rank", control=control)
        _control_band(ax, table, across, control)
    names = lines if group else Levels((label(value).split(" (")[0],), (None,), lines.codes)
    draw_lines(ax, made, across, names)
    _measured_ticks(ax, across)
    heading(ax, title or f"{label(value).split(' (')[0]} against rank", _band_note(made))
    axis_labels(ax, label("rank"), label(value))
    legend(ax, len(names.names) + bool(control))
    return ax


def panel_grid(
    table: pd.DataFrame,
    panel: str = "n",
    x: str = "layer",
    y: str = "recovery",
    line: str = "text",
    low: str | None = None,
    high: str | None = None,
    columns: int = 4,
    limits: tuple[Number, Number] | None = (0.0, 1.0),
    title: str | None = None,
) -> np.ndarray:
    """One panel for each value of `panel`, in it `y` against `x`, one line for each value of `line`; axes shared.

    The figure of memorisation: a panel for each length of the text, recovery by layer, a line for each kind of text.

    Args:
        table: columns `panel`, `x`, `y`, `line`; intervals in `<y>_low`, `<y>_high`.
        panel, x, y, line, low, high: the names of those columns.
        columns: panels side by side at most.
        limits: of y in every panel; `None` leaves them to the data.
        title: of the whole figure.

    Returns:
        The Axes of the panels, in order, as a flat array; `axes[0].figure` is the figure.

    Raises:
        DataError: as `curves_with_intervals`.
    """
    require(table, "panel_grid", panel=panel, line=line)
    _, across, lines = _points(table, "panel_grid", x, y, line, low, high, panel)
    panels = levels(table[panel])
    keys = {"panel": panels, "x": across, "line": lines}
    made = cells(table, "panel_grid", keys, y, low, high)
    axes = _panels(len(panels.names), columns)
    for number, (ax, name) in enumerate(zip(axes, panels.names, strict=True)):
        tidy(ax, grid="y")
        inside = made.table[made.table["panel"] == number]
        draw_lines(ax, Cells(inside, made.note), across, lines)
        plain([ax.set_title(f"{panel} = {name}", loc="left", fontsize=TITLE - 1, color=INK)])
        if limits:
            pad = 0.04 * (limits[1] - limits[0])
            ax.set_ylim(limits[0] - pad, limits[1] + pad)
    _around(axes, title or f"{label(y)} by {label(x)}", made, label(x), label(y), lines, label(line))
    return axes


def draw_lines(ax: Axes, made: Cells, across: Levels, lines: Levels) -> None:
    """One line with markers and one band for each level; gaps where a value is missing."""
    numeric = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in across.values)
    places = np.array(across.values, dtype=float) if numeric else np.arange(len(across.values), dtype=float)
    looks = list(islice(_looks(), len(lines.names)))
    for number, name in enumerate(lines.names):
        of = made.table[made.table["line"] == number].sort_values("x")
        ends = of[["value", "low", "high"]].to_numpy(float)
        values, low, high = np.where(np.isfinite(ends), ends, np.nan).T
        at, (colour, dash, marker) = places[of["x"]], looks[number]
        style = {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1.4, "markeredgewidth": 0}
        ax.fill_between(at, low, high, color=colour, alpha=0.18, linewidth=0)
        ax.plot(at, values, dash, label=shown(name), **style)
    if not numeric:
        tick_names(ax, "x", across.names, rotation=35 if sum(map(len, across.names)) > 45 else 0)
    elif len(places) <= 12 and all(float(place).is_integer() for place in places):
        ax.set_xticks(places, list(across.names))


def _looks() -> Iterator[tuple[str, str, str]]:
    """Colours first, then other dashes; markers run along, so that no two of the first 28 look alike."""
    for j, dash in enumerate(cycle(DASHES)):
        yield from ((colour, dash, MARKERS[(i + j) % len(MARKERS)]) for i, colour in enumerate(PALETTE))


def _points(
    table: pd.DataFrame,
    function: str,
    x: str,
    y: str,
    group: str | None,
    low: str | None,
    high: str | None,
    panel: str | None = None,
) -> tuple[Cells, Levels, Levels]:
    """The cells of one set of Axes, with the levels of x and of the lines."""
    require(table, function, x=x, y=y, **({"group": group} if group else {}))
    if table[x].isna().any():
        raise DataError(
            f"{function}: column {x!r} has missing values, which have no place on the axis. "
            f"Write table.dropna(subset=[{x!r}])."
        )
    across = levels(table[x])
    lines = levels(table[group]) if group else Levels(("",), (None,), np.zeros(len(table), dtype=int))
    keys = {"x": across, "line": lines} | ({"panel": levels(table[panel])} if panel else {})
    return cells(table, function, keys, y, low, high), across, lines


def _band_note(made: Cells) -> str:
    return made.note.replace("intervals in brackets", "band: interval").replace("[range]", "range (band)")


def _control_band(ax: Axes, table: pd.DataFrame, across: Levels, control: str) -> None:
    """The controls at each rank: their highest score as a line, and a band over the groups and the intervals."""
    ends = [end if end in table.columns else control for end in (f"{control}_low", f"{control}_high")]
    require_numbers(table, "iia_against_rank", control, *ends)
    places = np.array(across.values, dtype=float)
    low, high = table[ends[0]].groupby(across.codes).min(), table[ends[1]].groupby(across.codes).max()
    ax.fill_between(places, low, high, color=QUIET, alpha=0.2, linewidth=0)
    best = table[control].groupby(across.codes).max()
    ax.plot(places, best, color=QUIET, linewidth=1, linestyle="--", label="best control")


def _measured_ticks(ax: Axes, across: Levels) -> None:
    """A logarithmic x; where few values were measured, they are the ticks."""
    ax.set_xscale("log", base=2)
    if len(across.values) <= 12:
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_xticks(np.array(across.values, dtype=float), list(across.names))


def _panels(count: int, columns: int) -> np.ndarray:
    import matplotlib.pyplot as plt

    down = -(-count // columns)
    across = -(-count // down)
    size = (max(4.0, 2.1 * across + 0.6), 1.75 * down + 1.0)
    axes = plt.subplots(down, across, figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained")[1]
    for unused in axes.flat[count:]:
        unused.set_visible(False)
    for above in axes.flat[:count][[i + across >= count for i in range(count)]]:
        above.tick_params(labelbottom=True)
    return axes.flat[:count]


def _around(axes: np.ndarray, title: str, made: Cells, x: str, y: str, lines: Levels, legend_title: str) -> None:
    """What the panels have in common: title, axis names, one legend on the right."""
    figure = axes[0].figure
    note = _band_note(made)
    texts = [
        figure.suptitle(title, x=0.01, ha="left", fontsize=TITLE, fontweight="semibold", color=INK),
        figure.supxlabel(f"{x}\n{note}" if note else x, fontsize=LABEL, color=INK),
        figure.supylabel(y, fontsize=LABEL, color=INK),
    ]
    handles = axes[0].get_legend_handles_labels()
    style = {"frameon": False, "fontsize": TICK, "title": legend_title, "title_fontsize": TICK}
    box = figure.legend(*handles, loc="outside right center", **style)
    plain([*texts, *box.get_texts(), box.get_title()])
