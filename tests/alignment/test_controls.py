"""Stacked subspaces equal single ones, the null patch is null, a full rank is the full patch, shuffled is shuffled."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from causal_reft.alignment.controls import (
    by_site,
    full_patch,
    named,
    pca_graph,
    random_scores,
    shuffled,
)
from causal_reft.alignment.row_scores import NO_EDIT, score_rows, states_at
from causal_reft.errors import CausalReftWarning
from causal_reft.execution import Examples
from causal_reft.featurizers import Identity, Mask, Subspace, random_frames
from causal_reft.graph import Collect, Interchange, InterventionGraph
from causal_reft.seeds import derive
from tests.alignment import planted

NETWORK = planted.Planted("independent", 0)
DATA = planted.counterfactuals(40, 3)
EXAMPLES = planted.ENCODING.examples(DATA)


def edit(featurizer, run: str = "source") -> InterventionGraph:
    return InterventionGraph(left=Interchange(planted.SITE, featurizer, Collect(run)))


def test_stacked_subspaces_give_what_each_gives_alone():
    graph = edit(Subspace(planted.WIDTH, 3))
    found = random_scores(NETWORK, graph, EXAMPLES, draws=7, seed=5, rows_at_once=100)
    frames = random_frames(7, 3, planted.WIDTH, derive(5, "random control", *named(planted.SITE)))
    for metric in ("iia", "log_odds", "logit_difference"):
        alone = [score_rows(NETWORK, edit(Subspace.from_rows(rows)), EXAMPLES)[metric] for rows in frames]
        np.testing.assert_allclose(found[metric], np.stack(alone), rtol=1e-5, atol=1e-5)


def test_how_many_rows_go_in_one_pass_changes_nothing():
    graph = edit(Subspace(planted.WIDTH, 2))
    one, two = (random_scores(NETWORK, graph, EXAMPLES, 5, rows_at_once=size)["log_odds"] for size in (7, 4096))
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)


def test_the_identity_patch_changes_nothing():
    same = planted.ENCODING.examples(DATA)
    same = type(same)({"base": same.runs["base"], "source": same.runs["base"]}, same.labels, same.info)
    patched, plain = (score_rows(NETWORK, graph, same) for graph in (edit(Subspace(planted.WIDTH, 4)), NO_EDIT))
    for metric in patched:
        np.testing.assert_allclose(patched[metric], plain[metric], rtol=1e-4, atol=1e-5)


def test_a_full_rank_is_the_full_patch():
    open_mask = Mask(Subspace(planted.WIDTH, planted.WIDTH), "boundary")
    torch.nn.init.constant_(open_mask.logits, 1.0)
    whole = full_patch(edit(Subspace(planted.WIDTH, 2)))
    assert whole is not None
    one, two, three = (
        score_rows(NETWORK, graph, EXAMPLES) for graph in (edit(open_mask), whole, edit(Identity(planted.WIDTH)))
    )
    np.testing.assert_allclose(one["log_odds"], two["log_odds"], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(two["log_odds"], three["log_odds"])


def test_pca_is_of_the_states_at_the_site():
    graph = pca_graph(NETWORK, edit(Subspace(planted.WIDTH, 2)), EXAMPLES)
    assert graph is not None
    rows = graph.edits["left"].featurizer.rows()
    states = torch.cat(list(states_at(NETWORK, planted.SITE, EXAMPLES, ["base", "source"]).values()))
    assert len(states) == 80
    top = torch.linalg.svd(states - states.mean(0), full_matrices=False).Vh[:2]
    assert rows is not None
    assert torch.allclose(torch.linalg.svdvals(rows @ top.mT), torch.ones(2), atol=1e-4)


def test_variables_at_one_site_with_different_sources_have_no_full_patch():
    parts = Subspace(planted.WIDTH, 4).split(left=2, right=2)
    nodes = {name: Interchange(planted.SITE, part, Collect(f"source_{name}")) for name, part in parts.items()}
    assert full_patch(InterventionGraph(**nodes)) is None
    assert by_site(InterventionGraph(**nodes)) == [(planted.SITE, planted.WIDTH, {"left": 2, "right": 2})]


def test_shuffled_weights_are_the_same_numbers_elsewhere():
    other = shuffled(NETWORK, 0)
    for (name, a), b in zip(NETWORK.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a.flatten().sort().values, b.flatten().sort().values), name
        assert not torch.equal(a, b)
    assert torch.equal(shuffled(NETWORK, 0).hidden.weight, other.hidden.weight)
    assert not torch.equal(shuffled(NETWORK, 1).hidden.weight, other.hidden.weight)


def test_a_site_with_fewer_distinct_states_than_the_rank_says_that_it_has_no_pca_control():
    few = Examples({run: values[:2].repeat(20, 1) for run, values in EXAMPLES.runs.items()}, EXAMPLES.labels)
    with pytest.warns(CausalReftWarning, match=r"vary in [123] directions, so there are no 6 principal ones.*NaN"):
        assert pca_graph(NETWORK, edit(Subspace(planted.WIDTH, 6)), few) is None
