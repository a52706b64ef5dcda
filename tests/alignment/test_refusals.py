"""Refusals that no study of the other tests meets: too few settings, nothing that is read, what is not stored."""

from __future__ import annotations

import pytest
import torch

from causal_reft.alignment.reading import _orthonormal, _Probe
from causal_reft.alignment.sampling import Sampling, sampled
from causal_reft.causal import CausalModel
from causal_reft.errors import FeaturizerError, StudyError
from causal_reft.featurizers import Featurizer, StackedFeaturizer, random_frames
from causal_reft.sites import Site


def test_a_split_that_leaves_a_part_nearly_empty_is_refused() -> None:
    model = CausalModel(inputs={"a": (0, 1), "b": (0, 1)}, mechanisms={"c": lambda a, b: a + b})
    with pytest.raises(StudyError, match=r"leaves \d settings for '\w+'.*split_by=None"):
        sampled(model, ["a"], Sampling(rows=(4, 4, 4)))


def test_a_site_where_nothing_is_read_is_refused() -> None:
    with pytest.raises(FeaturizerError, match="every direction is dormant"):
        _orthonormal(torch.zeros(3, 4), Site(0), "the weight of nowhere")


@pytest.mark.parametrize("lens", [_Probe(8), StackedFeaturizer(random_frames(3, 2, 8, 0))], ids=["probe", "stacked"])
def test_lenses_that_live_for_one_measurement_are_not_stored(lens: Featurizer) -> None:
    with pytest.raises(FeaturizerError, match="not stored"):
        lens.config()
