"""How every figure looks: one colour-blind-safe palette, thin spines, small sizes, titles that say the result.

Nothing global is touched (no rcParams): a figure of ours looks the same in any notebook, and a figure of yours keeps
its own style. Text that comes from tables is never read as mathematics, so a token `$` is a dollar.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.text import Text

Number = int | float  # what a caller may write for a real number

# Okabe and Ito (2008), in an order in which neighbours differ in lightness too
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")
DASHES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SEQUENTIAL, DIVERGING = "YlGnBu", "RdBu_r"

INK, QUIET, FAINT = "#222222", "#666666", "#d9d9d9"
HIGHLIGHT = "#D55E00"
TITLE, LABEL, TICK, NOTE = 10.0, 9.0, 8.0, 7.5
ENTRY = 32  # letters in a line of a legend

LABELS = {
    "angle": "principal angle (degrees)",
    "flop_ratio": "FLOPs",
    "iia": "IIA (share of pairs)",
    "layer": "layer",
    "logit_difference": "logit difference (nats)",
    "loss": "loss (nats)",
    "n": "length of the text (tokens)",
    "positions": "position",
    "rate": "share of prompts",
    "rank": "rank (dimensions of the subspace)",
    "recovery": "recovered share of the text",
    "step": "training step",
    "time_ratio": "time",
    "validation_loss": "validation loss (nats)",
}


def new_axes(ax: Axes | None, width: Number, height: Number) -> Axes:
    """The given Axes, or the only ones of a new figure of this size in inches."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def tidy(ax: Axes, grid: str | None = None, spines: Sequence[str] = ("left", "bottom")) -> None:
    """Thin spines where they help, small ticks, and a quiet grid along "x", "y" or "both"."""
    for side, spine in ax.spines.items():
        spine.set_visible(side in spines)
        spine.set_linewidth(0.6)
        spine.set_color(QUIET)
    ax.tick_params(labelsize=TICK, width=0.6, length=3, color=QUIET, labelcolor=INK)
    if grid:
        ax.grid(axis=grid, color=FAINT, linewidth=0.5)  # pyright: ignore[reportArgumentType] - a Literal there
        ax.set_axisbelow(True)


def heading(ax: Axes, title: str, note: str = "") -> None:
    """A title on the left, and below it what the reader must know to read the figure."""
    room = 1.25 * ax.get_window_extent().width / ax.figure.dpi
    title, note = (textwrap.fill(text, max(12, int(letters * room))) for text, letters in ((title, 10.5), (note, 18)))
    lines = note.count("\n") + 1 if note else 0
    plain([ax.set_title(title, loc="left", fontsize=TITLE, fontweight="semibold", color=INK, pad=6 + 11 * lines)])
    if note:
        place = {"xy": (0, 1), "xycoords": "axes fraction", "xytext": (0, 5), "textcoords": "offset points"}
        plain([ax.annotate(note, **place, fontsize=NOTE, color=QUIET, va="bottom", ha="left")])


def axis_labels(ax: Axes, x: str, y: str) -> None:
    """What the axes show, with units."""
    plain([ax.set_xlabel(x, fontsize=LABEL, color=INK), ax.set_ylabel(y, fontsize=LABEL, color=INK)])


def legend(ax: Axes, entries: int, title: str | None = None) -> None:
    """Inside while it is short, beside the Axes when it is long."""
    if not entries:
        return
    beside = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)} if entries > 4 else {"loc": "best"}
    columns = 1 + (entries - 1) // 18
    style = {"fontsize": TICK, "title_fontsize": TICK, "frameon": False, "markerscale": 1.3}
    box = ax.legend(title=title, ncols=columns, **style, **beside)
    plain([*box.get_texts(), box.get_title()])


def colour_bar(ax: Axes, mapped: ScalarMappable, text: str) -> Axes:
    """A slim bar; returns its Axes."""
    figure = ax.get_figure()
    assert figure is not None
    bar = figure.colorbar(mapped, ax=ax, fraction=0.05, pad=0.02, aspect=25)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    bar.ax.tick_params(labelsize=TICK, width=0.6, length=2, color=QUIET)
    plain([bar.ax.set_ylabel(text, fontsize=LABEL, color=INK, labelpad=7)])
    return bar.ax


def plain(texts: Iterable[Text]) -> None:
    """Show these texts as they are, `$` included."""
    for text in texts:
        text.set_parse_math(False)


def tick_names(ax: Axes, axis: str, names: Sequence[str], rotation: int = 0) -> None:
    """One tick for each name, at 0, 1, 2, ..."""
    if axis == "x":
        turned = {"rotation": rotation, "ha": "right", "rotation_mode": "anchor"} if rotation else {}
        ax.set_xticks(range(len(names)), list(names), **turned)
        plain(ax.get_xticklabels())
    else:
        ax.set_yticks(range(len(names)), list(names))
        plain(ax.get_yticklabels())


def shown(name: str) -> str:
    """A legend entry that matplotlib shows even if it is empty or starts with an underscore, and that leaves room for
    the lines."""
    wrapped = name if len(name) <= ENTRY else textwrap.fill(name, ENTRY)
    return f"\u200b{wrapped}" if not name or name.startswith("_") else wrapped


def label(column: str) -> str:
    """A column's name for an axis: with its unit where we know it."""
    return LABELS.get(column, column.replace("_", " "))


def number(value: Number) -> str:
    """Two decimals below 10, and more where two would call 0.996 a 1 or 0.003 a 0."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    size = abs(value)
    if size >= 1e5 or 0 < size < 5e-4:
        return f"{value:.1e}"
    if size >= 100:
        return f"{value:,.0f}"
    texts = [f"{value:.{digits}f}" for digits in range(2 if size < 10 else 1, 6)]
    exact = value == round(value)
    return next((text for text in texts if exact or float(text) != round(value)), texts[0])


def readable_on(rgba: Sequence[float]) -> str:
    """Black or white, whichever is read more easily on this colour."""
    red, green, blue = rgba[:3]
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 0.55 else "white"
