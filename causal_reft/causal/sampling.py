"""Drawing candidate pairs: base settings and source settings, each from its own stream of one seed.

A `Pairs` is what a strategy picks from; a `Sampler` draws any number of them and knows what the causal model expects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from causal_reft.causal.columns import Columns, equal_rows
from causal_reft.causal.equations import Equations, n_rows
from causal_reft.seeds import numpy_stream


@dataclass(frozen=True)
class Pairs:
    """Input columns of base settings and, per variable, of the source settings it takes its value from."""

    base: Columns
    sources: dict[str, Columns]

    def __len__(self) -> int:
        return n_rows(self.base)

    def take(self, rows: np.ndarray) -> Pairs:
        """These rows; variables that share one source go on sharing it."""
        taken = {id(source): pick(source, rows) for source in self.sources.values()}
        return Pairs(pick(self.base, rows), {name: taken[id(source)] for name, source in self.sources.items()})

    def __add__(self, more: Pairs) -> Pairs:
        joined = {id(s): stack(s, more.sources[name]) for name, s in self.sources.items()}
        return Pairs(stack(self.base, more.base), {name: joined[id(s)] for name, s in self.sources.items()})


def pick(columns: Columns, rows: np.ndarray) -> Columns:
    """These rows of every column."""
    return {name: column[rows] for name, column in columns.items()}


def stack(above: Columns, below: Columns) -> Columns:
    """One set of columns under another."""
    return {name: np.concatenate([column, below[name]]) for name, column in above.items()}


@dataclass(frozen=True, eq=False)
class Sampler:
    """Draws pairs for some variables of a causal model, from all settings or from a pool of them."""

    model: Equations
    variables: tuple[str, ...]
    seed: int
    pool: Columns | None = None
    shared_source: bool = False

    def draw(self, n: int, round_: int = 0) -> Pairs:
        """n pairs, base and sources independent; the round number continues the same seed."""
        base = self._settings(n, numpy_stream(self.seed, "base", round_))
        if self.shared_source:
            source = self._settings(n, numpy_stream(self.seed, "source", round_))
            return Pairs(base, dict.fromkeys(self.variables, source))
        streams = {name: numpy_stream(self.seed, "source", name, round_) for name in self.variables}
        return Pairs(base, {name: self._settings(n, stream) for name, stream in streams.items()})

    def _settings(self, n: int, stream: np.random.Generator) -> Columns:
        if self.pool is None:
            return self.model.draw(n, stream)
        return pick(self.pool, stream.integers(n_rows(self.pool), size=n))


def outcome(model: Equations, pairs: Pairs, names: Mapping[str, str] | None = None) -> Columns:
    """Every variable of the model under the interchange; `names` renames the variables for a rival model."""
    names = {name: name for name in pairs.sources} if names is None else names
    fixed = {names[name]: model.compute(source)[names[name]] for name, source in pairs.sources.items()}
    return model.compute(pairs.base, fixed)


def differs(left: Columns, right: Columns, outputs: tuple[str, ...]) -> np.ndarray:
    """Rows where any of these outputs is not the same: "rows" of bool."""
    return np.any([~equal_rows(left[name], right[name]) for name in outputs], axis=0)
