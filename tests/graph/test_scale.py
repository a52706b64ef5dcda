"""The strength of an edit multiplies its change, whatever computes it: hooks, nnsight, plans, serving, disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import causal_reft as cr
from causal_reft.errors import GraphError, RunError
from causal_reft.execution.serving import Served
from causal_reft.graph import load_graph
from tests.laws.methods import METHODS
from tests.laws.test_method_table import assert_equal, call, gradients, reference, two_batches
from tests.models import ARCHITECTURES, at_real_tokens, gpt2, prompts
from tests.models import D_MODEL as D

SITE = cr.Site(1, positions=[0, 2, -1])


@pytest.mark.parametrize("scale", [0.5, -2.0, 0.0])
@pytest.mark.parametrize("backend", ["hooks", "nnsight"])
@pytest.mark.parametrize(
    "method", ["activation patching", "DAS", "LoReFT", "DiReFT", "NoReFT", "mean ablation", "steering"]
)
def test_a_scaled_edit_is_h_plus_scale_times_its_change(method: str, backend: str, scale: float) -> None:
    model = gpt2()
    row, (base, source) = METHODS[method](SITE), two_batches("left")
    formula = row.formula
    scaled = type(row)(row.graph, lambda h, s, i: h + scale * (formula(h, s, i) - h), reads=row.reads)
    ours = call(cr.IntervenedModel(model, row.graph.scaled(scale), backend=backend), base, source, "several")
    theirs = reference(model, "gpt2", scaled, base, source, "several")
    assert_equal(at_real_tokens(ours, base), at_real_tokens(theirs, base))
    if scale and row.leaves:
        leaves = list(row.leaves)
        for mine, plain in zip(*(gradients(at_real_tokens(x, base), leaves) for x in (ours, theirs)), strict=True):
            assert plain.abs().max() > 1e-6
            assert_equal(mine, plain)


def test_scaling_multiplies_shares_parameters_and_is_stored(tmp_path: Path) -> None:
    graph = cr.loreft([cr.Site(0), cr.Site(1)], D, 2)
    half = graph.scaled(edit_0=0.5)
    assert (half.edits["edit_0"].scale, half.edits["edit_1"].scale) == (0.5, 1.0)
    assert half.scaled(4).edits["edit_0"].scale == 2.0 and graph.edits["edit_0"].scale == 1.0
    assert half["edit_0"].source is graph["edit_0"].source and "scale=0.5" in repr(half)
    assert half != graph
    half.save(tmp_path)
    assert load_graph(tmp_path) == half
    model = cr.IntervenedModel(gpt2(), graph)
    assert model.scaled(edit_0=0.5).graph == half
    for wrong, said in (({"edit": 1.0}, "no edit is called 'edit'"), ({"edit_0": float("nan")}, "a finite number")):
        with pytest.raises(GraphError, match=said):
            graph.scaled(**wrong)
    with pytest.raises(GraphError, match="give one kind"):
        graph.scaled(1.0, edit_0=2.0)


def trained(seed: int, site: cr.Site) -> cr.InterventionGraph:
    graph = cr.loreft(site, D, 2, seed=seed, init="random")
    graph.modules.double()
    return graph


def test_served_rows_have_scales_of_their_own() -> None:
    model, batch = gpt2(), prompts([4, 6, 5, 5], "left")
    site = cr.Site(1, positions="last+generated")
    graphs = {
        name: trained(seed, site).scaled(s) for seed, (name, s) in enumerate((("a", 0.5), ("b", 1.0), ("c", -3.0)))
    }
    shift = torch.linspace(-1, 1, D, dtype=torch.float64)
    graphs["d"] = cr.steer(site, shift).scaled(0.25)
    graphs["e"] = cr.InterventionGraph(edit=cr.Interchange(site, cr.Identity(D), cr.Constant(shift), scale=0.5))
    served = Served(model)
    for name, graph in graphs.items():
        served.add(name, graph)
    for names in (["a", "b", "c", None], ["d", "a", "e", "c"]):
        logits = served(batch, graphs=names).logits
        for row, name in enumerate(names):
            one = {key: value[row : row + 1] for key, value in batch.items()}
            graph = cr.InterventionGraph() if name is None else graphs[name]
            alone = cr.IntervenedModel(model, graph).eval()(one).logits
            assert_equal(at_real_tokens(logits[row : row + 1], one), at_real_tokens(alone, one))


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_a_plan_scales_as_full_passes_do(family: str) -> None:
    model, batch = ARCHITECTURES[family]().eval().requires_grad_(False), prompts([5, 7, 4], "left", seed=1)
    graph = trained(1, cr.Site(1, positions="last")).scaled(0.3)
    intervened = cr.IntervenedModel(model, graph)
    examples, rows = cr.Examples({"base": batch}, torch.tensor([1, 2, 3])), torch.arange(3)
    planned, full = cr.plan(intervened, examples), cr.FullPasses(intervened, examples)
    fast, slow = planned.scored(rows).logits, full.scored(rows).logits
    assert_equal(fast, slow)
    leaves = list(graph.parameters())
    for mine, plain in zip(gradients(fast, leaves), gradients(slow, leaves), strict=True):
        assert_equal(mine, plain)


@torch.no_grad()
def divergence(model: cr.IntervenedModel, batch: dict[str, Tensor]) -> float:
    last = [mask.tolist().index(1) + int(mask.sum()) - 1 for mask in batch["attention_mask"]]
    rows = torch.arange(len(last))
    plain = model.base_model(**batch, position_ids=(batch["attention_mask"].cumsum(1) - 1).clamp_min(0)).logits
    p, q = (torch.softmax(logits[rows, last], -1) for logits in (plain, model(batch).logits))
    return float((p * (p / q).log()).sum(-1).mean())


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_calibrated_edit_moves_the_output_by_the_divergence(side: str) -> None:
    batch = prompts([4, 6, 5], side)
    model = cr.IntervenedModel(gpt2(), cr.steer(cr.Site(1), torch.linspace(-1, 1, D).double())).eval()
    for kl in (1e-3, 0.02):
        strength = cr.calibrate(model, batch, kl=kl)
        assert abs(divergence(model.scaled(strength), batch) / kl - 1) < 2e-3
        assert divergence(model.scaled(strength / 2), batch) < kl


def test_a_divergence_that_no_strength_reaches_is_said() -> None:
    model = cr.IntervenedModel(gpt2(), cr.steer(cr.Site(1), torch.linspace(-1, 1, D).double())).eval()
    with pytest.raises(RunError, match=r"No strength up to 4 moves the output by KL 50: the most is"):
        cr.calibrate(model, prompts([4], "none"), kl=50.0, largest=4.0)
    with pytest.raises(ValueError, match="positive"):
        cr.calibrate(model, prompts([4], "none"), kl=-1.0)
