"""How sure a score is: intervals and paired tests that hold with few seeds and with rows that share their entities.

Where the variance comes from is `variance`. The shape of an interval depends on the scale:

    a share of rows, in [0, 1]     Wilson's interval (1927) with the effective sample size p (1 - p) (z / h)^2, where h
                                   is the half-width of the t interval (Korn and Graubard 1998)
    any other mean, differences    mean -+ h, lengthened on the side of a long tail (Hall 1992)
    all clusters agree             nothing varies, so an unseen share of the population, up to 1 - (alpha/2)^(1/n) of
                                   it (Clopper and Pearson 1934), may be anywhere: 40 of 40 is [0.91, 1]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from causal_reft.alignment.metrics import Means
from causal_reft.alignment.variance import Clusters, Factors, SeedVariance, Spread
from causal_reft.errors import DataError

LEVEL = 0.95
SHARE, DIFFERENCE, UNBOUNDED = (0.0, 1.0), (-1.0, 1.0), (-np.inf, np.inf)
NO_SEEDS = SeedVariance(0.0, 1.0)
FEW_LEVELS, NEAR = 10, 0.1


@dataclass(frozen=True)
class Interval:
    """A mean over rows (and seeds) and where it plausibly lies; `warning` says why the interval may be too short."""

    value: float
    low: float
    high: float
    rows: int
    clusters: int
    warning: str = ""

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Separation:
    """A score against the best of its controls: the difference, its interval, and a one-sided paired p-value."""

    value: float
    low: float
    high: float
    p: float
    best_control: str


def mean_interval(
    scores: np.ndarray,
    clusters: Clusters,
    level: float = LEVEL,
    bounds: tuple[float, float] = SHARE,
    missing: bool = False,
    means: Means | None = None,
) -> Interval:
    """The mean of scores and its interval.

    Args:
        scores: "rows" of one fit, whose interval is about other rows; or "seed rows", about other seeds too.
        clusters: "rows", equal for rows of one base/source pair; or by name, the pairs first and then what pairs
            share: `{"pair": ..., "base": ..., "source": ...}`.
        bounds: the ends of the scale; `SHARE`, `DIFFERENCE` (of two shares) or `UNBOUNDED`.
        missing: whether rows may be nan (in all seeds) and are then left out.
        means: which mean of the scores; by default over all rows. A mean that is not known is nan.

    Raises:
        DataError: a score that is nan, infinite or out of bounds.
    """
    table = np.atleast_2d(np.asarray(scores, dtype=float))
    if missing:
        kept = np.asarray(~np.isnan(table).all(axis=0))
        if not kept.any():
            return Interval(np.nan, np.nan, np.nan, 0, 0)
        table, clusters = table[:, kept], Factors.of(clusters).among(kept)
    _check(table, bounds)
    factors = Factors.of(clusters)
    if means is not None:
        if not means.is_known:
            return Interval(np.nan, np.nan, np.nan, 0, 0)
        table, factors = means.contributions(table), factors.among(means.rows)
    averaged = table.mean(0, keepdims=True)
    spread = None if factors.unit.n_levels == 1 else Spread.of(averaged, table, factors, bounds)
    low, high = _limits(averaged.mean(1), spread, factors, 1 - level, bounds)
    warning = "; ".join(_warnings(spread, factors, np.ndim(scores) == 2, bounds))
    return Interval(float(table.mean()), float(low[0]), float(high[0]), table.shape[1], factors.unit.n_levels, warning)


def separation(
    scores: np.ndarray,
    controls: Mapping[str, np.ndarray],
    clusters: Clusters,
    level: float = LEVEL,
    seeds: SeedVariance | None = None,
    means: Means | None = None,
) -> Separation:
    """The mean score minus that of the best control: the smallest of the differences from all controls.

    A score is above the best control where it is above each of them, so the lower end is the smallest of the lower ends
    and p the largest of the p-values, without a correction (intersection-union test; Berger 1982). The upper end is the
    smallest of the upper ends at once for all controls, because the best one was chosen on the same rows (intersection
    bounds; Chernozhukov, Lee and Rosen 2013). The difference itself lies inside.

    Args:
        scores: "seed rows"; with one seed the result is about other rows only.
        controls: name -> "draw rows"; the best draw of the best control counts.
        clusters: as for `mean_interval`.
        seeds: the variance between seeds, pooled over the cells of a grid, because a cell's own from 2 seeds says
            little. p uses the larger of the two, the interval the cell's own.
        means: which mean of the scores; by default over all rows.

    Raises:
        DataError: a score that is nan, infinite or out of [0, 1].
    """
    scores = np.asarray(scores, dtype=float)
    names = [name for name, rows in controls.items() for _ in rows]
    rivals = np.concatenate(list(controls.values())).astype(float)
    _check(scores, SHARE)
    _check(rivals, SHARE)
    factors = Factors.of(clusters)
    if means is not None:
        scores, rivals, factors = means.contributions(scores), means.contributions(rivals), factors.among(means.rows)
    differences = scores.mean(0) - rivals
    found = differences.mean(1)
    spread = None if factors.unit.n_levels == 1 else Spread.of(differences, scores, factors, DIFFERENCE)
    low, high = _limits(found, spread, factors, 1 - level, DIFFERENCE, len(rivals))
    p = _above_zero(found, spread, factors, DIFFERENCE, seeds or SeedVariance.pooled([scores], factors))
    best = int(found.argmin())
    return Separation(float(found[best]), float(low.min()), float(high.min()), float(p.max()), names[best])


def paired_p(
    difference: np.ndarray, clusters: Clusters, one_sided: bool = False, bounds: tuple[float, float] = DIFFERENCE
) -> float:
    """Whether a mean paired difference "rows" is zero (or, one-sided, not above zero).

    A t test over clusters (and what they share) with Hall's (1992) correction for skewness where that makes p larger.
    Where all clusters agree, p is the probability of so many clusters without one from the share that the null needs.
    """
    table = np.asarray(difference, dtype=float)[None]
    _check(table, bounds)
    factors = Factors.of(clusters)
    found = []
    sides = [(table, bounds), (-table, (-bounds[1], -bounds[0]))]
    for values, ends in sides[:1] if one_sided else sides:
        spread = None if factors.unit.n_levels == 1 else Spread.of(values, values, factors, ends)
        found.append(float(_above_zero(values.mean(1), spread, factors, ends)[0]))
    return min(1.0, len(found) * min(found))


def holm(p: np.ndarray) -> np.ndarray:
    """p-values corrected for there being many of them (Holm 1979).

    The chance that any true null falls below alpha is at most alpha, however the tests depend on each other.
    """
    order = np.argsort(p)
    steps = np.maximum.accumulate(np.asarray(p)[order] * np.arange(len(p), 0, -1))
    return np.minimum(steps, 1.0)[np.argsort(order)]


def percentile(score: float, draws: np.ndarray) -> float:
    """The share of draws that a score beats (ties count half), in percent."""
    return float(100 * ((draws < score).mean() + (draws == score).mean() / 2))


def binomial_interval(successes: int, trials: int, level: float = LEVEL) -> tuple[float, float]:
    """The exact interval of a rate."""
    found = stats.binomtest(successes, trials).proportion_ci(level, method="exact")
    return float(found.low), float(found.high)


def _limits(
    means: np.ndarray,
    spread: Spread | None,
    factors: Factors,
    alpha: float,
    bounds: tuple[float, float],
    at_once: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Lower ends, and upper ends that hold for `at_once` means at once, of means "score"."""
    flat = _agreed(means, factors.fewest, alpha, bounds)
    if spread is None:
        return flat
    low, high = (_wilson if bounds == SHARE else _skewed)(spread, alpha, at_once)
    low, high = np.where(spread.agreed, flat[0], low), np.where(spread.agreed, flat[1], high)
    return np.maximum(low, bounds[0]), np.minimum(high, bounds[1])


def _wilson(spread: Spread, alpha: float, means: int) -> tuple[np.ndarray, np.ndarray]:
    p, h = spread.mean, spread.half_width(alpha, means)
    scale = p * (1 - p)
    z2_over_n = np.divide(h**2, scale, out=np.zeros_like(h), where=scale > 1e-12)
    middle, half = p + z2_over_n / 2, np.sqrt(h**2 + z2_over_n**2 / 4)
    return (middle - half) / (1 + z2_over_n), (middle + half) / (1 + z2_over_n)


def _skewed(spread: Spread, alpha: float, means: int) -> tuple[np.ndarray, np.ndarray]:
    below, above = (_lengthened(spread, alpha, sign) for sign in (1, -1))
    return spread.mean - below * spread.half_width(alpha), spread.mean + above * spread.half_width(alpha, means)


def _lengthened(spread: Spread, alpha: float, sign: int) -> np.ndarray:
    """By how much a side is longer than h for a long tail there: the inverse of `_hall`, at least 1."""
    t = special.stdtrit(spread.df, 1 - alpha / 2)
    a = np.minimum(sign * spread.skewness, -1e-9)
    return np.maximum(1, 3 / a * (np.cbrt(1 + a * (t - a / 6)) - 1) / t)


def _hall(t: np.ndarray, a: np.ndarray) -> np.ndarray:
    """t of a mean of skewed values, a = skewness / sqrt(n): Hall's monotone cubic."""
    return t + a / 3 * t**2 + a**2 / 27 * t**3 + a / 6


def _agreed(mean: np.ndarray, n: float, alpha: float, bounds: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Limits where n clusters agree. Without ends of the scale: the point, or anywhere for a single cluster."""
    low, high = bounds
    if not np.isfinite(bounds).all():
        return (mean, mean) if n > 1 else (np.full_like(mean, low), np.full_like(mean, high))
    unseen = 1 - (alpha / 2) ** (1 / n)
    return mean - unseen * (mean - low), mean + unseen * (high - mean)


def _above_zero(
    means: np.ndarray,
    spread: Spread | None,
    factors: Factors,
    bounds: tuple[float, float],
    seeds: SeedVariance = NO_SEEDS,
) -> np.ndarray:
    """p of "the mean is not above zero" for each mean "score"."""
    share = np.maximum(means, 0) / (np.maximum(means, 0) - bounds[0])
    agreed = (1 - share) ** factors.fewest
    if spread is None:
        return agreed
    between = max(seeds.value, spread.seeds - spread.residual, 0.0)
    total = spread.rows + between
    with np.errstate(divide="ignore", invalid="ignore"):
        t = means / np.sqrt(total)
        df = total**2 / (spread.rows**2 / spread.df + between**2 / seeds.df)
        t = np.minimum(t, _hall(t, spread.skewness))
    return np.where(spread.agreed, agreed, special.stdtr(df, -t))


def _warnings(spread: Spread | None, factors: Factors, seeds: bool, bounds: tuple[float, float]) -> list[str]:
    """Where simulated studies show that intervals hold too little (see the documentation's table)."""
    found = [f"all rows share one {name}: the interval says nothing of others" for name in factors.single]
    found += [
        f"only {factor.n_levels} levels of {factor.name}"
        for factor in (factors.unit, *factors.crossed)
        if factor.n_levels > 1 and factor.effective < FEW_LEVELS
    ]
    if spread is None or not seeds:
        return found
    if spread.n_seeds == 1:
        return [*found, "1 seed: the interval says nothing of other seeds"]
    near = bounds == SHARE and min(spread.mean[0], 1 - spread.mean[0]) < NEAR
    if near and spread.seeds > spread.residual:
        found.append(f"{spread.n_seeds} seeds differ close to the end of the scale: a rare worse one may be missing")
    return found


def _check(scores: np.ndarray, bounds: tuple[float, float]) -> None:
    wrong = ~np.isfinite(scores) | (scores < bounds[0]) | (scores > bounds[1])
    if wrong.any():
        seed, row = (int(i) for i in np.argwhere(wrong)[0])
        raise DataError(
            f"Row {row} of series {seed} has the score {scores[seed, row]}; scores are finite numbers in "
            f"[{bounds[0]:g}, {bounds[1]:g}]. Look at the network's logits of that row."
        )
