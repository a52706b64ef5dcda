"""Rows that confine a search: against a few plain lines, and refused where there are none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import causal_reft as cr
from causal_reft.alignment.cells import ladder_recipes
from causal_reft.alignment.reading import logit_gradients, principal_rows
from causal_reft.errors import FeaturizerError
from causal_reft.execution import Examples
from causal_reft.sites import Site
from tests.alignment import planted
from tests.alignment.small import SPLITS, small_study
from tests.models import ARCHITECTURES, D_MODEL, blocks, prompts

LENGTHS, LABELS = (5, 3, 4), torch.tensor([4, 7, 9])
SITES = {Site(2, positions="last"): [-1], Site(0, positions=[0, -2]): [0, -2], Site(2, positions=-2): [-2]}


@pytest.mark.parametrize(("family", "side"), [("gpt2", "right"), ("llama", "left"), ("neox", "right")])
def test_gradients_of_several_sites_come_from_the_same_pass(family: str, side: str) -> None:
    model, batch = ARCHITECTURES[family](), prompts(LENGTHS, side)
    found = logit_gradients(model, dict.fromkeys(SITES, D_MODEL), Examples({"base": batch}, LABELS), batch_size=2)
    for site, positions in SITES.items():
        rows = zip(batch["input_ids"], batch["attention_mask"], LABELS, strict=True)
        by_hand = [_gradient(model, family, ids[mask == 1], label, site.layer)[positions] for ids, mask, label in rows]
        torch.testing.assert_close(found[site], torch.cat(by_hand))
        assert found[site].any() == (positions[-1] == -1 or site.layer == 0)
    assert all(parameter.grad is None for parameter in model.parameters())


def _gradient(model, family: str, ids: Tensor, label: Tensor, layer: int | None) -> Tensor:
    """d(logit of the label - mean logit) / d(output of a block), of one row without padding: "token d_model"."""
    kept: list[Tensor] = []
    assert layer is not None
    hook = blocks(model, family)[layer].register_forward_hook(
        lambda module, inputs, output: kept.append(output if isinstance(output, Tensor) else output[0])
    )
    logits = model(input_ids=ids[None]).logits[0, -1]
    hook.remove()
    return torch.autograd.grad(logits[label] - logits.mean(), kept[0])[0][0]


def test_a_share_keeps_as_few_directions_as_hold_it() -> None:
    scales = torch.tensor([4.0, 2.0, 1.0, 1e-3])
    frame = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0))).Q[:4]
    matrix = torch.linalg.qr(torch.randn(9, 4, generator=torch.Generator().manual_seed(1))).Q * scales @ frame
    for keep, count in {None: 3, 16.1 / 21: 2, 15.9 / 21: 1, 20.1 / 21: 3, 2: 2, 4: 3}.items():
        rows = principal_rows(matrix, keep)
        assert len(rows) == count, keep
        assert cr.principal_angles(rows, frame[:count]).max() < 1e-2
    assert not len(principal_rows(torch.zeros(3, 4), 0.5))


def test_varied_directions_are_the_principal_ones_of_the_differences() -> None:
    network, data = planted.Planted("copies", 0), planted.counterfactuals(200, 0)
    runs = planted.inputs(data)
    d = network.hidden(runs["source"] - runs["base"]).detach().double()
    values, axes = torch.linalg.svd(d, full_matrices=False)[1:]
    share = float(values[:2].square().sum() / values.square().sum())
    for keep, count in {None: 5, 1: 1, share + 1e-3: 3, share - 1e-3: 2}.items():
        rows = cr.varied_directions(network, planted.SITE, data, planted.ENCODING, keep)
        assert len(rows) == count and cr.principal_angles(rows, axes[:count]).max() < 1e-2
    recipe = cr.SubspaceWithin(1, read=2, varied=1)
    read = network.read.weight.detach().double()
    within = recipe.rows_at(network, [planted.SITE], planted.ENCODING.examples(data))[planted.SITE]
    by_hand = torch.linalg.svd(d @ torch.linalg.pinv(read) @ read, full_matrices=False)[2][:1]
    assert cr.principal_angles(within, by_hand).max() < 1e-2
    assert (within.double() @ torch.linalg.pinv(read) @ read - within).norm() < 1e-5


class Deaf(planted.Planted):
    def forward(self, x: Tensor) -> Tensor:
        return self.hidden(x).detach()[:, :2]


def test_what_has_no_rows_is_refused() -> None:
    network, data, encoding = planted.Planted("copies", 0), planted.counterfactuals(40, 0), planted.ENCODING
    same = cr.CounterfactualDataset(data.base, {"left": data.base}, data.labels, ("left",), data.inputs, 0)
    examples = encoding.examples(data)
    for wrong, says in (
        (lambda: cr.read_directions(Deaf("copies", 0), planted.SITE, data, encoding), "nothing is read at Site"),
        (lambda: cr.read_directions(network, planted.SITE, data, encoding, 3), "2 directions are read at Site"),
        (lambda: cr.read_directions(network, planted.SITE, data, encoding, 1.5), "between 0 and 1"),
        (lambda: cr.varied_directions(network, planted.SITE, same, encoding), "differ in 0 directions"),
        (lambda: cr.varied_directions(network, planted.SITE, data, encoding, 6), "differ in 5 directions.*so 6 cannot"),
        (lambda: cr.SubspaceWithin(2), "inside what.*read=0.95"),
        (lambda: cr.SubspaceWithin(2, varied=True), "varied=True: how many"),
        (lambda: cr.SubspaceWithin(2, read=1), "1 rows hold no subspace of rank 2"),
        (lambda: cr.SubspaceWithin(3, read=0.999).rows_at(network, [planted.SITE], examples), "the rank is at most 2"),
    ):
        with pytest.raises(FeaturizerError, match=says):
            wrong()


WITHIN = cr.SubspaceWithin(1, read=2, varied=0.9)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> cr.StudyResult:
    few = cr.Controls(random=2, seeds=1, ladder=False, illusion=False)
    recipe = {"epochs": 1, "batch_size": 24, "lr": 0.1}
    made = small_study(
        tmp_path_factory.mktemp("within"), [3], model=copies, featurizer=WITHIN, controls=few, recipe=recipe
    )
    return made.run(progress=False)


def copies() -> planted.Planted:
    return planted.Planted("copies", 0)


def test_every_fit_of_a_study_is_inside_the_rows_of_its_own_site(study: cr.StudyResult, tmp_path) -> None:
    network, train = copies(), planted.ENCODING.examples(SPLITS.train)
    rows = WITHIN.rows_at(network, [planted.SITE, planted.SAME_SITE], train)
    assert set(study.table["featurizer"]) == {"Subspace of rank 1 within read=2, varied=0.9"}
    for _, fit in study.table.iterrows():
        graph = study.graph(fit)
        found, site = graph.edits["left"].featurizer, graph.edits["left"].site
        assert torch.equal(found.basis.within, cr.Subspace.within(rows[site], 1).basis.within)
        assert cr.principal_angles(found.rotation, cr.Subspace.within(rows[site], 1, 3).rotation) > 0.1, (
            "it was trained"
        )
        graph.save(tmp_path / site.name)
        assert cr.load_graph(tmp_path / site.name) == graph
    assert {*study.control_fits["labels"]} == {"true", "permuted"} and len(study.control_fits) == 4


def test_a_study_refuses_before_it_starts_what_a_site_has_too_few_directions_for(tmp_path) -> None:
    with pytest.raises(FeaturizerError, match=r"SubspaceWithin\(rank=3.*the rank is at most 2"):
        small_study(tmp_path, model=copies, featurizer=cr.SubspaceWithin(3, read=0.99)).prepare(progress=False)


def test_the_ladder_of_a_confined_search_is_confined() -> None:
    recipes = ladder_recipes({"read": cr.SubspaceWithin(4, read=8)}, 16)
    assert recipes["Subspace of rank 2 within read=8"] == cr.SubspaceWithin(2, read=8)
