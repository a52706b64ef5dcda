"""Numbers over tokens as a strip of coloured text: what a coordinate of a subspace says at each token of a prompt.

Colours are symmetric around zero (blue below, red above), and the same for every row, so that strips can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_hex
from matplotlib.patches import Rectangle

from causal_reft.errors import DataError
from causal_reft.plots.columns import Levels, levels, require, require_numbers
from causal_reft.plots.style import (
    DIVERGING,
    QUIET,
    Number,
    axis_labels,
    colour_bar,
    heading,
    new_axes,
    number,
    plain,
    readable_on,
    tidy,
)

WHITESPACE = str.maketrans({"\n": "↵", "\t": "⇥", "\r": "␍", " ": "·"})
CHARACTER = 0.602  # width of a DejaVu Sans Mono character, in ems
UNKNOWN = "#eeeeee"
Rgba = tuple[float, float, float, float]
Strip = tuple[str, list[tuple[str, float]]]  # its name, and its (token, number) pairs


class Html(str):
    """A string that a notebook shows as what it describes."""

    def _repr_html_(self) -> str:
        return str(self)


@dataclass(frozen=True)
class Box:
    """One token: its text, where it stands (characters from the left, lines from the top), its number."""

    text: str
    column: int
    line: int
    value: float


def token_strip(
    table: pd.DataFrame,
    token: str = "token",
    value: str = "z",
    row: str | None = None,
    limit: Number | None = None,
    characters: int = 88,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The tokens in reading order, each on the colour of its number.

    Args:
        table: one row for each token, in reading order: columns `token` (text) and `value`.
        token, value: the names of those columns.
        row: a column with one strip for each value (prompts, coordinates, models); the value stands on the left.
        limit: the number at which the colour is full; by default the largest absolute value.
        characters: a line's length before it wraps.
        title: of the figure.
        ax: Axes to draw on.

    Raises:
        DataError: missing columns, text where numbers belong, a limit that is not positive.
    """
    strips = _strips(table, "token_strip", token, value, row)
    limit = _limit(table[value], limit, "token_strip")
    boxes, starts, lines = _wrapped(strips, characters)
    margin = max(len(name) for name, _ in strips)
    margin, reach = margin + bool(margin), max(box.column + len(box.text) for box in boxes)
    ax = new_axes(ax, 0.085 * max(margin + reach, 30) + 1.2, 0.75 + 0.27 * lines)
    tidy(ax, spines=())
    ax.set(xlim=(-margin, max(reach, 30 - margin)), ylim=(lines, 0), xticks=[], yticks=[])
    size = min(8.5, ax.get_window_extent().width / ax.figure.dpi * 72 * 0.9 / (margin + reach) / CHARACTER)
    scale = ScalarMappable(Normalize(-limit, limit), colormaps[DIVERGING].with_extremes(bad=UNKNOWN))
    for box, rgba in zip(boxes, _colours(scale, [box.value for box in boxes]), strict=True):
        corner, width = (box.column + 0.06, box.line + 0.09), len(box.text)
        ax.add_patch(Rectangle(corner, width - 0.12, 0.82, facecolor=rgba, linewidth=0))
        _write(ax, box.column + width / 2, box.line, box.text, size, readable_on(rgba), "center")
    for name, line in starts:
        _write(ax, -1, line, name, size, QUIET, "right")
    colour_bar(ax, scale, value)
    heading(ax, title or f"{value} over the tokens", "grey: no number" if table[value].isna().any() else "")
    axis_labels(ax, "", "")
    return ax


def _colours(scale: ScalarMappable, values: list[float]) -> list[Rgba]:
    """Red, green, blue, opacity of each number; grey where there is none."""
    return [(r, g, b, a) for r, g, b, a in scale.to_rgba(np.ma.masked_invalid(values)).tolist()]


def _write(ax: Axes, x: Number, line: int, text: str, size: Number, ink: str, ha: str) -> None:
    plain([ax.text(x, line + 0.5, text, size=size, color=ink, ha=ha, va="center_baseline", family="monospace")])


def token_strip_html(
    table: pd.DataFrame, token: str = "token", value: str = "z", row: str | None = None, limit: Number | None = None
) -> Html:
    """The same strip as HTML: a notebook shows it, and the number stands in each token's tooltip.

    Args:
        table, token, value, row, limit: as for `token_strip`.

    Raises:
        DataError: as `token_strip`.
    """
    strips = _strips(table, "token_strip_html", token, value, row)
    limit = _limit(table[value], limit, "token_strip_html")
    scale = ScalarMappable(Normalize(-limit, limit), colormaps[DIVERGING].with_extremes(bad=UNKNOWN))
    lines = []
    for name, strip in strips:
        colours = _colours(scale, [z for _, z in strip])
        spans = [_span(text, z, rgba) for (text, z), rgba in zip(strip, colours, strict=True)]
        head = f"<b style='color:{QUIET}'>{escape(name)}</b> " if name else ""
        lines.append(f"<div style='font-family:monospace;line-height:1.9'>{head}{''.join(spans)}</div>")
    return Html("".join(lines))


def _span(text: str, z: Number, rgba: Rgba) -> str:
    style = f"background:{to_hex(rgba)};color:{readable_on(rgba)};padding:2px 1px;border-radius:2px;white-space:pre"
    broken = "<br>" if "\n" in text else ""
    return f"<span style='{style}' title='{escape(number(z))}'>{escape(text.translate(WHITESPACE))}</span>{broken}"


def _strips(table: pd.DataFrame, function: str, token: str, value: str, row: str | None) -> list[Strip]:
    require(table, function, token=token, value=value, **({"row": row} if row else {}))
    require_numbers(table, function, value)
    of = levels(table[row]) if row else Levels(("",), (None,), np.zeros(len(table), dtype=int))
    texts, numbers = table[token].map(str).to_numpy(), table[value].to_numpy(dtype=float, na_value=np.nan)
    strips = {name: list[tuple[str, float]]() for name in of.names}
    for code, text, z in zip(of.codes, texts, numbers.tolist(), strict=True):
        strips[of.names[code]].append((text, z))
    return list(strips.items())


def _limit(values: pd.Series, limit: Number | None, function: str) -> float:
    if limit is not None:
        if not limit > 0:
            raise DataError(f"{function}(limit={limit}): the number at which the colour is full must be positive.")
        return float(limit)
    finite = np.abs(values.to_numpy(dtype=float, na_value=np.nan))
    finite = finite[np.isfinite(finite)]
    return float(finite.max()) if finite.size and finite.max() > 0 else 1.0


def _wrapped(strips: list[Strip], characters: int) -> tuple[list[Box], list[tuple[str, int]], int]:
    """Every token's place, where each strip starts, and the number of lines; a token without room starts a new one."""
    boxes, starts, line = [], [], 0
    for name, strip in strips:
        starts.append((name, line))
        column = 0
        for raw, z in strip:
            text = raw.translate(WHITESPACE) or "∅"
            if column and column + len(text) > characters:
                line, column = line + 1, 0
            boxes.append(Box(text, column, line, z))
            column += len(text)
            if "\n" in raw:
                line, column = line + 1, 0
        line += column > 0
    return boxes, starts, max(line, 1)
