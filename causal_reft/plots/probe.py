"""What a subspace separates: its coordinates z = F.read(h), coloured by a variable, with linear decision regions.

One coordinate is drawn as histograms with a strip of points below, two as a scatter. Points on the wrong side of the
regions are crossed out. A variable of numbers with many values is shown as a colour, without regions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap

from causal_reft.errors import DataError
from causal_reft.plots.columns import Levels, levels, require, require_numbers
from causal_reft.plots.regions import LinearRegions, fit_regions, held_out_accuracy
from causal_reft.plots.style import (
    MARKERS,
    PALETTE,
    axis_labels,
    colour_bar,
    heading,
    label,
    legend,
    new_axes,
    shown,
    tidy,
)


@dataclass(frozen=True)
class Points:
    """The complete examples (n, 1 or 2), their classes, and the regions fitted to them."""

    z: np.ndarray
    names: Sequence[str]
    of: Levels
    regions: LinearRegions

    @property
    def wrong(self) -> np.ndarray:
        """Which points lie in another class's region."""
        return self.regions.predict(self.z) != self.of.codes

    def of_class(self, number: int) -> np.ndarray:
        """The points of one class."""
        return self.z[self.of.codes == number]


def subspace_probe(
    table: pd.DataFrame,
    variable: str = "variable",
    coordinates: Sequence[str] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Points of a subspace coloured by a variable, with the regions of a linear discriminant of the drawn coordinates.

    Examples with a missing number are left out, and the figure says how many.

    Args:
        table: one row for each example: columns `z0`, `z1`, ... and the variable.
        variable: the column that gives the colour: at most 7 classes, or numbers.
        coordinates: one or two columns to draw; by default `z0` and `z1` (`z0` alone where it is the only one).
        title: instead of "gender in z0, z1: 97.0 % right on held-out fifths".
        ax: Axes to draw on.

    Raises:
        DataError: missing columns, three coordinates or more, more than 7 classes of text, no complete example.
    """
    require(table, "subspace_probe", variable=variable)
    drawn = _coordinates(table, coordinates)
    require_numbers(table, "subspace_probe", *drawn)
    z = table[list(drawn)].to_numpy(dtype=float, na_value=np.nan)
    complete = np.isfinite(z).all(axis=1) & table[variable].notna().to_numpy()
    if not complete.any():
        raise DataError(f"subspace_probe: no row has finite {', '.join(drawn)} and a value of {variable!r}.")
    of, z = levels(table[variable][complete], alphabetical=True), z[complete]
    if len(of.names) > len(PALETTE):
        return _shaded(table[complete], z, drawn, variable, title, ax)
    points = Points(z, drawn, of, fit_regions(z, of.codes, len(of.names)))
    ax = new_axes(ax, 4.6, 3.4)
    tidy(ax)
    (_strip if len(drawn) == 1 else _scatter)(ax, points)
    right = held_out_accuracy(z, of.codes, len(of.names))
    accuracy = "" if np.isnan(right) else f": {100 * right:.1f} % right on held-out fifths"
    others, wrong = [name for name in _all_coordinates(table) if name not in drawn], int(points.wrong.sum())
    notes = [
        f"{wrong} of {len(z)} points on the wrong side (crossed)" if wrong else f"all {len(z)} points on their side",
        f"{len(drawn)} of {len(drawn) + len(others)} coordinates" if others else "",
        f"{(~complete).sum()} incomplete rows left out" if not complete.all() else "",
    ]
    heading(ax, title or f"{variable} in {', '.join(drawn)}{accuracy}", " · ".join(filter(None, notes)))
    legend(ax, len(of.names), variable if len(of.names) > 4 else None)
    return ax


def _scatter(ax: Axes, points: Points) -> None:
    """Two coordinates: coloured ground, points, crosses."""
    low, high = _reach(points.z)
    grid = np.stack(np.meshgrid(np.linspace(low[0], high[0], 300), np.linspace(low[1], high[1], 300)), axis=-1)
    ground = points.regions.predict(grid.reshape(-1, 2)).reshape(300, 300)
    _ground(ax, ground, (low[0], high[0], low[1], high[1]), len(points.of.names))
    for number, name in enumerate(points.of.names):
        style = {"color": PALETTE[number], "marker": MARKERS[number], "linewidths": 0.3, "edgecolors": "white"}
        ax.scatter(*points.of_class(number).T, s=_size(points.z), label=shown(name), **style)
    ax.scatter(*points.z[points.wrong].T, s=26, color="black", marker="x", linewidths=0.9, gid="wrong")
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    axis_labels(ax, *map(label, points.names))


def _strip(ax: Axes, points: Points) -> None:
    """One coordinate: a histogram for each class above zero, the points themselves below."""
    low, high = (float(end[0]) for end in _reach(points.z))
    bins = np.linspace(low, high, 41)
    counts = [np.histogram(points.of_class(number)[:, 0], bins)[0] for number in range(len(points.of.names))]
    top = max(int(count.max()) for count in counts)
    line = np.linspace(low, high, 600)[:, None]
    _ground(ax, points.regions.predict(line)[None], (low, high, -0.4 * top, 1.12 * top), len(points.of.names))
    jitter = np.random.default_rng(0).uniform(-0.33, -0.07, len(points.z)) * top
    for number, name in enumerate(points.of.names):
        mine = points.of.codes == number
        ax.stairs(counts[number], bins, fill=True, color=PALETTE[number], alpha=0.45, label=shown(name))
        style = {"color": PALETTE[number], "marker": MARKERS[number], "linewidths": 0}
        ax.scatter(points.z[mine, 0], jitter[mine], s=_size(points.z) / 2, **style)
    crossed = {"color": "black", "marker": "x", "linewidths": 0.8, "gid": "wrong"}
    ax.scatter(points.z[points.wrong, 0], jitter[points.wrong], s=22, **crossed)
    ax.axhline(0, color="black", linewidth=0.5)
    ax.set(xlim=(low, high), ylim=(-0.4 * top, 1.12 * top))
    ax.set_yticks([tick for tick in ax.get_yticks() if 0 <= tick <= 1.12 * top and float(tick).is_integer()])
    axis_labels(ax, label(points.names[0]), "examples")


def _shaded(
    table: pd.DataFrame, z: np.ndarray, drawn: Sequence[str], variable: str, title: str | None, ax: Axes | None
) -> Axes:
    """A variable of numbers: its value as a colour."""
    if not pd.api.types.is_numeric_dtype(table[variable]):
        raise DataError(
            f"subspace_probe: {variable!r} has {table[variable].nunique()} classes, and {len(PALETTE)} colours can be "
            f"told apart. Draw some of them: table[table[{variable!r}].isin([...])]."
        )
    ax = new_axes(ax, 4.8, 3.4)
    tidy(ax)
    values = table[variable].to_numpy(dtype=float)
    height = z[:, 1] if z.shape[1] == 2 else values
    points = ax.scatter(z[:, 0], height, c=values, cmap="viridis", s=_size(z), linewidths=0)
    names = [*map(label, drawn), label(variable)]
    axis_labels(ax, names[0], names[1])
    if z.shape[1] == 2:
        colour_bar(ax, points, label(variable))
    correlations = ", ".join(f"{name} {_correlation(z[:, i], values)}" for i, name in enumerate(drawn))
    note = f"{len(z)} points · correlation with {variable}: {correlations}"
    heading(ax, title or f"{variable} in {', '.join(drawn)}", note)
    return ax


def _coordinates(table: pd.DataFrame, coordinates: Sequence[str] | None) -> tuple[str, ...]:
    if coordinates is None:
        found = _all_coordinates(table)[:2]
        require(table, "subspace_probe", coordinates=found[0] if found else "z0")
        return found
    if not 1 <= len(coordinates) <= 2:
        raise DataError(
            f"subspace_probe(coordinates={list(coordinates)}): one or two can be drawn. "
            f"Write coordinates={list(coordinates[:2]) or ['z0', 'z1']}."
        )
    for name in coordinates:
        require(table, "subspace_probe", coordinates=name)
    return tuple(coordinates)


def _all_coordinates(table: pd.DataFrame) -> tuple[str, ...]:
    """The columns z0, z1, ... in the order of their numbers."""
    found = [name for name in table.columns if re.fullmatch(r"z\d+", str(name))]
    return tuple(sorted(found, key=lambda name: int(name[1:])))


def _ground(ax: Axes, regions: np.ndarray, extent: tuple[float, float, float, float], count: int) -> None:
    style = {"origin": "lower", "aspect": "auto", "alpha": 0.14, "interpolation": "nearest", "zorder": 0}
    ax.imshow(regions, extent=extent, cmap=ListedColormap(PALETTE[:count]), vmin=-0.5, vmax=count - 0.5, **style)


def _reach(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the axes, with a margin (and some room where all points are one)."""
    low, high = z.min(0), z.max(0)
    margin = np.where(high > low, 0.06 * (high - low), np.maximum(1e-6, 0.1 * np.abs(low)) + 0.5)
    return low - margin, high + margin


def _size(z: np.ndarray) -> float:
    """Smaller points where there are many."""
    return float(np.clip(6000 / len(z), 6, 22))


def _correlation(one: np.ndarray, two: np.ndarray) -> str:
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(two) == 0:
        return "undefined"
    return f"{np.corrcoef(one, two)[0, 1]:.2f}"
