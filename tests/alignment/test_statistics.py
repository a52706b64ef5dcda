"""Intervals cover with few seeds and shared entities, tests keep their level, the best of many cells is corrected."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

from causal_reft.alignment.metrics import Means
from causal_reft.alignment.statistics import (
    DIFFERENCE,
    UNBOUNDED,
    Interval,
    binomial_interval,
    holm,
    mean_interval,
    paired_p,
    percentile,
    separation,
)
from causal_reft.alignment.variance import Factors, SeedVariance, Spread
from causal_reft.errors import DataError

STREAM = np.random.default_rng


@pytest.mark.parametrize("level", [0.95, 0.5])
def test_an_interval_of_one_fit_is_wilsons_with_the_effective_sample_size(level):
    values = STREAM(0).integers(2, size=60).astype(float)
    found, p = mean_interval(values, np.arange(60), level), values.mean()
    variance = p * (1 - p) * (1 / 59 + 1 / 60**2)
    z2_over_n = stats.t.ppf(0.5 + level / 2, 59) ** 2 * variance / (p * (1 - p))
    plain = (p + z2_over_n / 2 + np.sqrt(z2_over_n) * np.sqrt(p * (1 - p) + z2_over_n / 4) * np.array([-1, 1])) / (
        1 + z2_over_n
    )
    assert (found.value, found.rows, found.clusters) == (p, 60, 60)
    np.testing.assert_allclose([found.low, found.high], plain, rtol=1e-12)


def test_a_mean_of_many_unbounded_scores_has_the_t_interval():
    values = np.concatenate([x := STREAM(0).normal(size=50), -x])
    found = mean_interval(values, np.arange(100), bounds=UNBOUNDED)
    plain = stats.t.interval(0.95, 99, 0, values.std(ddof=1) / 10)
    np.testing.assert_allclose([found.low, found.high], plain, rtol=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("level", [0.95, 0.8])
def test_the_limits_of_an_interval_are_where_the_test_has_half_of_what_is_left(level, sign):
    """Also with a long tail, on whose side both are corrected."""
    values = sign * STREAM(0).gamma(0.3, size=25)
    found = mean_interval(values, np.arange(25), level, bounds=UNBOUNDED)
    for shifted in (values - found.low, found.high - values):
        assert paired_p(shifted, np.arange(25), one_sided=True, bounds=UNBOUNDED) == pytest.approx((1 - level) / 2)
    t = 25**0.5 * abs(values.mean()) / values.std(ddof=1)
    below, above = found.value - found.low, found.high - found.value
    assert (
        max(below, above)
        > 1.2 * min(below, above)
        == pytest.approx(1.2 * stats.t.ppf(0.5 + level / 2, 24) * abs(values.mean()) / t, rel=0.03)
    )


def test_a_two_sided_test_is_twice_the_smaller_side_and_a_t_test_without_skewness():
    x = STREAM(1).normal(0.2, 1, size=20)
    values = np.concatenate([x, 0.5 - x])  # symmetric around 0.25
    two = paired_p(values, np.arange(40), bounds=UNBOUNDED)
    assert two == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=1e-2)
    sides = [paired_p(s * values, np.arange(40), one_sided=True, bounds=UNBOUNDED) for s in (1, -1)]
    assert two == 2 * min(sides) and two == paired_p(-values, np.arange(40), bounds=UNBOUNDED) and max(sides) > 0.5
    assert paired_p(np.zeros(4), np.arange(4)) == 1


@pytest.mark.parametrize("gap", [0.03, 0.4])
def test_p_of_a_separation_has_the_degrees_of_freedom_of_its_two_variances(gap):
    """Satterthwaite's, of rows and of seeds pooled over the cells."""
    stream, rows = STREAM(0), np.arange(30)
    scores = (stream.random((3, 30)) < np.array([[0.5 - gap], [0.55], [0.5 + gap]])).astype(float)
    control = (stream.random((1, 30)) < 0.3).astype(float)
    pooled = SeedVariance.pooled([scores, scores[::-1]], rows)
    differences = scores.mean(0) - control
    spread = Spread.of(differences, scores, Factors.of(rows), DIFFERENCE)
    between = max(pooled.value, spread.seeds - spread.residual, 0.0)
    v_rows, t = float(spread.rows[0]), differences.mean() / np.sqrt(spread.rows[0] + between)
    a = float(spread.skewness[0])
    corrected = t + a * t**2 / 3 + a**2 * t**3 / 27 + a / 6
    df = (v_rows + between) ** 2 / (v_rows**2 / spread.df[0] + between**2 / pooled.df)
    found = separation(scores, {"pca": control}, rows, seeds=pooled)
    assert found.p == pytest.approx(stats.t.sf(min(t, corrected), df), rel=1e-9)
    assert separation(scores, {"pca": control}, rows).p > 0


def test_the_upper_end_of_a_separation_holds_for_all_controls_at_once():
    stream = STREAM(0)
    score, control = ((stream.random((1, 60)) < p).astype(float) for p in (0.7, 0.5))
    one, twenty = (separation(score, {"random": np.repeat(control, n, 0)}, np.arange(60)) for n in (1, 20))
    assert (one.value, one.low, one.p) == (twenty.value, twenty.low, twenty.p) and one.high + 0.02 < twenty.high
    narrow = separation(score, {"random": control}, np.arange(60), level=0.5)
    wide = separation(score, {"random": control}, np.arange(60))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_means_of_kinds_are_separated_by_the_rows_that_count():
    kinds, weights = np.array(["cause"] * 8 + ["isolate"] * 4), np.repeat([1 / 8, 1 / 4], [8, 4])
    score = np.repeat([[1.0, 0.0]], [8, 4], axis=1)
    of_cause = separation(score, {"no_edit": np.zeros((1, 12))}, np.arange(12), means=Means.of("cause", kinds, weights))
    alone = separation(score[:, :8], {"no_edit": np.zeros((1, 8))}, np.arange(8))
    assert of_cause == alone


def test_equal_unbounded_scores_of_several_clusters_are_a_point():
    found = mean_interval(np.full(5, 2.5), np.arange(5), bounds=UNBOUNDED)
    assert (found.low, found.value, found.high) == (2.5, 2.5, 2.5)


def test_the_exact_interval_of_a_rate():
    assert binomial_interval(40, 40) == pytest.approx((0.025 ** (1 / 40), 1))
    assert binomial_interval(1, 1, 0.5) == pytest.approx((0.25, 1)) and binomial_interval(0, 40)[0] == 0


def test_seeds_that_differ_close_to_the_end_of_the_scale_are_warned_of():
    rows = np.arange(200)
    for shares, warned in (((1.0, 0.88, 1.0), True), ((0.0, 0.12, 0.0), True), ((0.6, 0.4, 0.6), False)):
        scores = np.stack([(rows < 200 * share).astype(float) for share in shares])
        found = mean_interval(scores, rows)
        assert ("3 seeds differ close to the end" in found.warning) is warned
    assert "close" not in mean_interval(scores * 0 + 1, rows).warning
    for bases, few in ((9, True), (10, False)):
        clusters = {"pair": rows, "base": rows % bases}
        assert (f"only {bases} levels of base" in mean_interval(scores[0], clusters).warning) is few


def test_the_variance_of_crossed_entities_is_that_of_cameron_gelbach_and_miller():
    stream = STREAM(1)
    base, source = stream.integers(6, size=80), stream.integers(9, size=80)
    values = stream.normal(size=6)[base] + stream.normal(size=9)[source] + stream.normal(size=80)
    factors = Factors.of({"pair": np.arange(80), "base": base, "source": source})
    found = Spread.of(values[None], values[None], factors, UNBOUNDED)
    residuals = values - values.mean()

    def one_way(labels):
        sums = np.array([residuals[labels == level].sum() for level in np.unique(labels)])
        levels = 80**2 / (np.unique(labels, return_counts=True)[1] ** 2).sum()
        return (sums**2).sum() / 80**2 * levels / (levels - 1)

    pair, bases, sources = one_way(np.arange(80)), one_way(base), one_way(source)
    assert bases > pair
    assert sources > pair
    assert found.rows[0] == pytest.approx(bases + sources - pair, rel=1e-12)
    assert 4 < found.df[0] < 8


def test_rows_of_one_cluster_are_one_observation():
    values = STREAM(0).integers(2, size=40).astype(float)
    one = mean_interval(values, np.arange(40))
    repeated = mean_interval(np.repeat(values, 25), np.repeat(np.arange(40), 25))
    np.testing.assert_allclose((repeated.low, repeated.high), (one.low, one.high), rtol=1e-12)
    naive = mean_interval(np.repeat(values, 25), np.arange(1000))
    assert naive.high - naive.low < 0.3 * (one.high - one.low)


def test_all_right_is_not_certainty():
    found = mean_interval(np.ones(40), np.arange(40))
    assert found.value == found.high == 1
    assert found.low == pytest.approx(0.025 ** (1 / 40))


def test_forty_right_in_one_seed_and_wrong_in_the_other_says_nothing():
    found = mean_interval(np.repeat([[1.0], [0.0]], 40, axis=1), np.arange(40))
    assert found.value == 0.5
    assert found.low < 0.05
    assert found.high > 0.95


def test_one_cluster_says_nothing_of_others():
    found = mean_interval(np.array([1.0, 1.0, 1.0, 0.0]), np.zeros(4))
    assert (found.value, found.clusters) == (0.75, 1)
    assert found.low < 0.05
    assert found.high > 0.95
    assert "one pair" in found.warning


def test_one_pair_of_difference_one_says_nothing():
    found = mean_interval(np.ones(1), np.arange(1), bounds=DIFFERENCE)
    assert (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx(1 - 0.975 * 2)
    assert paired_p(np.ones(1), np.arange(1), one_sided=True) == 0.5
    unbounded = mean_interval(np.ones(1), np.arange(1), bounds=UNBOUNDED)
    assert (unbounded.low, unbounded.high) == (-np.inf, np.inf)


def test_all_right_against_all_wrong_in_eight_pairs_is_a_sign_test():
    found = separation(np.ones((1, 8)), {"no_edit": np.zeros((1, 8))}, np.arange(8))
    assert (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx(1 - 2 * (1 - 0.025 ** (1 / 8)))
    assert found.p == pytest.approx(0.5**8)


def test_the_same_answers_in_every_pair_of_few_bases_count_as_few():
    base = np.repeat(np.arange(4), 10)
    found = mean_interval(np.ones(40), {"pair": np.arange(40), "base": base})
    assert found.low == pytest.approx(0.025 ** (1 / 4))
    assert "only 4 levels of base" in found.warning


def test_one_seed_warns_and_one_fit_does_not():
    rows = STREAM(0).integers(2, size=(1, 40)).astype(float)
    assert "1 seed" in mean_interval(rows, np.arange(40)).warning
    assert mean_interval(rows[0], np.arange(40)).warning == ""


def test_missing_rows_are_left_out_where_they_may_be_missing():
    found = mean_interval(np.array([1.0, np.nan, 0.0, 1.0]), np.arange(4), missing=True)
    assert (found.value, found.rows, found.clusters) == (2 / 3, 3, 3)
    assert (found.low, found.high) == pytest.approx(
        (lambda kept: (kept.low, kept.high))(mean_interval(np.array([1.0, 0.0, 1.0]), np.arange(3)))
    )
    nothing = mean_interval(np.full(3, np.nan), np.arange(3), missing=True)
    assert isinstance(nothing, Interval)
    assert np.isnan([nothing.value, nothing.low, nothing.high]).all()
    assert (nothing.rows, nothing.clusters) == (0, 0)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1.5, -0.5])
def test_a_score_that_is_none_is_named_with_its_row(wrong):
    scores = np.ones((2, 5))
    scores[1, 3] = wrong
    with pytest.raises(DataError, match="Row 3 of series 1"):
        mean_interval(scores, np.arange(5))
    with pytest.raises(DataError, match="Row 3 of series 1"):
        separation(scores, {"no_edit": np.zeros((1, 5))}, np.arange(5))
    with pytest.raises(DataError, match="Row 3 of series 1"):
        separation(np.ones((1, 5)), {"random": scores}, np.arange(5))
    with pytest.raises(DataError, match="Row 3"):
        paired_p(np.where(scores[1] == 1, 1, wrong * np.inf), np.arange(5))


def _studies(seed, n_studies, n_seeds, base, source, middle, spread):
    """Answers "study seed row" whose log-odds sum effects of row, base, source (1 each) and seed (spread)."""
    stream = STREAM(seed)
    entities = stream.normal(size=(n_studies, 1, base.max() + 1))[..., base]
    entities = entities + stream.normal(size=(n_studies, 1, source.max() + 1))[..., source]
    log_odds = middle + entities + spread * stream.normal(size=(n_studies, n_seeds, 1))
    return (stream.random((n_studies, n_seeds, len(base))) < special.expit(log_odds)).astype(float)


@pytest.mark.parametrize("n_seeds", [2, 3, 5])
def test_intervals_cover_with_few_seeds_that_differ_much(n_seeds):
    rows = np.arange(40)
    found = [mean_interval(x, rows) for x in _studies(n_seeds, 250, n_seeds, rows, rows, 0.0, 1.5)]
    assert np.mean([x.low <= 0.5 <= x.high for x in found]) >= 0.93


def test_intervals_cover_where_pairs_share_few_bases_and_sources():
    base, source = np.repeat(np.arange(10), 10), np.tile(np.arange(10), 10)
    clusters = {"pair": np.arange(100), "base": base, "source": source}
    studies = _studies(7, 250, 1, base, source, 0.0, 0.0)
    found = [mean_interval(x[0], clusters) for x in studies]
    naive = [mean_interval(x[0], np.arange(100)) for x in studies]
    assert np.mean([x.low <= 0.5 <= x.high for x in found]) >= 0.93
    assert np.mean([x.low <= 0.5 <= x.high for x in naive]) < 0.75


def test_a_paired_test_keeps_its_level_where_pairs_share_entities():
    stream, base, source = STREAM(0), np.repeat(np.arange(10), 10), np.tile(np.arange(10), 10)
    clusters = {"pair": np.arange(100), "base": base, "source": source}
    null = [
        np.clip(stream.normal(size=10)[base] + stream.normal(size=10)[source] + stream.normal(size=100), -4, 4) / 4
        for _ in range(250)
    ]
    assert 0.005 <= np.mean([paired_p(x, clusters) < 0.05 for x in null]) <= 0.08
    assert np.mean([paired_p(x, np.arange(100)) < 0.05 for x in null]) > 0.2


def test_seeds_widen_the_interval():
    stream = STREAM(0)
    rows = stream.integers(2, size=(1, 200)).astype(float)
    same = np.repeat(rows, 5, axis=0)
    shifted = np.clip(same + np.array([-1, -1, 0, 1, 1])[:, None] * (stream.random(200) < 0.4), 0, 1)
    narrow, wide = (mean_interval(scores, np.arange(200)) for scores in (same, shifted))
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_separation_is_from_the_best_draw_of_the_best_control():
    stream, clusters = STREAM(0), np.arange(300)
    score = (stream.random((3, 300)) < 0.9).astype(float)
    controls = {
        "no_edit": np.zeros((1, 300)),
        "random": (stream.random((20, 300)) < np.linspace(0.2, 0.6, 20)[:, None]).astype(float),
    }
    found = separation(score, controls, clusters)
    assert found.best_control == "random"
    assert found.value == pytest.approx(score.mean() - controls["random"].mean(1).max())
    assert 0 < found.low < found.value < found.high
    assert found.p < 0.01
    nothing = separation(controls["random"][:1], controls, clusters)
    assert nothing.low < nothing.value < 0
    assert nothing.p > 0.5


def test_the_interval_of_a_separation_holds_its_estimate_and_the_truth():
    stream, inside, covered = STREAM(5), [], []
    for _ in range(150):
        score = (stream.random((2, 40)) < 0.6).astype(float)
        found = separation(score, {"random": (stream.random((20, 40)) < 0.6).astype(float)}, np.arange(40))
        inside.append(found.low <= found.value <= found.high)
        covered.append(found.low <= 0 <= found.high)
    assert all(inside)
    assert np.mean(covered) >= 0.95


def test_a_score_is_separate_where_it_is_above_every_control():
    stream = STREAM(0)
    score = (stream.random((1, 60)) < 0.8).astype(float)
    controls = (stream.random((3, 60)) < 0.5).astype(float)
    single = [separation(score, {"one": rows[None]}, np.arange(60)) for rows in controls]
    found = separation(score, {"all": controls}, np.arange(60))
    assert found.p == max(x.p for x in single)
    assert found.low == min(x.low for x in single)


def test_a_paired_test_keeps_its_level():
    stream = STREAM(2)
    p = np.array([paired_p(stream.normal(size=30), np.arange(30), bounds=UNBOUNDED) for i in range(300)])
    assert 0.02 <= (p < 0.05).mean() <= 0.08


def test_the_best_of_twenty_cells_is_corrected():
    stream, rejected, naive = STREAM(3), 0, 0
    for _ in range(60):
        p = np.array(
            [paired_p(cell, np.arange(30), one_sided=True, bounds=UNBOUNDED) for cell in stream.normal(size=(20, 30))]
        )
        rejected += holm(p).min() < 0.05
        naive += p.min() < 0.05
    assert rejected / 60 <= 0.1
    assert naive / 60 > 0.4


def test_holm_by_hand():
    np.testing.assert_allclose(holm(np.array([0.03, 0.01, 0.02, 0.9])), [0.06, 0.04, 0.06, 0.9])
    assert holm(np.array([0.4, 0.6])).tolist() == [0.8, 0.8]


def test_holm_is_that_of_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p = STREAM(0).random(30) ** 4
    np.testing.assert_allclose(holm(p), multitest.multipletests(p, method="holm")[1], rtol=1e-12)


@pytest.mark.parametrize("n", [20, 80])
def test_the_correction_holds_for_differences_with_a_long_tail_to_the_left(n):
    stream, rejected = STREAM(n), 0
    for _ in range(50):
        cells = np.where(stream.random((20, n)) < 0.9, 0.1, -0.9)
        rejected += holm(np.array([paired_p(cell, np.arange(n), one_sided=True) for cell in cells])).min() < 0.05
    assert rejected / 50 <= 0.08


def test_the_correction_holds_over_seeds_that_differ():
    stream, rows, called = STREAM(4), np.arange(100), 0
    for _ in range(40):
        control = {"pca": (stream.random((1, 100)) < 0.5).astype(float)}
        cells = _studies(int(stream.integers(1 << 30)), 20, 2, rows, rows, 0.0, 0.7)
        pooled = SeedVariance.pooled(cells, rows)
        called += holm(np.array([separation(x, control, rows, seeds=pooled).p for x in cells])).min() < 0.05
    assert called / 40 <= 0.1


def test_a_percentile_counts_ties_half():
    assert percentile(2.0, np.array([1, 2, 2, 2])) == 62.5
    assert [percentile(x, np.array([1, 3])) for x in (0.0, 2.0, 3.0, 4.0)] == [0, 50, 75, 100]


def test_cells_of_one_seed_do_not_thin_out_the_variance_between_seeds():
    rows = np.arange(20)
    scores = (np.random.default_rng(0).random((3, 20)) < np.array([[0.2], [0.5], [0.9]])).astype(float)
    assert SeedVariance.pooled([scores, scores[:1]], rows) == SeedVariance.pooled([scores], rows)
