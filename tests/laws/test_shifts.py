"""Shifts at one site add up: in any order, in overlapping subspaces, each reading the state as it was before all
edits.
"""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

import causal_reft as cr
from tests import models


@pytest.mark.parametrize("family", models.ARCHITECTURES)
def test_three_overlapping_shifts_are_their_sum_in_every_order(family):
    model, d = models.ARCHITECTURES[family](), models.D_MODEL
    site = cr.Site(1, positions=[1, -1])
    nodes = {}
    for number, name in enumerate(("a", "b", "c")):
        source = cr.LearnedSource(3, d, init="random", seed=number).double()
        nodes[name] = cr.Interchange(site, cr.Subspace(d, 3, seed=number).double(), cr.Shift(source))
    ids = torch.randint(3, models.VOCABULARY, (2, 6))
    seen = cr.InterventionGraph(seen=cr.Collect("base", site))
    with torch.no_grad():
        h = cr.IntervenedModel(model, seen).collect({"input_ids": ids})["seen"]
        expected = h.clone()
        for node in nodes.values():
            learned = node.source.source
            expected += (h @ learned.weight.T + learned.bias) @ node.featurizer.rotation
        for order in permutations(nodes):
            graph = cr.InterventionGraph(**{name: nodes[name] for name in order})
            after = cr.IntervenedModel(model, graph + seen).collect({"input_ids": ids})["seen"]
            torch.testing.assert_close(after, expected, rtol=1e-12, atol=1e-12)
