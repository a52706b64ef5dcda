"""A planted truth is found, a planted illusion is named, and an absent variable separates from nothing."""

from __future__ import annotations

from functools import cache

import pytest
import torch

import causal_reft as cr
from causal_reft.alignment import Controls, Sampling, Study
from causal_reft.featurizers import Subspace, principal_angles
from causal_reft.training import Recipe
from tests.alignment import planted

RECIPE = Recipe(epochs=12, batch_size=150, lr=5e-2, schedule="cosine")
REPORTED = planted.counterfactuals(600, 100)


@pytest.fixture(scope="module")
def fitted():
    @cache
    def fit(kind: str, secret: int):
        network, found = planted.Planted(kind, secret), planted.alignment(seed=secret)
        found.fit(network, planted.counterfactuals(4000, secret), planted.ENCODING, recipe=RECIPE, progress=False)
        angle = principal_angles(found.graph.edits["left"].featurizer.rotation.detach(), network.direction)
        return network, found, float(angle)

    return fit


@pytest.mark.parametrize("secret", range(5))
def test_a_planted_truth_is_found(fitted, secret):
    network, found, angle = fitted("independent", secret)
    score = found.iia(network, REPORTED, planted.ENCODING, draws=20)
    assert float(score) >= 0.98
    assert angle < 3
    assert score.separation.low > 0.25


@pytest.mark.parametrize("secret", range(2))
def test_a_planted_illusion_is_named_although_its_accuracy_is_the_same(fitted, secret):
    network, found, angle = fitted("copies", secret)
    scores = found.records(network, REPORTED, planted.ENCODING)
    assert scores["iia"].mean() >= 0.98
    assert angle > 25
    report = found.illusion(network, REPORTED, planted.ENCODING)
    assert report.share_read < 0.85
    assert report.far > 0.5
    assert "a dormant part" in report.text
    assert "states that the network never has by itself" in report.text


def test_inside_what_is_read_two_seeds_find_one_direction_beside_inert_copies(fitted):
    network, data = planted.Planted("copies", 0), planted.counterfactuals(2000, 0)
    rows = cr.read_directions(network, planted.SITE, data, planted.ENCODING)
    assert rows.shape == (2, planted.WIDTH)

    def of_seed(featurizer: Subspace) -> torch.Tensor:
        edit = cr.Interchange(planted.SITE, featurizer, cr.Collect())
        found = cr.Alignment(planted.causal_model(), cr.InterventionGraph(left=edit))
        found.fit(network, data, planted.ENCODING, recipe=RECIPE, progress=False)
        assert found.records(network, REPORTED, planted.ENCODING)["iia"].mean() >= 0.98
        return featurizer.rotation.detach()

    one, two = (of_seed(Subspace.within(rows, 1, seed)) for seed in (0, 1))
    assert float(principal_angles(one, two)) < 1
    assert float(principal_angles(one, network.direction)) < 1
    everywhere = fitted("copies", 0)[1].graph.edits["left"].featurizer.rotation.detach()
    assert float(principal_angles(everywhere, of_seed(Subspace(planted.WIDTH, 1, 1)))) > 14


def test_the_illusion_report_has_nothing_to_say_of_the_truth(fitted):
    network, found, _ = fitted("independent", 0)
    report = found.illusion(network, REPORTED, planted.ENCODING)
    assert report.share_read > 0.98
    assert report.far < 0.05
    assert report.distance == pytest.approx(1, abs=0.1)
    assert "nearly all used" in report.text
    assert "they look like states of the network" in report.text
    assert "2 of 16 dimensions" in report.reading


def test_a_reading_matrix_may_be_given_or_looked_up(fitted):
    network, found, _ = fitted("copies", 0)
    estimated = found.illusion(network, REPORTED, planted.ENCODING).share_read
    given = found.illusion(network, REPORTED, planted.ENCODING, reading=network.read.weight)
    assert given.share_read == pytest.approx(estimated, abs=1e-4)
    there = planted.alignment(site=planted.SAME_SITE)
    assert "the weight of read" in there.illusion(network, REPORTED, planted.ENCODING).reading


def test_a_study_of_an_absent_variable_says_that_nothing_separates(tmp_path):
    study = Study(
        planted.Planted("absent", 0),
        planted.ENCODING,
        data=planted.counterfactuals(1500, 1).split(0.4, 0.1, 0.5),
        sites=[planted.SITE],
        featurizer=Subspace.of_rank(2),
        seeds=range(2),
        folder=tmp_path / "absent",
        sampling=Sampling(solved=False),
        recipe=Recipe(epochs=3, batch_size=128, lr=2e-2, schedule="cosine"),
        controls=Controls(random=100, seeds=1, ladder=False),
    )
    result = study.run(progress=False)
    assert "left: nothing separates from the controls" in result.report()
    assert result.best()["p_corrected"] > 0.05
    assert abs(result.best()["iia"] - 0.5) < 0.06
