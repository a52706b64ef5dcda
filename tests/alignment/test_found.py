"""A study gives back the graphs that it trained: they score, alone and loaded, what the study stored."""

from __future__ import annotations

import numpy as np
import pytest

import causal_reft as cr
from causal_reft.alignment import Alignment, Controls, StudyResult
from causal_reft.alignment.cells import FlowOfRank
from causal_reft.errors import StudyError
from causal_reft.featurizers import Mask, Subspace
from tests.alignment import planted
from tests.alignment.small import SPLITS, small_study

FEATURIZERS = {
    "subspace": Subspace.of_rank(2),
    "mask": lambda d, seed: Mask(Subspace(d, d, seed), kind="coordinates"),
    "boundless": lambda d, seed: Mask(Subspace(d, d, seed)),
    "flow": FlowOfRank(2),
}


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> StudyResult:
    folder = tmp_path_factory.mktemp("found") / "study"
    few = Controls(random=2, seeds=0, ladder=False, illusion=False)
    small_study(folder, featurizer=FEATURIZERS, sites=[planted.SITE], controls=few).run(progress=False)
    return StudyResult.load(folder)


@pytest.mark.parametrize("label", FEATURIZERS)
def test_the_graph_of_a_fit_scores_what_the_study_stored(result, label):
    network, records = planted.truth(), result.records
    for seed in (0, 1):
        graph = result.graph(featurizer=label, seed=seed)
        found = Alignment(planted.causal_model(), graph).records(network, SPLITS.test, planted.ENCODING)
        stored = records[(records["featurizer"] == label) & (records["seed"] == seed)]
        np.testing.assert_array_equal(found["iia"], stored["iia"])
        np.testing.assert_allclose(found["log_odds"], stored["log_odds"], rtol=0, atol=1e-5)


def test_of_several_seeds_the_best_on_the_selection_rows_is_given(result, tmp_path):
    table = result.table[result.table["featurizer"] == "boundless"]
    best = table.loc[table["selection"].idxmax()]
    result.graph(featurizer="boundless").save(tmp_path / "found")
    assert cr.load_graph(tmp_path / "found") == result.graph(best)
    assert result.graph().edits["left"].site == planted.SITE


def test_a_fit_that_is_not_one_is_answered(result):
    with pytest.raises(StudyError, match="names 8 fits of the study"):
        result.graph(layer=None)
    with pytest.raises(StudyError, match=r"no column 'featuriser'.*featurizer"):
        result.graph(featuriser="flow")


def test_the_training_rows_are_kept(result):
    rows = result.training()
    assert len(rows) == len(SPLITS.train)
    assert rows["expected_answer"].tolist() == SPLITS.train.labels["answer"].tolist()
    assert {"cluster", "kind", "base_setting", "source_setting"} <= set(rows)
