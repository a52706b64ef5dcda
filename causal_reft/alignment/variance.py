"""How much a mean score would vary with other rows, other entities in them, and other seeds: variance components.

The variance of a mean over seeds and rows is a sum over crossed factors. Rows of one cluster (a base/source pair) are
one observation; clusters that share a base or a source are not independent either, so base and source are two further
factors (multiway clustering; Cameron, Gelbach and Miller 2011). Each factor's part has its own degrees of freedom: the
number of its levels less one. With few seeds that is what matters, so the half-width of an interval adds the parts
with a t quantile each (Graybill and Wang 1980) instead of one quantile for their sum:

    h(alpha)^2 = t_df(alpha)^2 V_rows + max(0, t_{S-1}(alpha)^2 V_seeds - z(alpha)^2 V_residual)

    V_rows      V_pair + max(0, V_base - V_pair) + max(0, V_source - V_pair), from scores averaged over seeds
    V_seeds     variance of the S seeds' means, divided by S
    V_residual  what V_seeds holds of the noise of seed x pair, which V_rows counts already
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import special

TINY = 1e-24


@dataclass(frozen=True, eq=False)
class Factor:
    """A partition of the rows by `labels`: in sorted order the levels start at `starts` and have `counts` rows."""

    name: str
    labels: np.ndarray
    order: np.ndarray
    starts: np.ndarray
    counts: np.ndarray

    @staticmethod
    def of(name: str, labels: np.ndarray) -> Factor:
        """Rows with equal labels "rows" form one level."""
        codes = np.unique(labels, return_inverse=True)[1]
        counts = np.bincount(codes)
        return Factor(name, codes, np.argsort(codes, kind="stable"), np.cumsum(counts) - counts, counts)

    @property
    def n_levels(self) -> int:
        """How many levels."""
        return len(self.counts)

    @cached_property
    def effective(self) -> float:
        """The number of levels of equal size that vary as much (Carter, Schnepel and Steigerwald 2017)."""
        return float(self.counts.sum() ** 2 / (self.counts.astype(float) ** 2).sum())

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sums over the rows of each level, "... rows" -> "... level"."""
        return np.add.reduceat(values[..., self.order], self.starts, axis=-1)

    def variance(self, residuals: np.ndarray) -> np.ndarray:
        """The variance of a mean from its residuals "... rows", unbiased for levels of equal size."""
        n = self.counts.sum()
        return (self.sums(residuals) ** 2).sum(-1) / n**2 * self.effective / (self.effective - 1)


@dataclass(frozen=True)
class Factors:
    """The units of a study's rows and the factors that cross them; factors with one level say nothing and are apart.

    Attributes:
        unit: the clusters, which are whole observations.
        crossed: what clusters share.
        single: names of the factors that have the same level in every row.
    """

    unit: Factor
    crossed: tuple[Factor, ...]
    single: tuple[str, ...]

    @staticmethod
    def of(clusters: Clusters) -> Factors:
        """Clusters "rows", or several factors by name, the clusters first."""
        if isinstance(clusters, Factors):
            return clusters
        named = clusters if isinstance(clusters, Mapping) else {"pair": clusters}
        unit, *others = (Factor.of(name, labels) for name, labels in named.items())
        single = tuple(factor.name for factor in (unit, *others) if factor.n_levels == 1)
        return Factors(unit, tuple(factor for factor in others if factor.n_levels > 1), single)

    def among(self, rows: np.ndarray | slice) -> Factors:
        """The same of some of the rows, "rows" of bool or a slice."""
        named = (self.unit, *self.crossed)
        return Factors.of({factor.name: factor.labels[rows] for factor in named})

    @property
    def fewest(self) -> float:
        """The smallest effective number of levels of any factor."""
        return min(factor.effective for factor in (self.unit, *self.crossed))


Clusters = np.ndarray | Mapping[str, np.ndarray] | Factors


@dataclass(frozen=True)
class Spread:
    """The variance of means over seeds and rows, by where it comes from; arrays are "score", of one set of seeds.

    Attributes:
        mean: over seeds and rows.
        agreed: whether nothing varies.
        rows, df: V_rows and its degrees of freedom.
        seeds, residual: V_seeds and V_residual; zero where there is one seed.
        n_seeds: S.
        skewness: of the clusters' sums, divided by the square root of their number.
    """

    mean: np.ndarray
    agreed: np.ndarray
    rows: np.ndarray
    df: np.ndarray
    seeds: float
    residual: float
    n_seeds: int
    skewness: np.ndarray

    @staticmethod
    def of(averaged: np.ndarray, seeds: np.ndarray, factors: Factors, bounds: tuple[float, float]) -> Spread:
        """Of scores averaged over seeds, "score rows", whose seeds all differ as "seed rows"; at least two clusters.

        One more cluster at either end of the scale would add (high - mean) (mean - low) / clusters^2 to the variance:
        that much is added, so that a few equal clusters are no certainty.
        """
        mean = averaged.mean(1)
        residuals = averaged - mean[:, None]
        rows, df = _rows(residuals, factors)
        unseen = (bounds[1] - mean) * (mean - bounds[0]) / factors.unit.effective**2 if np.isfinite(bounds).all() else 0
        between, residual = _seeds(seeds, factors.unit)
        skewness = _skewness(factors.unit.sums(residuals))
        return Spread(mean, rows + between <= TINY, rows + unseen, df, between, residual, len(seeds), skewness)

    def half_width(self, alpha: float, means: int = 1) -> np.ndarray:
        """h of a two-sided interval of level 1 - alpha, or of `means` intervals at once (Bonferroni over the rows)."""
        tail = 1 - alpha / 2 / means
        rows = special.stdtrit(self.df, tail) ** 2 * self.rows
        if self.n_seeds == 1:
            return np.sqrt(rows)
        tail = 1 - alpha / 2
        seeds = special.stdtrit(self.n_seeds - 1, tail) ** 2 * self.seeds - special.ndtri(tail) ** 2 * self.residual
        return np.sqrt(rows + max(seeds, 0))


@dataclass(frozen=True)
class SeedVariance:
    """V_seeds - V_residual, estimated from several scores with the same number of seeds, and its degrees of freedom."""

    value: float
    df: float

    @staticmethod
    def pooled(scores: Iterable[np.ndarray], clusters: Clusters) -> SeedVariance:
        """The mean over scores, each "seed rows". One seed has no variance, and is left out."""
        factors, tables = Factors.of(clusters), list(scores)
        df = float(sum(len(table) - 1 for table in tables))
        if df == 0 or factors.unit.n_levels == 1:
            return SeedVariance(0.0, 1.0)
        found = [_seeds(table, factors.unit) for table in tables if len(table) > 1]
        return SeedVariance(max(0.0, float(np.mean([seeds - residual for seeds, residual in found]))), df)


def _rows(residuals: np.ndarray, factors: Factors) -> tuple[np.ndarray, np.ndarray]:
    """V_rows and its degrees of freedom: those of the parts, each weighted with its part of the variance."""
    unit = factors.unit.variance(residuals)
    total, weighted = unit, unit / (factors.unit.effective - 1)
    for factor in factors.crossed:
        more = np.maximum(factor.variance(residuals) - unit, 0)
        total, weighted = total + more, weighted + more / (factor.effective - 1)
    df = np.full_like(total, factors.fewest - 1)
    return total, np.divide(total, weighted, out=df, where=weighted > 0)


def _seeds(scores: np.ndarray, unit: Factor) -> tuple[float, float]:
    """V_seeds and V_residual of scores "seed rows"."""
    n_seeds, n = scores.shape
    if n_seeds == 1:
        return 0.0, 0.0
    means = scores.mean(1)
    residuals = scores - scores.mean(0) - (means - means.mean())[:, None]
    small = unit.effective / (unit.effective - 1) * n_seeds / (n_seeds - 1)
    return float(means.var(ddof=1)) / n_seeds, float(small * (unit.sums(residuals) ** 2).sum() / (n_seeds * n) ** 2)


def _skewness(sums: np.ndarray) -> np.ndarray:
    squares = sums * sums
    second, third = squares.mean(1), (squares * sums).mean(1)
    return np.divide(third, second**1.5, out=np.zeros_like(second), where=second > TINY) / np.sqrt(sums.shape[1])
