"""The drawing under every heat map here: coloured cells with their number, their interval, and marks.

A cell without a number stays grey, so that "not measured" never looks like "zero".
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from causal_reft.plots.columns import Cells
from causal_reft.plots.style import HIGHLIGHT, SEQUENTIAL, Number, plain, readable_on, tick_names, tidy

SMALLEST_TEXT = 4.5  # points
LETTERS = 11.5  # to an inch, of a column's name


@dataclass(frozen=True)
class Grid:
    """Values (row, column), and up to two small lines of text under each number."""

    values: np.ndarray
    numbers: np.ndarray
    small: np.ndarray
    row_names: tuple[str, ...]
    column_names: tuple[str, ...]

    @property
    def lines(self) -> int:
        """The most small lines in a cell."""
        return max((text.count("\n") + 1 for text in self.small.flat if text), default=0)


def spread(made: Cells, column: str, rows: int, columns: int) -> np.ndarray:
    """A column of the cells as a (row, column) array, nan where there is no cell."""
    array = np.full((rows, columns), np.nan)
    array[made.table["row"], made.table["column"]] = made.table[column]
    return array


def natural_size(grid: Grid) -> tuple[float, float]:
    """Width and height in inches at which every text is readable, within a page."""
    rows, columns = grid.values.shape
    longest = max((len(line) for text in grid.small.flat for line in text.split("\n")), default=0)
    width = columns * max(0.52, 0.062 * longest + 0.12)
    names = 0.075 * max(map(len, grid.row_names))
    below = max(map(len, grid.column_names))
    turned = 0.045 * below if below > LETTERS * width / columns else 0.0
    return min(13.0, max(3.0, width) + names + 1.5), min(10.0, rows * (0.36 + 0.13 * grid.lines) + 1.5 + turned)


def draw_grid(ax: Axes, grid: Grid, limits: tuple[Number, Number], cmap: str = SEQUENTIAL) -> tuple[AxesImage, bool]:
    """Cells, numbers and names, row 0 on top; returns also whether there was room for the small lines."""
    rows, columns = grid.values.shape
    colours = colormaps[cmap].with_extremes(bad="#eeeeee")
    norm = Normalize(*limits)
    shown = np.ma.masked_invalid(grid.values)
    image = ax.imshow(shown, cmap=colours, norm=norm, aspect="auto", interpolation="nearest")
    tidy(ax, spines=())
    ax.tick_params(length=0)
    _name_columns(ax, grid.column_names)
    tick_names(ax, "y", grid.row_names)
    ax.set_xticks(np.arange(1, columns) - 0.5, minor=True)
    ax.set_yticks(np.arange(1, rows) - 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=1.5)
    ax.tick_params(which="minor", length=0)
    inks = [[readable_on(colours(norm(v))) for v in row] for row in shown.filled(np.nan)]
    return image, _write(ax, grid, inks)


def mark(ax: Axes, row: int, column: int) -> Rectangle:
    """A frame around one cell."""
    box = Rectangle(
        (column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=HIGHLIGHT, linewidth=2.2, zorder=4, clip_on=False
    )
    box.set_gid("best")
    ax.add_patch(box)
    return box


def hatch(ax: Axes, row: int, column: int) -> Rectangle:
    """Thin diagonals over one cell."""
    style = {"fill": False, "hatch": "////", "edgecolor": "#999999", "linewidth": 0, "alpha": 0.6}
    box = Rectangle((column - 0.5, row - 0.5), 1, 1, **style)
    box.set_gid("not separated")
    ax.add_patch(box)
    return box


def limits_of(values: np.ndarray, limits: tuple[Number, Number] | None) -> tuple[Number, Number]:
    """The ends of the colour scale: as asked, 0 to 1 for shares, else what the values span."""
    known = values[np.isfinite(values)]
    if limits is not None:
        return limits
    if not known.size or (known.min() >= 0 and known.max() <= 1):
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    return (low, high) if low < high else (low - max(0.5, abs(low)), high + max(0.5, abs(high)))


def _name_columns(ax: Axes, names: Sequence[str]) -> None:
    """Names broken into lines that fit their column, and turned where a single word does not fit."""
    letters = int(LETTERS * ax.get_window_extent().width / ax.figure.dpi / len(names))
    broken = [textwrap.fill(name, max(letters, 4), break_long_words=False, break_on_hyphens=False) for name in names]
    fits = all(len(line) <= letters for name in broken for line in name.splitlines())
    tick_names(ax, "x", broken if fits else names, rotation=0 if fits else 35)


def _write(ax: Axes, grid: Grid, inks: Sequence[Sequence[str]]) -> bool:
    """Each cell's number and small lines, as large as there is room for, or left out where there is too little."""
    room = ax.get_window_extent()
    height = room.height / ax.figure.dpi * 72 / grid.values.shape[0]
    width = room.width / ax.figure.dpi * 72 / grid.values.shape[1]
    longest = max(1, *(len(line) for text in grid.small.flat for line in text.split("\n")))
    small = min(6.8, width / (0.58 * longest), height / (2.2 + 1.5 * grid.lines))
    big = min(9.0, width / 2.6, height / (1.6 + (1.25 * grid.lines if small >= SMALLEST_TEXT else 0)))
    texts = zip(grid.numbers.flat, grid.small.flat, [ink for row in inks for ink in row], strict=True)
    for cell, (text, lines, ink) in enumerate(texts):
        row, column = divmod(cell, grid.values.shape[1])
        below = lines if small >= SMALLEST_TEXT else ""
        up = 0.62 * small * (below.count("\n") + 1) if below else 0
        if big >= SMALLEST_TEXT:
            plain([_put(ax, column, row, text, up, big, ink, "center")])
        if below:
            plain([_put(ax, column, row, below, up - 0.6 * big, small, ink, "top")])
    return bool(small >= SMALLEST_TEXT)


def _put(ax: Axes, x: Number, y: Number, text: str, up: Number, size: Number, ink: str, va: str) -> Text:
    style = {"fontsize": size, "color": ink, "ha": "center", "va": va, "zorder": 5, "linespacing": 1.15}
    return ax.annotate(text, (x, y), xytext=(0, up), textcoords="offset points", **style)
