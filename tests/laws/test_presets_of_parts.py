"""Presets that edit parts of a block: LoRA at a linear layer, LoFiT at heads; and what presets share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import causal_reft as cr
from causal_reft.errors import GraphError
from causal_reft.graph import load_graph
from tests.laws.test_method_table import assert_equal, gradients
from tests.models import ARCHITECTURES, at_real_tokens, prompts
from tests.models import D_MODEL as D

LINEAR = {"llama": "model.layers.1.mlp.down_proj", "neox": "gpt_neox.layers.1.mlp.dense_4h_to_h"}
HEADS_OUT = {"llama": "model.layers.1.self_attn.o_proj", "neox": "gpt_neox.layers.1.attention.dense"}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", LINEAR)
def test_lora_as_an_intervention_is_lora(family: str, side: str, tmp_path: Path) -> None:
    """Against a linear layer whose weight is W + (alpha / rank) B A."""
    model, batch = ARCHITECTURES[family](), prompts([5, 7, 4], side)
    layer = model.get_submodule(LINEAR[family])
    assert isinstance(layer, nn.Linear)
    graph = cr.lora(cr.Site.at(LINEAR[family]), layer.in_features, layer.out_features, rank=2, alpha=6)
    graph.modules.double()
    ours = cr.IntervenedModel(model, graph)
    plain = at_real_tokens(ours.with_graph(cr.InterventionGraph())(batch).logits, batch)
    assert torch.equal(at_real_tokens(ours(batch).logits, batch), plain), "it starts at no edit"
    A, B = graph["edit"].source.source.weight, graph["edit"].featurizer.weight
    B.data.copy_(torch.randn(B.shape, generator=torch.Generator().manual_seed(2)) / 4)
    edited = at_real_tokens(ours(batch).logits, batch)
    hook = layer.register_forward_hook(lambda module, args, h: h + 3 * (args[0] @ A.T) @ B)
    formula = at_real_tokens(ours.with_graph(cr.InterventionGraph())(batch).logits, batch)
    hook.remove()
    assert_equal(edited, formula)
    for mine, theirs in zip(*(gradients(logits, [A, B]) for logits in (edited, formula)), strict=True):
        assert theirs.abs().max() > 1e-6
        assert_equal(mine, theirs)
    with torch.no_grad():
        layer.weight += 3 * B.T @ A
    assert_equal(at_real_tokens(ours.with_graph(cr.InterventionGraph())(batch).logits, batch), edited)
    assert graph.n_trainable_parameters == 2 * (layer.in_features + layer.out_features)
    graph.save(tmp_path)
    assert load_graph(tmp_path) == graph
    with pytest.raises(GraphError, match="give the output of a linear layer"):
        cr.lora(cr.Site(1), D, D, 2)


@pytest.mark.parametrize("family", HEADS_OUT)
def test_lofit_adds_to_the_selected_heads_only(family: str) -> None:
    model, batch = ARCHITECTURES[family](), prompts([5, 7, 4], "left")
    n_heads = model.config.num_attention_heads
    d_head = D // n_heads
    graph = cr.lofit([(1, 0), (1, n_heads - 1)], d_head)
    graph.modules.double()
    offsets = [graph[f"edit_{i}"].source.source.bias for i in (0, 1)]
    for number, offset in enumerate(offsets):
        offset.data.copy_(torch.linspace(-1, 1 + number, d_head))
    ours = cr.IntervenedModel(model, graph)
    edited = at_real_tokens(ours(batch).logits, batch)
    added = torch.cat([offsets[0], torch.zeros((n_heads - 2) * d_head), offsets[1]])
    hook = model.get_submodule(HEADS_OUT[family]).register_forward_pre_hook(lambda module, args: (args[0] + added,))
    formula = at_real_tokens(ours.with_graph(cr.InterventionGraph())(batch).logits, batch)
    hook.remove()
    assert_equal(edited, formula)
    for mine, theirs in zip(*(gradients(logits, offsets) for logits in (edited, formula)), strict=True):
        assert theirs.abs().max() > 1e-6
        assert_equal(mine, theirs)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("family", HEADS_OUT)
def test_jola_scales_and_shifts_heads_by_hard_concrete_gates(family: str, training: bool, tmp_path: Path) -> None:
    """Against the equations of Louizos et al. 2018, with the draws of the same seed; and the expected open gates."""
    model, batch = ARCHITECTURES[family](), prompts([5, 7, 4], "left")
    n_heads = model.config.num_attention_heads
    d_head = D // n_heads
    graph = cr.jola([(1, 0), (1, n_heads - 1)], d_head)
    ours = cr.IntervenedModel(model, graph).train(training)
    graph.modules.double()
    plain = at_real_tokens(ours.with_graph(cr.InterventionGraph())(batch).logits, batch)
    assert torch.equal(at_real_tokens(ours(batch).logits, batch), plain), "it starts at no edit"
    parts = [graph[f"edit_{i}"].source for i in (0, 1)]
    for number, part in enumerate(parts):
        part.weight.data.copy_(torch.linspace(-0.5, number, d_head))
        part.bias.data.copy_(torch.linspace(1, -1 - number, d_head))
        part.logits.data.copy_(torch.tensor([0.3 - number, 0.4 * number]))
    torch.manual_seed(4)
    edited = at_real_tokens(ours(batch).logits, batch)
    torch.manual_seed(4)
    scale, shift = [], []
    for part in parts:
        u = torch.rand(2, dtype=torch.float64) * (1 - 2e-6) + 1e-6
        x = (torch.log(u / (1 - u)) + part.logits) / 0.33 if training else part.logits
        g = (1.2 / (1 + torch.exp(-x)) - 0.1).clamp(0, 1)
        scale.append(1 + g[0] * part.weight)
        shift.append(g[1] * part.bias)
    middle = torch.ones((n_heads - 2) * d_head)
    s, b = torch.cat([scale[0], middle, scale[1]]), torch.cat([shift[0], 0 * middle, shift[1]])
    hook = model.get_submodule(HEADS_OUT[family]).register_forward_pre_hook(lambda module, args: (args[0] * s + b,))
    formula = at_real_tokens(ours.with_graph(cr.InterventionGraph())(batch).logits, batch)
    hook.remove()
    assert_equal(edited, formula)
    leaves = [p for part in parts for p in part.parameters()]
    for mine, theirs in zip(*(gradients(logits, leaves) for logits in (edited, formula)), strict=True):
        assert_equal(mine, theirs)
    for part in parts:
        x = part.logits - 0.33 * torch.log(torch.tensor(0.1 / 1.1, dtype=torch.float64))
        assert_equal(part.penalty(), (1 / (1 + torch.exp(-x))).sum())
    graph.save(tmp_path)
    assert load_graph(tmp_path) == graph
    assert graph.n_trainable_parameters == 2 * (2 * d_head + 2)


@pytest.mark.parametrize(
    ("share", "sets", "nodes"), [("positions", 2, 2), ("layers", 2, 4), ("all", 1, 2), (None, 4, 4)]
)
def test_what_a_preset_shares_is_one_argument(share: str | None, sets: int, nodes: int, tmp_path: Path) -> None:
    sites = cr.site_grid([0, 1], "f2+l2")
    for preset, numbers in ((cr.loreft, 2 * D * 2 + 2), (cr.consreft, D * 2 + 2), (cr.nodireft, 2 * D * 2 + 2)):
        graph = preset(sites, D, 2, share=share)
        assert graph.n_trainable_parameters == sets * numbers and len(graph) == nodes
        graph.save(tmp_path, overwrite=True)
        again = load_graph(tmp_path)
        assert again == graph and again.n_trainable_parameters == graph.n_trainable_parameters
    assert cr.red(sites, D, share=share).n_trainable_parameters == sets * 2 * D
    with pytest.raises(GraphError, match=r"share='layer'.*'layers'"):
        cr.loreft(sites, D, 2, share="layer")


def test_untied_groups_never_edit_a_token_twice() -> None:
    """Each takes at most half of a short prompt."""
    model, batch = ARCHITECTURES["llama"](), prompts([2, 3, 5, 9], "right")
    graph = cr.steering_vector(cr.Site(0, positions="f3+l3"), D, share=None)
    graph.modules.double()
    for number in (0, 1):
        graph[f"edit_{number}"].source.source.bias.data.fill_(10.0**number)
    seen = cr.InterventionGraph(seen=cr.Collect("base", cr.Site(0)))
    change = cr.IntervenedModel(model, graph + seen).collect(batch)["seen"]
    change = (change - cr.IntervenedModel(model, seen).collect(batch)["seen"])[..., 0].round()
    expected = ([1, 10], [1, 0, 10], [1, 1, 0, 10, 10], [1, 1, 1, 0, 0, 0, 10, 10, 10])
    for row, added in enumerate(expected):
        assert change[row, : len(added)].tolist() == added
