"""An intervention graph to look at: runs are lanes, layers go from left to right, arrows from reads to edits.

    open circle     a state that is collected
    filled box      an edit: node name, featurizer (rank); its colour says where the new coordinates come from
    small label     above a box: the learned, constant or random source; `+` where it is added to the state

Within a lane the order is that of execution: reads of the same run, edits in the order of the graph, then the states
that are collected after them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch

from causal_reft.display import counted
from causal_reft.graph.interchange import Interchange, Node
from causal_reft.graph.layout import Item, Layout, circle_text, featurizer_name, lay_out, site_names
from causal_reft.graph.sources import (
    Collect,
    Constant,
    GatedScale,
    LearnedScale,
    LearnedSource,
    Noise,
    PerRow,
    RowSource,
    Shift,
    Source,
    TopLatents,
)
from causal_reft.plots.style import INK, QUIET, heading, new_axes, plain, tidy

COLOURS = {
    "from another run": "#b9dcf2",
    "learned": "#fcd2b0",
    "constant": "#e0e0e0",
    "noise": "#ead0e2",
    "by row": "#d5e8d0",
}
READ = "#0072B2"
LEGEND = 1.6  # inches beside the lanes


def draw_nodes(nodes: Mapping[str, Node], runs: Sequence[str], parameters: int, ax: Axes | None = None) -> Axes:
    """Draw the nodes of an intervention graph.

    Args:
        nodes: what to draw; without nodes every run is an empty lane.
        runs: in the order in which they are executed.
        parameters: how many the nodes train, for the heading.
        ax: Axes to draw on (the text shrinks with them); by default those of a new figure, as large as the graph needs.
    """
    layout = lay_out(nodes, runs)
    right = layout.span(len(layout.sites) - 1)[1] if layout.sites else 2.0
    margin, height = 0.3 + 0.09 * max(map(len, runs)), layout.lane_height * len(runs)
    bottom = (0.58 if layout.crowded else 0.44) - layout.lane_height / 2
    needed = margin + right + 0.3
    scale = 1.0 if ax is None else _scale(ax, needed)
    ax = new_axes(ax, needed + LEGEND + 0.2, height + bottom + 1.0)
    tidy(ax, spines=())
    top = layout.lane_height / 2
    ax.set(xlim=(-margin, right + 0.3), ylim=(top - height - bottom, top), xticks=[], yticks=[])
    _draw_sites(ax, layout, scale)
    for lane, run in enumerate(runs):
        _draw_lane(ax, run, -layout.lane_height * lane, right, scale)
    for item in layout.items:
        (_draw_box if isinstance(item.node, Interchange) else _draw_circle)(ax, layout, item, scale)
    edits = sum(isinstance(node, Interchange) for node in nodes.values())
    collected = len(nodes) - edits
    counts = [counted(edits, "edit"), f"{collected} collected" if collected else ""]
    heading(ax, f"{', '.join(filter(None, counts))}, {counted(parameters, 'trainable parameter')}")
    _draw_legend(ax, layout, scale)
    return ax


def _scale(ax: Axes, needed: float) -> float:
    """How much the text must shrink on Axes that are narrower than needed."""
    room = 1.2 * ax.get_window_extent().width / ax.figure.dpi
    return min(1.0, max(0.4, room / (needed + LEGEND)))


def _draw_sites(ax: Axes, layout: Layout, scale: float) -> None:
    """A faint band for each site, with its name below."""
    spans = [layout.span(column) for column in range(len(layout.sites))]
    for left, right in spans:
        ax.axvspan(left, right, color="#f3f5f7", linewidth=0, zorder=0)
    names, shared = site_names(layout.sites)
    ax.set_xticks([(left + right) / 2 for left, right in spans], names, fontsize=7.5 * scale)
    ax.tick_params(length=0)
    plain([*ax.get_xticklabels(), ax.set_xlabel(shared, fontsize=7.5 * scale, color=QUIET)])


def _draw_lane(ax: Axes, run: str, y: float, right: float, scale: float) -> None:
    """A thin arrow through the layers, with the run's name at its start."""
    style: dict[str, Any] = {
        "arrowstyle": "-|>",
        "mutation_scale": 8,
        "color": "#bbbbbb",
        "linewidth": 1.1,
        "zorder": 1,
    }
    ax.add_patch(FancyArrowPatch((0, y), (right + 0.28, y), **style))
    plain([ax.text(-0.06, y, run, ha="right", va="center", fontsize=9 * scale, fontweight="semibold", color=INK)])


def _draw_circle(ax: Axes, layout: Layout, item: Item, scale: float) -> None:
    """Open, its text below."""
    x, y = layout.place(item)
    style: dict[str, Any] = {
        "markersize": 11 * scale,
        "markerfacecolor": "white",
        "markeredgecolor": READ,
        "markeredgewidth": 1.5,
    }
    ax.plot([x], [y], "o", zorder=4, gid="collect", **style)
    plain([ax.text(x, y - 0.15, circle_text(item), ha="center", va="top", fontsize=7.5 * scale, color=INK, zorder=6)])


def _draw_box(ax: Axes, layout: Layout, item: Item, scale: float) -> None:
    """Filled, with name and featurizer inside, its source above, and an arrow from everything it reads."""
    edit = item.node
    assert isinstance(edit, Interchange)
    x, y = layout.place(item)
    width, height = (0.4, 1.0) if layout.crowded else (1.14, 0.44)
    style: dict[str, Any] = {
        "boxstyle": "round,pad=0,rounding_size=0.07",
        "facecolor": COLOURS[_kind(edit.source)],
        "edgecolor": INK,
    }
    corner = (x - width / 2, y - height / 2)
    ax.add_patch(FancyBboxPatch(corner, width, height, linewidth=0.8, zorder=3, gid="edit", **style))
    turned: dict[str, Any] = {
        "rotation": 90 if layout.crowded else 0,
        "ha": "center",
        "va": "center",
        "color": INK,
        "zorder": 6,
    }
    first, second = ((x - 0.08, y), (x + 0.09, y)) if layout.crowded else ((x, y + 0.085), (x, y - 0.095))
    named = featurizer_name(edit.featurizer)
    fits = min(1.0, 16 / len(item.name)), min(1.0, 19 / len(named))
    plain([ax.text(*first, item.name, fontsize=8 * fits[0] * scale, fontweight="semibold", **turned)])
    plain([ax.text(*second, named, fontsize=7.2 * fits[1] * scale, **turned)])
    top = _draw_source(ax, edit.source, x, y + height / 2, scale)
    for need in edit.needs():
        read = layout.circle_of(need)
        assert read is not None
        _draw_arrow(ax, layout.place(read), (x, top), sideways=read.column != item.column or read.lane == item.lane)


def _draw_source(ax: Axes, source: Source, x: float, top: float, scale: float) -> float:
    """A small label above the box with a stem down to it; returns the height where arrows from reads end."""
    text = source_formula(source)
    if not text:
        return top
    edge = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": QUIET, "linewidth": 0.6}
    ax.plot([x, x], [top, top + 0.16], color=QUIET, linewidth=0.8, zorder=2)
    style: dict[str, Any] = {"ha": "center", "va": "center", "zorder": 6, "gid": "source"}
    plain([ax.text(x, top + 0.2, text, fontsize=7 * scale, color=INK, bbox=edge, **style)])
    return top + 0.29


def _draw_arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], sideways: bool) -> None:
    """From a circle to a box: straight down, or curved where it goes along the layers."""
    bend = f"arc3,rad={-0.25 if start[0] < end[0] else 0.25}" if sideways else "arc3,rad=0"
    style: dict[str, Any] = {
        "arrowstyle": "-|>",
        "mutation_scale": 10,
        "color": READ,
        "linewidth": 1.3,
        "shrinkA": 6,
        "shrinkB": 0,
    }
    ax.add_patch(FancyArrowPatch(start, end, connectionstyle=bend, zorder=2.5, gid="read", **style))


def _draw_legend(ax: Axes, layout: Layout, scale: float) -> None:
    """What the marks in this drawing mean, beside it."""
    kinds = {_kind(item.node.source) for item in layout.boxes if isinstance(item.node, Interchange)}
    handles: list[Patch | Line2D] = [
        Patch(facecolor=colour, edgecolor=INK, linewidth=0.8, label=f"edit: {kind}")
        for kind, colour in COLOURS.items()
        if kind in kinds
    ]
    if len(layout.items) > len(layout.boxes):
        look: dict[str, Any] = {"marker": "o", "linestyle": "none", "markerfacecolor": "white", "markeredgecolor": READ}
        handles.insert(0, Line2D([], [], markersize=8, markeredgewidth=1.5, label="state collected", **look))
    if handles:
        ax.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8 * scale)


def source_formula(source: Source) -> str:
    """The source in symbols, h the state at the site: `W h + b`, `b`, `0`, `c`, `noise 0.5`; `+` for `Shift`."""
    match source:
        case Shift(source=inner):
            return f"+ {source_formula(inner)}".strip()
        case Constant():
            return f"{source.tensor.item():g}" if source.tensor.ndim == 0 else "c"
        case Noise():
            return f"noise {source.std:g}"
        case LearnedSource():
            read = "s" if source.reads else "h"
            linear = " + ".join(filter(None, [f"W {read}" * source.reads_input, "b" * (source.bias is not None)]))
            return f"{source.activation}({linear})" if source.activation else linear
        case LearnedScale():
            return "s h" if source.bias is None else "s h + b"
        case GatedScale():
            return "(1 + g m) h + g' a"
        case TopLatents():
            return f"mean of top {source.k}"
        case PerRow() | RowSource():
            return "by row"
    return ""  # a Collect: the arrow says it


def _kind(source: Source) -> str:
    match source:
        case Shift(source=inner):
            return _kind(inner)
        case Collect():
            return "from another run"
        case LearnedSource() | LearnedScale() | GatedScale() | TopLatents():
            return "learned"
        case Noise():
            return "noise"
        case PerRow() | RowSource():
            return "by row"
    return "constant"
