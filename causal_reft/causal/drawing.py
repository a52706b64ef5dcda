"""A causal model to look at: as text, as a table with a picture in Jupyter, and on matplotlib Axes."""

from __future__ import annotations

import base64
import io
from typing import Any

from causal_reft.causal.equations import Equations
from causal_reft.causal.mechanisms import own_text
from causal_reft.causal.settings import describe_domain
from causal_reft.display import counted, html_table

ROLE_COLOUR = {"input": "#dbe9f6", "between": "#fff3d6", "output": "#d8f0d8"}


def describe(model: Equations) -> str:
    """The model in one screen: each input with its domain, each mechanism with its parents."""
    size = counted(model.size, "setting") if model.sampled else "not to be sampled"
    width = max(map(len, model.variables))
    lines = [f"  {name:<{width}} in {describe_domain(model.domains[name])}" for name in model.inputs]
    for name in model.variables:
        if name in model.mechanisms:
            mark = "  (output)" if name in model.outputs else ""
            lines.append(f"  {name:<{width}} <- {', '.join(model.parents[name]) or 'a constant'}{mark}")
    inputs, mechanisms = counted(len(model.inputs), "input"), counted(len(model.mechanisms), "mechanism")
    return "\n".join([f"CausalModel: {inputs}, {mechanisms}, {size}", *lines])


def depths(model: Equations) -> dict[str, int]:
    """How far above the inputs a variable is: inputs 0, else one more than its highest parent."""
    depth: dict[str, int] = {}
    for name in model.variables:
        depth[name] = 1 + max((depth[parent] for parent in model.parents[name]), default=-1)
    return depth


def positions(model: Equations) -> dict[str, tuple[float, float]]:
    """Where each variable is drawn: rows by depth; within a row ordered by its neighbours, with room for its name."""
    depth = depths(model)
    rows = [[name for name in model.variables if depth[name] == level] for level in range(max(depth.values()) + 1)]
    children = {name: tuple(c for c, parents in model.parents.items() if name in parents) for name in model.variables}
    place = {name: x for row in rows for name, x in _spread(row).items()}
    for neighbours, order in ((model.parents, rows), (children, rows[::-1]), (model.parents, rows)) * 2:
        for i, row in enumerate(order):
            ranked = sorted(row, key=lambda name: _mean([place[n] for n in neighbours[name]], place[name]))
            place |= _spread(ranked)
            order[i][:] = ranked
    return {name: (place[name], float(depth[name])) for name in model.variables}


def _spread(row: list[str]) -> dict[str, float]:
    """Names side by side in [0, 1], each with room for its letters."""
    widths = [len(name) + 4 for name in row]
    middles = [sum(widths[:i]) + width / 2 for i, width in enumerate(widths)]
    return {name: middle / sum(widths) for name, middle in zip(row, middles, strict=True)}


def _mean(numbers: list[float], otherwise: float) -> float:
    return sum(numbers) / len(numbers) if numbers else otherwise


def draw(model: Equations, ax: Any = None) -> Any:
    """Draw the graph on matplotlib Axes, inputs at the bottom, arrows from parents to children; returns the Axes."""
    import matplotlib.pyplot as plt

    place = positions(model)
    top = max(y for _, y in place.values())
    if ax is None:
        letters = max(sum(len(n) + 4 for n in place if place[n][1] == level) for level in range(int(top) + 1))
        ax = plt.subplots(figsize=(max(3.0, 0.13 * letters), 1.0 + 0.8 * top), layout="constrained")[1]
    for name, parents in model.parents.items():
        for parent in parents:
            ax.annotate("", xy=place[name], xytext=place[parent], arrowprops=_arrow(place[parent], place[name]))
    for name, (x, y) in place.items():
        box = {"boxstyle": "round,pad=0.4", "facecolor": ROLE_COLOUR[_role(model, name)], "edgecolor": "#666666"}
        ax.text(x, y, name, ha="center", va="center", bbox=box, fontsize=9)
    ax.set(xlim=(0, 1), ylim=(-0.5, top + 0.5))
    ax.set_axis_off()
    return ax


def _arrow(tail: tuple[float, float], head: tuple[float, float]) -> dict[str, Any]:
    """A straight arrow to the next row; one that passes a row bends outwards, around the variables between."""
    bend = 0.0 if head[1] - tail[1] <= 1 else (-0.25 if tail[0] <= 0.5 else 0.25)
    style = {"arrowstyle": "-|>", "color": "#666666", "shrinkA": 11, "shrinkB": 11}
    return {**style, "connectionstyle": f"arc3,rad={bend}"}


def _role(model: Equations, name: str) -> str:
    return "input" if name in model.inputs else "output" if name in model.outputs else "between"


def to_html(model: Equations) -> str:
    """The picture beside a table of domains and mechanism lines."""
    import matplotlib.pyplot as plt

    figure = draw(model).figure
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    picture = base64.b64encode(buffer.getvalue()).decode()
    rows = [(name, _shown(model, name)) for name in model.variables]
    table = html_table(describe(model).splitlines()[0], (), rows)
    return f"<img alt='causal graph' src='data:image/png;base64,{picture}'/>{table}"


def _shown(model: Equations, name: str) -> str:
    if name in model.inputs:
        return f"in {describe_domain(model.domains[name])}"
    return own_text(model.mechanisms[name])
