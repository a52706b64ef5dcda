"""A model under a graph: its output is the model's own, runs are computed once, gradients reach what is trained, rows
can be switched off, and calls that do not fit are refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import causal_reft as cr
from causal_reft.errors import CausalReftError, GraphError, PositionError, RunError
from tests.models import D_MODEL as D
from tests.models import ToyMLP, blocks, gpt2, llama, prompts

SEEN = cr.InterventionGraph(seen=cr.Collect("base", cr.Site(1)))


def patch(run: str = "source", layer: int = 1, into: str = "base", **site: Any) -> cr.Interchange:
    return cr.Interchange(cr.Site(layer, **site), cr.Identity(D), cr.Collect(run), run=into)


def ablate(positions: Any = "all") -> cr.InterventionGraph:
    return cr.InterventionGraph(edit=cr.Interchange(cr.Site(1, positions=positions), cr.Identity(D), cr.Constant(0.0)))


def test_without_nodes_it_is_the_model_itself() -> None:
    model, batch = gpt2(), prompts([4, 6], "right")
    labels = torch.where(batch["attention_mask"] == 0, -100, batch["input_ids"])
    labels[:, 0] = -100
    ours = cr.IntervenedModel(model, cr.InterventionGraph())(**batch, labels=labels, output_hidden_states=True)
    theirs = model(**batch, labels=labels, output_hidden_states=True)
    assert (
        type(ours) is type(theirs) and torch.equal(ours.logits, theirs.logits) and torch.equal(ours.loss, theirs.loss)
    )
    assert len(ours.hidden_states) == len(theirs.hidden_states) and ours.collected == {}


def test_base_may_be_a_mapping_or_keywords_or_token_ids() -> None:
    model, batch = cr.IntervenedModel(gpt2(), ablate(-1)), prompts([5, 5], "none")
    one = model(batch).logits
    assert torch.equal(one, model(**batch).logits) and torch.equal(one, model(batch["input_ids"]).logits)
    assert torch.equal(one, model({"input_ids": batch["input_ids"]}, attention_mask=batch["attention_mask"]).logits)


def test_a_plain_module_gives_its_own_tensor_or_tuple() -> None:
    class Pair(ToyMLP):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            return super().forward(x), x

    x, graph = (
        torch.randn(4, 6, dtype=torch.float64),
        cr.InterventionGraph(seen=cr.Collect("base", cr.Site.at("first"))),
    )
    tensor, pair = cr.IntervenedModel(ToyMLP(), graph)(x), cr.IntervenedModel(Pair(), graph)(x)
    assert torch.equal(tensor, pair[0]) and isinstance(pair, tuple) and len(pair) == 2
    assert torch.equal(tensor.collected["seen"], ToyMLP().first(x)[:, None]) and torch.equal(
        pair.collected["seen"], tensor.collected["seen"]
    )


def test_collected_states_are_in_batch_shape_and_ragged_rows_end_in_nan() -> None:
    model, batch = gpt2(), prompts([3, 5], "left")
    got = cr.IntervenedModel(model, SEEN)(batch).collected["seen"]
    hidden = model(
        **batch, position_ids=(batch["attention_mask"].cumsum(1) - 1).clamp_min(0), output_hidden_states=True
    )
    expected = hidden.hidden_states[2]
    assert got.shape == (2, 5, D) and bool(got[0, 3:].isnan().all())
    assert torch.equal(got[0, :3], expected[0, 2:]) and torch.equal(got[1], expected[1])


def test_collect_computes_nothing_after_the_deepest_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen on the block's class: under a hook of the user's the whole model runs."""
    model, batch, calls = gpt2(), prompts([4, 5], "right"), []
    layers = list(blocks(model, "gpt2"))
    kind, own = type(layers[0]), type(layers[0]).forward
    under = cr.IntervenedModel(model, SEEN)
    whole = under(batch).collected["seen"]

    def seen(block, *args, **kwargs):
        calls.append(next(number for number, layer in enumerate(layers) if layer is block))
        return own(block, *args, **kwargs)

    monkeypatch.setattr(kind, "forward", seen)
    torch.testing.assert_close(under.collect(batch)["seen"], whole, rtol=0, atol=0, equal_nan=True)
    assert 2 not in calls and 0 in calls
    with pytest.raises(GraphError, match=r"no Collect node.*Collect\('base'"):
        cr.IntervenedModel(model, ablate()).collect(batch)


def test_each_run_is_one_forward_however_many_edits_it_feeds() -> None:
    model, calls = gpt2(), []
    model.transformer.wte.register_forward_hook(lambda *_: calls.append(1))
    graph = cr.InterventionGraph(
        a=patch(layer=0), b=patch(layer=2), c=cr.Collect("source", cr.Site(1)), d=patch("other")
    )
    base, source, other = (prompts([4, 4], "none", seed) for seed in range(3))
    cr.IntervenedModel(model, graph)(base, source=source, other=other)
    assert len(calls) == 3


def test_gradients_pass_through_a_middle_run_that_trains_nothing_itself() -> None:
    """source -> (trained edit) first -> (plain patch) mid -> (plain patch) base."""
    R = cr.Subspace(D, 2)
    graph = cr.InterventionGraph(
        trained=cr.Interchange(cr.Site(0, positions=1), R, cr.Constant(3.0), run="first"),
        middle=patch("first", 1, "mid", positions=1),
        last=patch("mid", 2, positions=1),
    )
    model, batch = gpt2().requires_grad_(False), prompts([4, 4], "none")
    out = cr.IntervenedModel(model, graph)(batch, mid=prompts([4, 4], "none", 1), first=prompts([4, 4], "none", 2))
    out.logits.square().sum().backward()
    assert R.basis.master.grad is not None and R.basis.master.grad.abs().max() > 1e-4


def test_source_runs_build_no_graph_when_nothing_in_them_is_trained() -> None:
    model, R = gpt2().requires_grad_(False), cr.Subspace(D, 2)
    graph = cr.InterventionGraph(
        edit=cr.Interchange(cr.Site(1), R, cr.Collect("source")), s=cr.Collect("source", cr.Site(1))
    )
    out = cr.IntervenedModel(model, graph)(prompts([4], "none"), source=prompts([4], "none", 1))
    assert out.logits.requires_grad and not out.collected["s"].requires_grad


def test_training_the_network_itself_under_an_interchange_differentiates_both_runs() -> None:
    """Interchange intervention training: the weights feel the source run too."""
    toy, base, source = ToyMLP(), *torch.randn(2, 3, 6, dtype=torch.float64)
    graph = cr.InterventionGraph(edit=cr.Interchange(cr.Site.at("first"), cr.Identity(8), cr.Collect("source")))
    cr.IntervenedModel(toy, graph)(base, source=source).square().sum().backward()
    grads = [p.grad.clone() for p in toy.parameters()]
    toy.zero_grad()
    toy(source).square().sum().backward()
    for ours, theirs in zip(grads, [p.grad for p in toy.parameters()], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_modes_are_the_graphs_and_the_base_model_keeps_its_own() -> None:
    model = cr.IntervenedModel(gpt2(), cr.boundless_das(cr.Site(1), D))
    mask = model.graph["edit"].featurizer
    for base_mode in (True, False):
        model.base_model.train(base_mode)
        for mode in (True, False):
            assert model.train(mode) is model
            assert mask.training is mode and model.training is mode and model.base_model.training is base_mode
    assert model.eval() is model and not mask.training


@pytest.mark.parametrize("where", ["as a keyword", "inside base"])
def test_rows_are_switched_on_one_by_one(where: str) -> None:
    graph = ablate("last") + cr.InterventionGraph(other=cr.Interchange(cr.Site(2), cr.Identity(D), cr.Constant(1.0)))
    model, batch = cr.IntervenedModel(gpt2(), graph), prompts([4, 6, 5], "left")
    active = {"edit": [True, False, False], "other": torch.tensor([False, False, True])}
    got = model(batch, active=active).logits if where == "as a keyword" else model({**batch, "active": active}).logits
    for row, names in enumerate([["edit"], [], ["other"]]):
        expected = model.with_graph(graph.only(*names))(batch).logits[row]
        assert torch.equal(got[row], expected)


def test_counting_what_is_learned(capsys: pytest.CaptureFixture[str]) -> None:
    model = cr.IntervenedModel(gpt2(), cr.loreft(cr.Site(1), D, 2))
    base = sum(p.numel() for p in model.base_model.parameters())
    assert model.count_parameters() == (2 * 2 * D + 2, base)
    model.print_trainable_parameters()
    asking = f"({base:,} of them ask for gradients; fit and ReftTrainer freeze them)"
    expected = f"trainable parameters: 66 || base model: {base:,} {asking} || {100 * 66 / base:.4f} %"
    assert expected in capsys.readouterr().out
    assert model.config is model.base_model.config and str(model.device) == "cpu"


def bad_calls() -> dict[str, tuple[type[CausalReftError], str, Any]]:
    batch = prompts([4, 4], "none")
    das = cr.InterventionGraph(edit=patch())
    return {
        "missing run": (RunError, r"needs run source.*model\(base, source=\.\.\.\)", (das, [batch], {})),
        "no base": (RunError, "needs run base", (das, [], {"source": batch})),
        "unused run": (
            RunError,
            r"'sorce' is neither a run.*Did you mean 'source'\?",
            (das, [batch], {"sorce": batch}),
        ),
        "given twice": (RunError, "input_ids given twice", (ablate(), [batch], {"input_ids": batch["input_ids"]})),
        "no mapping": (RunError, "was given a list.*a mapping with 'input_ids'", (das, [batch], {"source": [1, 2]})),
        "no tensor": (RunError, "holds no tensor.*return_tensors='pt'", (das, [batch], {"source": {"input_ids": [1]}})),
        "active of nobody": (
            RunError,
            r"names no edit.*Did you mean 'edit'\?",
            (ablate(), [batch], {"active": {"edt": [1, 0]}}),
        ),
        "active of fewer rows": (
            PositionError,
            r"active\['edit'\] has shape \(1,\).*2 rows",
            (ablate(), [batch], {"active": {"edit": [1]}}),
        ),
        "unpaired positions": (
            PositionError,
            r"row 0 names 4 tokens.*but 5 at.*run 'source'; they must pair one to one.*positions='last'",
            (das, [batch], {"source": prompts([5, 5], "none")}),
        ),
        "unequal batches": (
            PositionError,
            "has 1 rows and the edited run has 2",
            (das, [batch], {"source": prompts([4], "none")}),
        ),
        "hidden padding": (
            RunError,
            r"padding \(token 0\) but no attention_mask",
            (ablate(), [prompts([4, 5], "right")["input_ids"]], {}),
        ),
        "mask of four axes": (
            RunError,
            r"2-D mask",
            (ablate(), [{**batch, "attention_mask": torch.ones(2, 1, 4, 4)}], {}),
        ),
    }


@pytest.mark.parametrize("name", bad_calls())
def test_calls_that_do_not_fit_are_refused(name: str) -> None:
    kind, said, (graph, args, kwargs) = bad_calls()[name]
    with pytest.raises(kind, match=f"(?s){said}"):
        cr.IntervenedModel(gpt2(), graph)(*args, **kwargs)


def test_a_tensor_as_base_takes_no_further_arguments() -> None:
    with pytest.raises(RunError, match="takes no further arguments"):
        cr.IntervenedModel(ToyMLP(), cr.InterventionGraph())(torch.zeros(2, 6).double(), spans={})


def test_graphs_that_a_model_cannot_run_are_refused_when_it_is_built() -> None:
    with pytest.raises(GraphError, match=r"backend='hook' does not exist\. Did you mean 'hooks'\?"):
        cr.IntervenedModel(gpt2(), ablate(), backend="hook")
    with pytest.raises(GraphError, match="run is called 'input_ids', which is an argument"):
        cr.IntervenedModel(gpt2(), cr.patch(cr.Site(1), D, source="input_ids"))


def test_reading_what_comes_later_in_the_forward_is_refused() -> None:
    source = cr.LearnedSource(2, D, reads=cr.Collect("base", cr.Site(2)), init="random")
    graph = cr.InterventionGraph(edit=cr.Interchange(cr.Site(0), cr.Subspace(D, 2), source))
    with pytest.raises(GraphError, match=r"Node 'edit' at Site\(0.*reads Site\(2.*comes\s+later.*Read an earlier site"):
        cr.IntervenedModel(gpt2(), graph)(prompts([4], "none"))


def test_the_users_model_is_the_very_object_and_can_be_shared() -> None:
    model = gpt2()
    one = cr.IntervenedModel(model, ablate())
    two = one.with_graph(SEEN)
    assert one.base_model is model is two.base_model and isinstance(one, nn.Module)
    assert [name for name, _ in one.interventions.named_parameters()] == []


def test_moving_the_model_moves_the_graph_and_moving_the_base_alone_is_answered() -> None:
    """To `meta`, the one other device that every machine has."""
    graph = cr.loreft(cr.Site(1, positions="last"), D, 2)
    reft = cr.IntervenedModel(gpt2(), graph)
    assert {p.device.type for p in graph.parameters()} == {"cpu"}
    reft.interventions.to("meta")
    assert {p.device.type for p in graph.parameters()} == {"meta"}
    with pytest.raises(RunError, match=r"'edit' is on meta.*state at Site\(1, positions='last'\) is on cpu.*reft.to"):
        reft(prompts([4, 5], "right"))
    both = cr.IntervenedModel(gpt2(), cr.loreft(cr.Site(1), D, 2)).to("meta")
    assert {p.device.type for p in both.parameters()} == {"meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_graph_goes_to_the_device_of_its_site() -> None:
    model, graph, batch = gpt2().cuda(), cr.loreft(cr.Site(1, positions="last"), D, 2), prompts([4, 5], "right")
    batch = {key: value.cuda() for key, value in batch.items()}
    reft = cr.IntervenedModel(model, graph)
    assert {p.device.type for p in graph.parameters()} == {"cuda"}
    reft(batch).logits.sum().backward()
    model.cpu()
    with pytest.raises(RunError, match=r"reft.to"):
        reft({key: value.cpu() for key, value in batch.items()})


class MixesTokens(nn.Module):
    """An MLP of the user's in the place of a block's own, which is not local to a token."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return self.mlp(h + h.mean(1, keepdim=True))


@pytest.mark.parametrize("as_module", [True, False])
def test_collect_runs_a_block_that_somebody_altered_as_it_is(as_module: bool) -> None:
    model, batch = llama(), prompts([6, 6], "none")
    block = model.model.layers[1]
    altered = MixesTokens(copy.deepcopy(block.mlp))
    if as_module:
        block.mlp = altered
    else:
        block.mlp.forward = altered.forward
    graph = cr.InterventionGraph(seen=cr.Collect("base", cr.Site(1, positions=2)))
    reft = cr.IntervenedModel(model, graph)
    states = model(**batch, output_hidden_states=True).hidden_states[2]
    torch.testing.assert_close(reft.collect(batch)["seen"][:, 0], states[:, 2], rtol=0, atol=1e-12)
