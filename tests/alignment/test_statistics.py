"""Intervals cover, paired tests keep their level, the best of many cells is corrected for having been the best."""

from __future__ import annotations

import numpy as np
import pytest

from causal_reft.alignment.statistics import (
    crossed_interval,
    max_statistic_p,
    mean_interval,
    paired_p,
    percentile,
    separation,
)

STREAM = np.random.default_rng


def test_an_interval_is_a_cluster_bootstrap_of_the_mean_over_rows():
    values = np.array([1, 1, 1, 0, 0, 1, 0, 1, 1, 0, 1, 1], float)
    clusters = np.repeat(np.arange(4), 3)
    found = mean_interval(values, clusters)
    assert (found.value, found.rows, found.clusters) == (values.mean(), 12, 4)
    stream = STREAM(0)
    picks = stream.integers(4, size=(20_000, 4))
    sums, counts = values.reshape(4, 3).sum(1), np.full(4, 3)
    plain = np.quantile(sums[picks].sum(1) / counts[picks].sum(1), [0.025, 0.975])
    assert found.low == pytest.approx(plain[0], abs=0.1)
    assert found.high == pytest.approx(plain[1], abs=0.1)


def test_rows_of_one_cluster_are_one_observation():
    values = STREAM(0).integers(2, size=40).astype(float)
    alone = mean_interval(values, np.arange(40))
    repeated = mean_interval(np.repeat(values, 25), np.repeat(np.arange(40), 25))
    assert (repeated.low, repeated.high) == (alone.low, alone.high)
    naive = mean_interval(np.repeat(values, 25), np.arange(1000))
    assert naive.high - naive.low < 0.3 * (alone.high - alone.low)


def test_all_right_is_not_certainty():
    found = mean_interval(np.ones(40), np.arange(40))
    assert found.value == found.high == 1
    assert found.low == pytest.approx(0.025 ** (1 / 40))


def test_missing_rows_are_left_out():
    found = mean_interval(np.array([1.0, np.nan, 0.0, 1.0]), np.arange(4))
    assert (found.value, found.rows) == (2 / 3, 3)
    assert np.isnan(mean_interval(np.full(3, np.nan), np.arange(3)).value)


def test_intervals_of_permuted_labels_hold_chance_in_95_percent_of_200_studies():
    stream, n, covered = STREAM(1), 200, 0
    for _ in range(200):
        predictions, labels = stream.integers(2, size=n), stream.permutation(np.arange(n) % 2)
        found = mean_interval((predictions == labels).astype(float), np.arange(n))
        covered += found.low <= 0.5 <= found.high
    assert 0.92 <= covered / 200 <= 0.98


def test_seeds_widen_the_interval():
    stream = STREAM(0)
    rows = stream.integers(2, size=(1, 200)).astype(float)
    same = np.repeat(rows, 5, axis=0)
    shifted = np.clip(same + np.array([-1, -1, 0, 1, 1])[:, None] * (stream.random(200) < 0.4), 0, 1)
    narrow, wide = (crossed_interval(scores, np.arange(200)) for scores in (same, shifted))
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_separation_is_from_the_best_draw_of_the_best_control():
    stream, clusters = STREAM(0), np.arange(300)
    score = (stream.random((2, 300)) < 0.9).astype(float)
    controls = {
        "no_edit": np.zeros((1, 300)),
        "random": (stream.random((20, 300)) < np.linspace(0.2, 0.6, 20)[:, None]).astype(float),
    }
    found = separation(score, controls, clusters)
    assert found.best_control == "random"
    assert found.value == pytest.approx(score.mean() - controls["random"].mean(1).max())
    assert 0 < found.low < found.value < found.high + 0.05
    assert found.p < 0.01
    nothing = separation(controls["random"][:1], controls, clusters)
    assert nothing.high <= 0
    assert nothing.p > 0.5


def test_a_sign_flip_test_keeps_its_level():
    stream = STREAM(2)
    p = np.array([paired_p(stream.normal(size=30), np.arange(30), seed=i) for i in range(200)])
    assert 0.01 <= (p < 0.05).mean() <= 0.1


def test_the_best_of_forty_cells_is_corrected():
    stream, rejected, naive = STREAM(3), 0, 0
    for i in range(60):
        cells = stream.normal(size=(40, 30))
        rejected += max_statistic_p(cells, np.arange(30), seed=i).min() < 0.05
        naive += min(paired_p(cell, np.arange(30), i, one_sided=True) for cell in cells[:20]) < 0.05
    assert rejected / 60 <= 0.14
    assert naive / 60 > 0.4


def test_a_percentile_counts_ties_half():
    assert percentile(2.0, np.array([1, 2, 2, 3])) == 50
