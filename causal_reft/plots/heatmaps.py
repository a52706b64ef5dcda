"""Heat maps that show beside each number its interval and its control, and mark what does not separate."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from causal_reft.errors import DataError
from causal_reft.plots.columns import Cells, Levels, cells, levels, require, require_numbers
from causal_reft.plots.grids import Grid, draw_grid, hatch, limits_of, mark, natural_size, spread
from causal_reft.plots.style import SEQUENTIAL, Number, axis_labels, colour_bar, heading, label, new_axes, number


def site_heatmap(
    table: pd.DataFrame,
    value: str = "iia",
    x: str = "positions",
    y: str = "layer",
    low: str | None = None,
    high: str | None = None,
    control: str | None = None,
    limits: tuple[Number, Number] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A score by layer (upwards) and position, each cell with its interval and its control; the best cell is framed.

    Several rows on one cell (seeds) are averaged, and the figure says so. Sites of one layer (components, heads) have a
    row each, with their name. A column `separated` (bool) says which cells are not hatched, and a column `chosen` which
    cell is framed, instead of what the figure would find by itself.

    Args:
        table: columns `value`, `x`, `y`; intervals in `<value>_low`, `<value>_high` (or `low`, `high`).
        value: the column of the score.
        x, y: the columns of the two axes; categories keep their order, numbers ascend.
        low, high: the columns of the interval.
        control: the column of the best control's score of the same kind as `value` (`control` where the table has it,
            for its `metric`, by default "iia"); cells whose interval does not lie above it are hatched. A `separation`
            is compared with zero.
        limits: of the colours; 0 to 1 for shares.
        title: instead of "IIA: best 0.98 at layer 3, gender".
        ax: Axes to draw on.

    Raises:
        DataError: missing columns, text where numbers belong, intervals for cells of several rows.
    """
    require(table, "site_heatmap", value=value, x=x, y=y)
    control = _control_column(table, value, control)
    y, keys = places(table, x, y)
    up, across = keys.values()
    made = cells(table, "site_heatmap", keys, value, low, high)
    beside = _controls(table, keys, control, (len(up.names), len(across.names)))
    grid = _grid(made, up.names, across.names, beside)
    ax = new_axes(ax, *natural_size(grid))
    image, has_small = draw_grid(ax, grid, limits_of(grid.values, limits))
    least = np.zeros(grid.values.shape) if value == "separation" else beside
    marks = _hatch(ax, made, _flags(table, keys, "separated", grid), least, value)
    best = _mark_best(ax, grid, x, y, _flags(table, keys, "chosen", grid))
    controls = "ctrl: best control" if control and has_small else ""
    heading(ax, title or f"{subject(table, value)}{best}", _joined(_note(made, has_small), controls, marks))
    axis_labels(ax, label(x), label(y))
    colour_bar(ax, image, label(value))
    return ax


def behaviour_table(
    table: pd.DataFrame,
    subset: str = "subset",
    behaviour: str = "behaviour",
    value: str = "value",
    low: str | None = None,
    high: str | None = None,
    limits: tuple[Number, Number] | None = None,
    title: str = "What each combination of edits does",
    ax: Axes | None = None,
) -> Axes:
    """Subsets of edits (downwards) against measured behaviours (across), with intervals.

    Args:
        table: columns `subset` (a name: "none", "german", "german + instruct"), `behaviour`, `value`, and intervals.
        subset, behaviour, value, low, high: the names of those columns.
        limits: of the colours; 0 to 1 for shares.
        title: of the figure.
        ax: Axes to draw on.

    Raises:
        DataError: as `site_heatmap`.
    """
    require(table, "behaviour_table", subset=subset, behaviour=behaviour, value=value)
    down, across = levels(table[subset]), levels(table[behaviour])
    made = cells(table, "behaviour_table", {"row": down, "column": across}, value, low, high)
    grid = _grid(made, down.names, across.names, None)
    ax = new_axes(ax, *natural_size(grid))
    image, has_small = draw_grid(ax, grid, limits_of(grid.values, limits))
    heading(ax, title, _note(made, has_small))
    axis_labels(ax, "", "")
    colour_bar(ax, image, "share of prompts" if value == "value" else label(value))
    return ax


def angle_matrix(
    table: pd.DataFrame,
    one: str = "one",
    two: str = "two",
    angle: str = "angle",
    random: Number | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Principal angles between subspaces (of seeds, layers, methods): 0 degrees is the same subspace, 90 is orthogonal.

    Several angles of one pair are averaged and their range is shown; a pair given once stands on both sides.

    Args:
        table: columns `one`, `two` (names of the subspaces) and `angle` in degrees, one row for each principal angle.
        one, two, angle: the names of those columns.
        random: the mean angle between random subspaces of the same rank and width, marked on the colour bar.
        title: instead of the range of the mean angles.
        ax: Axes to draw on.

    Raises:
        DataError: missing columns, angles outside 0 to 90 degrees.
    """
    require(table, "angle_matrix", one=one, two=two, angle=angle)
    require_numbers(table, "angle_matrix", angle)
    _check_degrees(table, angle)
    both = _mirrored(table, one, two, angle)
    down = levels(both["one"])
    one_family = set(both["one"]) == set(both["two"])
    across = levels(pd.Series(pd.Categorical(both["two"], list(down.values)))) if one_family else levels(both["two"])
    made = cells(both, "angle_matrix", {"row": down, "column": across}, "angle")
    grid = _grid(made, down.names, across.names, None)
    ax = new_axes(ax, *natural_size(grid))
    image, has_small = draw_grid(ax, grid, (0.0, 90.0), f"{SEQUENTIAL}_r")
    bar = colour_bar(ax, image, label("angle"))
    if random is not None:
        bar.axhline(random, color="black", linewidth=1.5)
    known = made.table["value"].dropna()
    reach = f"{number(known.min())}° to {number(known.max())}°" if len(known) else "unknown size"
    line = "" if random is None else f"black line: random subspaces, {number(random)}°"
    note = _note(made, has_small).replace("rows", "angles")
    heading(ax, title or f"Mean principal angles of {reach}", _joined(note, line))
    axis_labels(ax, "", "")
    return ax


def _grid(made: Cells, rows: tuple[str, ...], columns: tuple[str, ...], control: np.ndarray | None) -> Grid:
    """The arrays of the cells with their texts."""
    shape = (len(rows), len(columns))
    values, low, high = (spread(made, name, *shape) for name in ("value", "low", "high"))
    small = np.full(shape, "", dtype=object)
    beside = np.full(shape, np.nan) if control is None else control
    for i, (bottom, top, other) in enumerate(zip(low.flat, high.flat, beside.flat, strict=True)):
        interval = "" if np.isnan(bottom) else f"[{number(bottom)}, {number(top)}]"
        small.flat[i] = "\n".join(filter(None, [interval, "" if np.isnan(other) else f"ctrl {number(other)}"]))
    numbers = np.array([number(v) for v in values.flat], dtype=object).reshape(shape)
    return Grid(values, numbers, small, rows, columns)


def _note(made: Cells, has_small: bool) -> str:
    """What the small lines are, or that there was no room for them."""
    if has_small or not made.has_intervals:
        return made.note
    return f"{made.note.replace(' in brackets', '').replace('[range]', 'range')} (not shown: too many cells)"


def _joined(*notes: str) -> str:
    return " · ".join(filter(None, notes))


def places(table: pd.DataFrame, x: str, y: str) -> tuple[str, dict[str, Levels]]:
    """The column that the rows of the map stand for, and the row (layer 0 at the bottom) and column of each cell."""
    y = "site" if y == "layer" and _is_shared(table, x, y) else y
    up = levels(table[y])
    up = Levels(up.names[::-1], up.values[::-1], len(up.names) - 1 - up.codes)
    return y, {"row": up, "column": levels(table[x])}


def _is_shared(table: pd.DataFrame, x: str, y: str) -> bool:
    """Whether several sites fall on one cell, or a site has no layer."""
    if "site" not in table.columns:
        return False
    return bool(table[y].isna().any() or (table.groupby([x, y], dropna=False)["site"].nunique() > 1).any())


def _control_column(table: pd.DataFrame, value: str, control: str | None) -> str | None:
    """The control of the same kind as the value."""
    if control is None:
        metric = table["metric"].iloc[0] if "metric" in table.columns else "iia"
        return "control" if "control" in table.columns and value == metric else None
    require(table, "site_heatmap", control=control)
    return control


def _controls(
    table: pd.DataFrame, keys: dict[str, Levels], control: str | None, shape: tuple[int, int]
) -> np.ndarray | None:
    """The control of each cell (averaged as the score is)."""
    return None if control is None else spread(cells(table, "site_heatmap", keys, control), "value", *shape)


def subject(table: pd.DataFrame, value: str) -> str:
    """What the figure shows: the value, of which variable and model where the table says so."""
    found = {name: table[name].unique() for name in ("variable", "model") if name in table.columns}
    words = {"variable": "of", "model": "in"}
    about = "".join(f" {words[name]} {names[0]}" for name, names in found.items() if len(names) == 1)
    return label(value).split(" (")[0] + about


def _flags(table: pd.DataFrame, keys: dict[str, Levels], column: str, grid: Grid) -> np.ndarray | None:
    """A bool column as an array of the cells: where all rows of a cell have it; None: no such column."""
    if column not in table.columns:
        return None
    numbers = table.assign(**{column: table[column].astype(float)})
    return spread(cells(numbers, "site_heatmap", keys, column), "value", *grid.values.shape) == 1


def _hatch(ax: Axes, made: Cells, apart: np.ndarray | None, least: np.ndarray | None, value: str) -> str:
    """Hatch the cells that do not separate, or whose interval (or value, where there is none) does not lie above what
    it is compared with; returns the words for it.
    """
    at = made.table["row"], made.table["column"]
    if apart is not None:
        chosen, words = made.table[~apart[at]], "hatched: does not separate (the report's rule)"
    elif least is not None:
        bottom = made.table["low"].fillna(made.table["value"])
        words = f"hatched: not above {'zero' if value == 'separation' else 'its control'}"
        chosen = made.table[bottom.to_numpy() <= least[at]]
    else:
        return ""
    for cell in chosen.itertuples():
        hatch(ax, cell.row, cell.column)  # pyright: ignore[reportArgumentType]
    return words if len(chosen) else ""


def _mark_best(ax: Axes, grid: Grid, x: str, y: str, chosen: np.ndarray | None) -> str:
    """Frame the chosen cell, or the highest ones, and say where; nothing where all are equal or unknown."""
    known = grid.values[np.isfinite(grid.values)]
    if chosen is None and (known.size < 2 or known.min() == known.max()):
        return ""
    best = np.argwhere(grid.values == known.max() if chosen is None else chosen)
    for row, column in best:
        mark(ax, int(row), int(column))
    if not len(best):
        return ""
    row, column = best[0]
    where = f"{label(y)} {grid.row_names[row]}, {label(x)} {grid.column_names[column]}"
    what = "best" if chosen is None else "chosen"
    return f": {what} {grid.numbers[row, column]} at {where if len(best) == 1 else f'{len(best)} sites'}"


def _check_degrees(table: pd.DataFrame, angle: str) -> None:
    outside = table[(table[angle] < 0) | (table[angle] > 90.001)]
    if len(outside):
        raise DataError(
            f"angle_matrix: {angle!r} holds {outside[angle].iloc[0]:g}; principal angles lie between 0 and 90 degrees. "
            f"Write principal_angles(one.rotation, two.rotation), which gives degrees."
        )


def _mirrored(table: pd.DataFrame, one: str, two: str, angle: str) -> pd.DataFrame:
    """Pairs of one family that are given once, on both sides of the diagonal; two families stay a rectangle."""
    given = pd.DataFrame({"one": table[one].to_numpy(), "two": table[two].to_numpy(), "angle": table[angle].to_numpy()})
    pairs = set(zip(given["one"], given["two"], strict=True))
    if not {a for a, _ in pairs} & {b for _, b in pairs} and len({a for a, _ in pairs} | {b for _, b in pairs}) > 2:
        return given
    once = [a != b and (b, a) not in pairs for a, b in zip(given["one"], given["two"], strict=True)]
    turned = pd.DataFrame({"one": given["two"][once], "two": given["one"][once], "angle": given["angle"][once]})
    return pd.concat([given, turned], ignore_index=True)
