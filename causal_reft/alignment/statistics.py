"""How sure a score is: intervals, paired tests and simultaneous tests, with base/source pairs as the unit of chance.

Rows that show the network the same pair of prompts are one observation, so clusters are resampled and not rows; several
seeds are resampled beside them. A score in which no cluster differs from any other has no spread to resample; its
interval is the exact binomial one (Clopper and Pearson 1934), so that 40 of 40 is never reported as "1.00 [1.00,
1.00]".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from causal_reft.seeds import numpy_stream

LEVEL = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A mean over rows and where it plausibly lies."""

    value: float
    low: float
    high: float
    rows: int
    clusters: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Clustered:
    """Rows as sums over clusters: `sums` "score cluster", `counts` "cluster"."""

    sums: np.ndarray
    counts: np.ndarray

    @staticmethod
    def of(values: np.ndarray, clusters: np.ndarray) -> Clustered:
        """Scores "score rows" (or "rows") of rows in these clusters; the rows must have no nan."""
        codes = np.unique(clusters, return_inverse=True)[1]
        table = np.atleast_2d(np.asarray(values, dtype=float))
        counts = np.bincount(codes).astype(float)
        return Clustered(np.stack([np.bincount(codes, row) for row in table]), counts)

    @property
    def means(self) -> np.ndarray:
        """The mean over rows of each score: "score"."""
        return self.sums.sum(1) / self.counts.sum()

    def resampled(self, weights: np.ndarray) -> np.ndarray:
        """The same under resampled clusters, weights "resample cluster": "resample score"."""
        return (weights @ self.sums.T) / (weights @ self.counts)[:, None]


def mean_interval(
    values: np.ndarray, clusters: np.ndarray, seed: int = 0, level: float = LEVEL, share: bool = True
) -> Interval:
    """The mean of row scores (nan rows left out) with a cluster-bootstrap interval (BCa; Efron 1987).

    `share`: whether 0 and 1 are the ends of the scale, as for accuracies, and not for differences.
    """
    kept = ~np.isnan(values)
    if not kept.any():
        return Interval(np.nan, np.nan, np.nan, 0, 0)
    data = Clustered.of(values[kept], clusters[kept])
    sums, counts = data.sums[0], data.counts
    low, high = _degenerate(data, level, share) or _bootstrap(sums, counts, seed, level)
    return Interval(float(data.means[0]), low, high, int(counts.sum()), len(counts))


def crossed_interval(scores: np.ndarray, clusters: np.ndarray, seed: int = 0, level: float = LEVEL) -> Interval:
    """The mean over seeds and rows, "seed rows", with an interval from resampling both seeds and clusters."""
    data = Clustered.of(scores, clusters)
    pooled = Clustered(data.sums.mean(0, keepdims=True), data.counts)
    low, high = _degenerate(pooled, level) or np.quantile(
        _crossed(data, numpy_stream(seed, "crossed"))[0], _tails(level)
    )
    return Interval(float(pooled.means[0]), float(low), float(high), int(data.counts.sum()), len(data.counts))


def _crossed(data: Clustered, stream: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Means over resampled seeds and clusters "resample", and the cluster weights "resample cluster"."""
    n_seeds, n_clusters = data.sums.shape
    weights = stream.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=RESAMPLES).astype(float)
    seeds = stream.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=RESAMPLES) / n_seeds
    return (data.resampled(weights) * seeds).sum(1), weights


def _tails(level: float) -> tuple[float, float]:
    return (1 - level) / 2, (1 + level) / 2


def _bootstrap(sums: np.ndarray, counts: np.ndarray, seed: int, level: float) -> tuple[float, float]:
    def ratio(sums: np.ndarray, counts: np.ndarray, axis: int = -1) -> np.ndarray | np.floating:
        return sums.sum(axis) / counts.sum(axis)

    found = stats.bootstrap(
        (sums, counts),
        ratio,
        paired=True,
        vectorized=True,
        confidence_level=level,
        n_resamples=RESAMPLES,
        method="BCa",
        rng=numpy_stream(seed, "bootstrap"),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _degenerate(data: Clustered, level: float, share: bool = True) -> tuple[float, float] | None:
    """The interval where all clusters agree: binomial for all-right and all-wrong, a point for any other constant."""
    means = data.sums[0] / data.counts
    if np.ptp(means) > 1e-12 * max(1.0, abs(float(means[0]))):
        return None
    value, n = float(means[0]), len(means)
    if not share or value not in (0.0, 1.0):
        return value, value
    exact = stats.binomtest(round(value * n), n).proportion_ci(level, method="exact")
    return float(exact.low), float(exact.high)


@dataclass(frozen=True)
class Separation:
    """A score against the best of its controls: the difference, its interval, and a one-sided paired p-value."""

    value: float
    low: float
    high: float
    p: float
    best_control: str


def separation(
    scores: np.ndarray,
    controls: dict[str, np.ndarray],
    clusters: np.ndarray,
    seed: int = 0,
    level: float = LEVEL,
) -> Separation:
    """The mean score over seeds minus the best control, which is chosen anew in every resample.

    Args:
        scores: "seed rows": the same rows under each seed; seeds and clusters are both resampled.
        controls: name -> "draw rows"; the best draw of the best control counts, which errs on the side of the controls.
        clusters: "rows".
    """
    mine = Clustered.of(scores, clusters)
    theirs = {name: Clustered.of(rows, clusters) for name, rows in controls.items()}
    best = max(theirs, key=lambda name: theirs[name].means.max())
    value = float(mine.means.mean() - theirs[best].means.max())
    ours, weights = _crossed(mine, numpy_stream(seed, "separation"))
    rivals = np.max([part.resampled(weights).max(1) for part in theirs.values()], axis=0)
    low, high = np.quantile(ours - rivals, _tails(level))
    rival = controls[best][int(theirs[best].means.argmax())]
    p = paired_p(scores.mean(0) - rival, clusters, seed, one_sided=True)
    return Separation(value, float(low), float(high), p, best)


def paired_p(difference: np.ndarray, clusters: np.ndarray, seed: int = 0, one_sided: bool = False) -> float:
    """Whether a mean paired difference "rows" is zero: signs of whole clusters are flipped at random."""
    return float(max_statistic_p(difference[None], clusters, seed, one_sided)[0])


def max_statistic_p(differences: np.ndarray, clusters: np.ndarray, seed: int = 0, one_sided: bool = True) -> np.ndarray:
    """p-values of many paired differences "cell rows" at once, each against the *largest* statistic of all cells.

    They hold for the best cell of the grid, whichever that is (Westfall and Young 1993, single step). Signs are flipped
    by cluster, the same for all cells, so that what cells share is kept.
    """
    sums = Clustered.of(differences, clusters).sums
    scale = np.sqrt((sums**2).sum(1))
    flips = numpy_stream(seed, "sign flips").choice([-1.0, 1.0], size=(RESAMPLES, sums.shape[1]))
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = np.where(scale > 0, sums.sum(1) / scale, 0.0)
        null = np.where(scale > 0, flips @ sums.T / scale, 0.0)
    if not one_sided:
        observed, null = np.abs(observed), np.abs(null)
    most = null.max(1)
    return (1 + (most[:, None] >= observed - 1e-12).sum(0)) / (1 + len(most))


def percentile(score: float, draws: np.ndarray) -> float:
    """The share of draws that a score beats (ties count half), in percent."""
    return float(100 * ((draws < score).mean() + (draws == score).mean() / 2))


def binomial_interval(successes: int, trials: int, level: float = LEVEL) -> tuple[float, float]:
    """The exact interval of a rate."""
    found = stats.binomtest(successes, trials).proportion_ci(level, method="exact")
    return float(found.low), float(found.high)
