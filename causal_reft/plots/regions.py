"""A small linear discriminant analysis: classes as Gaussians with one shared covariance (Fisher 1936; Rao 1948).

    score_c(z) = z^T S^-1 m_c - m_c^T S^-1 m_c / 2 + log p_c

It draws the decision regions of a probe's picture; it is not a result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LinearRegions:
    """Class c wins where weights[c] @ z + offsets[c] is highest."""

    weights: np.ndarray
    offsets: np.ndarray

    def predict(self, z: np.ndarray) -> np.ndarray:
        """The winning class of each point, (n, d) -> (n,)."""
        return np.argmax(z @ self.weights.T + self.offsets, axis=1)


def fit_regions(z: np.ndarray, classes: np.ndarray, count: int) -> LinearRegions:
    """The regions of `count` classes from points (n, d) and their classes (n,); a class without points never wins."""
    present = [c for c in range(count) if (classes == c).any()]
    means = np.stack([z[classes == c].mean(0) for c in present])
    centred = z - means[np.searchsorted(present, classes)]
    scatter = centred.T @ centred / max(1, len(z) - len(present))
    scale = np.trace(scatter) / z.shape[1] or float(np.square(z - z.mean(0)).mean()) or 1.0
    inverse = np.linalg.inv(scatter + 1e-6 * scale * np.eye(z.shape[1]))
    weights, offsets = np.zeros((count, z.shape[1])), np.full(count, -np.inf)
    weights[present] = means @ inverse
    shares = np.array([(classes == c).mean() for c in present])
    offsets[present] = np.log(shares) - 0.5 * np.sum(weights[present] * means, axis=1)
    return LinearRegions(weights, offsets)


def held_out_accuracy(z: np.ndarray, classes: np.ndarray, count: int, folds: int = 5) -> float:
    """The share of points that regions fitted without them get right; nan where there are fewer points than folds."""
    if len(z) < folds or len(np.unique(classes)) < 2:
        return float("nan")
    fold = np.random.default_rng(0).permutation(len(z)) % folds
    right = np.zeros(len(z), dtype=bool)
    for held_out in (fold == k for k in range(folds)):
        regions = fit_regions(z[~held_out], classes[~held_out], count)
        right[held_out] = regions.predict(z[held_out]) == classes[held_out]
    return float(right.mean())
