"""A causal model to look at: as text, as a table with a picture in Jupyter, and on matplotlib Axes."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from html import escape
from typing import Any

from causal_reft.causal.mechanisms import source_line
from causal_reft.causal.model import CausalModel
from causal_reft.causal.settings import describe_domain

ROLE_COLOUR = {"input": "#dbe9f6", "between": "#fff3d6", "output": "#d8f0d8"}


def describe(model: CausalModel) -> str:
    """The model in one screen: each input with its domain, each mechanism with its parents."""
    sampled = all(domain is not None for domain in model.domains.values())
    size = f"{model.size:,} settings" if sampled else "not to be sampled"
    width = max(map(len, model.variables))
    lines = [f"  {name:<{width}} in {describe_domain(model.domains[name])}" for name in model.inputs]
    for name in model.variables:
        if name in model.mechanisms:
            mark = "  (output)" if name in model.outputs else ""
            lines.append(f"  {name:<{width}} <- {', '.join(model.parents[name]) or 'a constant'}{mark}")
    return "\n".join([f"CausalModel: {len(model.inputs)} inputs, {len(model.mechanisms)} mechanisms, {size}", *lines])


def depths(model: CausalModel) -> dict[str, int]:
    """How far above the inputs a variable stands: inputs 0, else one more than its highest parent."""
    depth: dict[str, int] = {}
    for name in model.variables:
        depth[name] = 1 + max((depth[parent] for parent in model.parents[name]), default=-1)
    return depth


def positions(model: CausalModel) -> dict[str, tuple[float, float]]:
    """Where each variable stands: rows by depth, and within a row by the mean place of its parents."""
    rows: dict[int, list[str]] = defaultdict(list)
    for name, depth in depths(model).items():
        rows[depth].append(name)
    place: dict[str, tuple[float, float]] = {}
    for depth in sorted(rows):
        wanted = {n: _mean([place[p][0] for p in model.parents[n]]) for n in rows[depth]}
        ordered = sorted(rows[depth], key=lambda name: wanted[name])
        for i, name in enumerate(ordered):
            place[name] = ((i + 1) / (len(ordered) + 1), float(depth))
    return place


def _mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers) if numbers else 0.0


def draw(model: CausalModel, ax: Any = None) -> Any:
    """Draw the graph on matplotlib Axes, inputs at the bottom, arrows from parents to children; returns the Axes."""
    import matplotlib.pyplot as plt

    place = positions(model)
    widest = max(sum(1 for _, y in place.values() if y == level) for level in {y for _, y in place.values()})
    if ax is None:
        size = (max(3.0, 1.4 * widest), 1.1 + 0.9 * max(y for _, y in place.values()))
        ax = plt.subplots(figsize=size, layout="constrained")[1]
    arrow = {"arrowstyle": "-|>", "color": "#666666", "shrinkA": 12, "shrinkB": 12}
    for name, parents in model.parents.items():
        for parent in parents:
            ax.annotate("", xy=place[name], xytext=place[parent], arrowprops=arrow)
    for name, (x, y) in place.items():
        box = {"boxstyle": "round,pad=0.4", "facecolor": ROLE_COLOUR[_role(model, name)], "edgecolor": "#666666"}
        ax.text(x, y, name, ha="center", va="center", bbox=box)
    ax.set(xlim=(0, 1), ylim=(-0.5, max(y for _, y in place.values()) + 0.5))
    ax.set_axis_off()
    return ax


def _role(model: CausalModel, name: str) -> str:
    return "input" if name in model.inputs else "output" if name in model.outputs else "between"


def to_html(model: CausalModel) -> str:
    """The picture beside a table of domains and mechanism lines."""
    import matplotlib.pyplot as plt

    figure = draw(model).figure
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    picture = base64.b64encode(buffer.getvalue()).decode()
    rows = "".join(f"<tr><td><b>{escape(name)}</b></td><td>{_told(model, name)}</td></tr>" for name in model.variables)
    return f"<div><img alt='causal graph' src='data:image/png;base64,{picture}'/><table>{rows}</table></div>"


def _told(model: CausalModel, name: str) -> str:
    if name in model.inputs:
        return escape(f"in {describe_domain(model.domains[name])}")
    return f"<code>{escape(source_line(model.mechanisms[name]))}</code>"
