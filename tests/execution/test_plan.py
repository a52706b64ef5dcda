"""What a plan decides, says, refuses and falls back from; `test_plan_exact` compares its numbers on every family."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import causal_reft as cr
from causal_reft.errors import CausalReftWarning, DataError, GraphError, PositionError, RunError, SiteError
from causal_reft.execution import Examples, FullPasses, IntervenedModel, plan, plan_all
from causal_reft.execution.block_shortcuts import computed_at
from causal_reft.execution.planning.selfcheck import compare
from causal_reft.training import fit, fit_many, frozen
from tests.execution.test_plan_exact import assert_equal, double, examples, three_blocks
from tests.families import DECODERS, inputs_of, model_of

D = 16


def das(layer: int, where: object = "last", component: str = "block_output", seed: int = 0) -> IntervenedModel:
    return IntervenedModel(
        three_blocks("gpt2"), double(cr.das(cr.Site(layer, component, positions=where), D, 3, seed=seed))
    )


class Counted(nn.Module):
    """Residual layers that count how often they run; the skip connections reach over the site."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleList([nn.Linear(6, 6) for _ in range(4)])
        self.head = nn.Linear(6, 3)
        self.calls = [0] * 4
        for number, layer in enumerate(self.inner):
            layer.register_forward_hook(
                lambda *_, number=number: self.calls.__setitem__(number, self.calls[number] + 1)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = x
        for layer in self.inner:
            x = torch.tanh(layer(x)) + first
        return self.head(x)


def counted_examples(n: int = 40) -> Examples:
    draw = torch.Generator().manual_seed(0)
    runs = {run: torch.randn(n, 6, generator=draw, dtype=torch.float64) for run in ("base", "source")}
    return Examples(runs, torch.randint(0, 3, (n,), generator=draw))


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_a_plain_module_keeps_what_lies_before_the_edit(layer: int) -> None:
    network = Counted().double().eval().requires_grad_(False)
    model = IntervenedModel(network, double(cr.das(cr.Site.at(f"inner.{layer}"), 6, 2)))
    data, rows = counted_examples(), torch.tensor([5, 2, 39])
    with plan(model, data) as passes:
        assert_equal([model], data, [passes.scored(rows)], rows)
        weights = {name: id(module) for name, module in network.named_modules()}
        computed: list[str] = []
        handles = [
            m.register_forward_pre_hook(lambda m, a, name=name: computed.append(name))
            for name, m in network.named_modules()
        ]
        macs = []
        own = nn.functional.linear

        def linear(x, weight, bias=None):
            macs.append(weight.data_ptr())
            return own(x, weight, bias)

        nn.functional.linear = linear
        try:
            passes.scored(rows)
        finally:
            nn.functional.linear = own
            for handle in handles:
                handle.remove()
        skipped = [i for i in range(4) if network.inner[i].weight.data_ptr() not in macs]
        assert skipped == list(range(layer + 1))
        assert weights == {name: id(module) for name, module in network.named_modules()}


def test_blocks_and_head_are_left_as_they_were() -> None:
    base = three_blocks("gpt2")
    before = [dict(module.__dict__) for module in base.modules()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in base.modules()]
    passes = plan(das(1), examples("gpt2", "no"))
    passes.scored(torch.arange(2))
    assert all("forward" not in module.__dict__ for module in base.modules())
    assert [set(d) for d in before] == [set(module.__dict__) for module in base.modules()]
    assert hooks == [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in base.modules()]


def test_only_the_window_runs() -> None:
    """A block above the site sees one token a row; a block below is not computed; the head sees the reads."""
    base, seen = three_blocks("gpt2"), []
    with plan(das(0, "last"), examples("gpt2", "right"), check=False) as passes:
        passes.scored(torch.arange(3))
        modules = [*(block.mlp for block in base.transformer.h), base.lm_head]
        handles = [m.register_forward_hook(lambda m, args, out: seen.append(tuple(out.shape[:2]))) for m in modules]
        try:
            passes.scored(torch.arange(3))
        finally:
            for handle in handles:
                handle.remove()
        assert seen == [(3, 1), (3, 1), (1, 3)]


@pytest.mark.parametrize(("component", "widths"), [("block_output", [1, 5, 1, 1]), ("mlp_output", [1, 5, 1, 5])])
def test_most_of_the_last_block_runs_at_read_tokens_only(
    component: str, widths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its queries, output projection and MLP see one token of each row, its keys all five; an edit inside keeps its
    module whole."""
    base, seen = three_blocks("llama"), []
    nodes = {
        "early": cr.Interchange(cr.Site(0, positions=2), cr.Subspace(D, 2), cr.Collect()),
        "late": cr.Interchange(cr.Site(2, component, positions="last"), cr.Subspace(D, 2), cr.Collect()),
    }
    with plan(IntervenedModel(base, cr.InterventionGraph(**nodes)), examples("llama", "no"), check=False) as passes:
        passes.scored(torch.arange(3))
        last, own = base.model.layers[2], nn.Linear.forward
        attention = last.self_attn
        names = {attention.q_proj: "q", attention.k_proj: "k", attention.o_proj: "o", last.mlp.down_proj: "mlp"}

        def noted(module: nn.Linear, x: torch.Tensor) -> torch.Tensor:
            seen.append((names.get(module), x.shape[:-1].numel()))
            return own(module, x)

        monkeypatch.setattr(nn.Linear, "forward", noted)
        passes.scored(torch.arange(3))
        assert [number for name, number in seen if name] == [3 * width for width in widths]


def test_a_staircase_is_one_forward() -> None:
    base, rows = three_blocks("gpt2"), []
    models = [das(2), das(0), das(1, component="mlp_output"), das(1, seed=5), das(0, -2)]
    data = examples("gpt2", "left")
    with plan_all(models, data) as joint:
        assert_equal(models, data, joint.scored(torch.tensor([0, 2])), torch.tensor([0, 2]))
        handles = [
            block.mlp.register_forward_pre_hook(lambda m, args: rows.append(tuple(args[0].shape[:2])))
            for block in base.transformer.h
        ]
        try:
            joint.scored(torch.tensor([0, 2]))
        finally:
            for handle in handles:
                handle.remove()
        assert rows == [(4, 1), (6, 1), (2, 2), (2, 2)]
        assert "4 graphs as a staircase" in joint.explain()


def test_weights_that_change_are_recorded_again() -> None:
    network = Counted().double().eval().requires_grad_(False)
    data, rows = counted_examples(), torch.arange(4)
    model = IntervenedModel(network, double(cr.das(cr.Site.at("inner.1"), 6, 2)))
    with plan(model, data) as passes:
        before = passes.scored(rows).logits
        with torch.no_grad():
            network.inner[0].weight.mul_(0.5)
        after = passes.scored(rows).logits
        assert float((after - before).abs().max().detach()) > 1e-3
        torch.testing.assert_close(after, FullPasses(model, data).scored(rows).logits, rtol=0, atol=1e-14)


def test_reasons_are_told() -> None:
    base = three_blocks("gpt2")
    data = examples("gpt2", "no")
    unfrozen = double(cr.das(cr.Site(1, positions="last"), D, 3))
    passes = plan(IntervenedModel(base, unfrozen), data)
    try:
        base.requires_grad_(True)
        assert "weights ask for gradients" in passes.explain()
        assert_equal([passes.joint.models[0]], data, [passes.scored(torch.arange(2))], torch.arange(2))
        base.requires_grad_(False).train()
        assert "training mode" in passes.explain()
    finally:
        base.requires_grad_(False).eval()
    assert (
        "outside the blocks"
        in plan(IntervenedModel(base, double(cr.das(cr.Site.at("transformer.wte"), D, 3))), data).explain()
    )
    network = IntervenedModel(
        Counted().double().eval().requires_grad_(False), double(cr.das(cr.Site.at("inner.1"), 6, 2))
    )
    assert "not a text" in plan(network, counted_examples()).explain()
    trained_source = cr.InterventionGraph(
        first=cr.Interchange(cr.Site(0, positions=-2), cr.Subspace(D, 3), cr.Collect("source"), run="other"),
        second=cr.Interchange(cr.Site(1, positions="last"), cr.Subspace(D, 3), cr.Collect("other")),
    )
    model = IntervenedModel(base, double(trained_source))
    passes = plan(model, data)
    assert "node 'first' edits run 'other'" in passes.explain()
    assert_equal([model], data, [passes.scored(torch.arange(3))], torch.arange(3))


def test_an_encoder_keeps_only_its_sources() -> None:
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    settings = model_of("bert").config.to_dict()
    encoder = BertForMaskedLM(BertConfig(**settings)).double().eval().requires_grad_(False)
    runs = {run: inputs_of("bert", seed, (6, 6, 6)) for seed, run in enumerate(("base", "source"))}
    labels = torch.full((3, 6), -100).index_fill(1, torch.tensor([3]), 5)
    data, model = Examples(runs, labels), IntervenedModel(encoder, double(cr.das(cr.Site(1, positions=2), D, 3)))
    with plan(model, data) as passes:
        assert_equal([model], data, [passes.scored(torch.arange(3))], torch.arange(3))
        assert "not a causal language model" in passes.explain()
        assert passes.joint.chosen.checks[0].passed


class Forgetful(nn.Module):
    """Gives other numbers at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head, self.calls = nn.Linear(6, 6), nn.Linear(6, 3), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.head(self.first(x)) * self.calls


def test_what_differs_falls_back_with_a_warning() -> None:
    network = Forgetful().double().eval().requires_grad_(False)
    model = IntervenedModel(network, double(cr.das(cr.Site.at("first"), 6, 2)))
    with plan(model, counted_examples()) as passes:
        with pytest.warns(CausalReftWarning, match="gave other numbers than full passes"):
            passes.scored(torch.arange(3))
        assert "every run in full" in passes.explain()
        assert "self-check differs" in passes.explain()
        with torch.no_grad():
            network.calls = 0
            fast = passes.scored(torch.arange(3)).logits
            network.calls = 0
            assert torch.equal(fast, FullPasses(model, counted_examples()).scored(torch.arange(3)).logits)


def test_the_check_sees_a_wrong_gradient() -> None:
    data, model = examples("gpt2", "no"), das(1)
    right = FullPasses(model, data).scored(torch.arange(2))
    wrong = type(right)(right.logits + 0.1 * (right.logits - right.logits.detach()), right.reads)
    assert compare({0: model}, [{0: right}], *[lambda n: right.logits] * 2, 2)[0].passed
    found = compare({0: model}, [{0: wrong}], *[lambda n: right.logits] * 2, 2)[0]
    assert not found.passed
    assert found.logits == 0.0
    assert found.gradient == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_as_much_is_allowed_as_full_passes_differ_among_themselves(dtype: torch.dtype) -> None:
    """Answers that are off by four per cent do not pass for rounding."""
    base = copy.deepcopy(three_blocks("llama")).to(dtype)
    model, data, rows = (
        IntervenedModel(base, cr.das(cr.Site(1, positions="last"), D, 3)),
        examples("llama", "right"),
        torch.arange(4),
    )
    with plan(model, data) as passes:
        passes.scored(rows)
        check = passes.joint.chosen.checks[0]
    assert check.passed
    assert check.allowed_logits < 0.03
    full = FullPasses(model, data).scored(rows)
    right, each = full.logits, torch.cat([FullPasses(model, data).scored(row).logits for row in rows.split(1)])
    wrong = right * (1 + 0.04 * (-1) ** torch.arange(right.shape[1]))
    for logits, passed in ((right, True), (each, True), (wrong, False)):
        fast = [{0: type(full)(logits, full.reads)}]
        found = compare({0: model}, fast, lambda n: right, lambda n: each, 4)[0]
        assert found.passed == passed, found


def test_dead_edits_are_refused() -> None:
    data = examples("gpt2", "right")
    passes = plan(das(2, -2), data)
    assert "changes only its own tokens" in passes.ineffective["edit"]
    assert "changes nothing that the loss reads" in passes.explain()
    assert not plan(das(2, -2, "attention_key"), data).ineffective
    assert not plan(das(1, -2), data).ineffective
    scored = FullPasses(das(2, -2), data).scored(torch.arange(2))
    assert not scored.logits.requires_grad or not any(
        bool(g.any())
        for g in torch.autograd.grad(scored.logits.sum(), list(das(2, -2).trainable_parameters()), allow_unused=True)
        if g is not None
    )
    with pytest.raises(DataError, match="gradient is exactly zero"):
        fit(das(2, -2), data, progress=False)


def test_plans_are_for_one_model() -> None:
    other = IntervenedModel(three_blocks("llama"), double(cr.das(cr.Site(1, positions="last"), D, 3)))
    with pytest.raises(GraphError, match="one base model"):
        plan_all([das(1), other], examples("gpt2", "no"))


def test_many_fits_are_the_single_fits() -> None:
    data = examples("gpt2", "left")
    sites = [(0, "last"), (2, "last"), (1, -2), (1, "last")]
    settings = {"epochs": 3, "batch_size": 3, "lr": 1e-2, "seed": 4, "progress": False}
    alone = [das(layer, where) for layer, where in sites]
    singles = [fit(model, data, validation=data, **settings) for model in alone]
    together = [das(layer, where) for layer, where in sites]
    joint = fit_many(together, data, validation=data, **settings)
    for one, many, a, b in zip(singles, joint, alone, together, strict=True):
        assert [s["loss"] for s in many.steps] == pytest.approx([s["loss"] for s in one.steps], rel=1e-10)
        assert many.steps[-1]["validation_loss"] == pytest.approx(one.steps[-1]["validation_loss"], rel=1e-10)
        for p, q in zip(a.trainable_parameters(), b.trainable_parameters(), strict=True):
            assert torch.allclose(p, q, rtol=1e-9, atol=1e-12)
            assert not torch.equal(q, next(iter(das(1).trainable_parameters())))


def test_many_fits_stop_each_on_its_own() -> None:
    data = examples("gpt2", "no")
    models = [das(0), das(1)]
    histories = fit_many(
        models, data, validation=data, patience=1, epochs=6, lr=0.5, schedule="constant", warmup=0.0, progress=False
    )
    single = fit(
        das(0), data, validation=data, patience=1, epochs=6, lr=0.5, schedule="constant", warmup=0.0, progress=False
    )
    assert len(histories[0].steps) == len(single.steps)
    assert histories[0].stopped == single.stopped


def test_shared_parameters_are_not_trained_apart() -> None:
    shared = cr.Subspace(D, 3).double()
    graphs = [
        cr.InterventionGraph(edit=cr.Interchange(cr.Site(n, positions="last"), shared, cr.Collect())) for n in (0, 1)
    ]
    models = [IntervenedModel(three_blocks("gpt2"), graph) for graph in graphs]
    with pytest.raises(DataError, match="share parameters"):
        fit_many(models, examples("gpt2", "no"), progress=False)


def test_bfloat16_keeps_are_close_and_said() -> None:
    data, rows = examples("gpt2", "no"), torch.arange(4)
    exact = plan(das(0), data, check=False).scored(rows).logits
    with plan(das(0), data, dtype=torch.bfloat16, check=False) as passes:
        close = passes.scored(rows).logits
        assert not torch.equal(close, exact)
        assert torch.allclose(close, exact, rtol=0.05, atol=0.1)
        assert "values are cached in torch.bfloat16: not exact" in passes.explain()


def test_fit_uses_the_plan_and_full_passes_agree() -> None:
    data = examples("mistral", "left")
    graphs = [double(cr.loreft(cr.site_grid([1, 2], ["last"]), D, 3)) for _ in range(2)]
    models = [IntervenedModel(three_blocks("mistral"), graph) for graph in graphs]
    fast = fit(models[0], data, epochs=4, lr=1e-2, progress=False)
    full = fit(models[1], data, epochs=4, lr=1e-2, progress=False, passes=FullPasses)
    assert [s["loss"] for s in fast.steps] == pytest.approx([s["loss"] for s in full.steps], rel=1e-9)


def test_evaluation_of_an_unfrozen_model_is_fast_too() -> None:
    base = three_blocks("gpt2")
    with plan(das(1), examples("gpt2", "no")) as passes:
        try:
            base.requires_grad_(True)
            with torch.no_grad():
                passes.scored(torch.arange(2))
                assert passes.joint.chosen.joint_passes is not None
                assert passes.joint.chosen.joint_passes.bytes
            with frozen(base):
                passes.scored(torch.arange(2))
        finally:
            base.requires_grad_(False)


@pytest.mark.parametrize("side", ["left", "right"])
def test_collecting_stops_at_the_last_token_and_block(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing after the last named token is computed, and the states are those of the whole pass."""
    base, data = three_blocks("llama"), inputs_of("llama", 0, (7, 5, 6), side)
    graph = cr.InterventionGraph(
        early=cr.Collect("base", cr.Site(0, positions=1)),
        spread=cr.Collect("base", cr.Site(1, "mlp_output", positions="f2")),
    )
    model, seen, block = IntervenedModel(base, graph), [], type(base.model.layers[0])
    own = block.forward
    noted = lambda self, hidden, *args, **kwargs: seen.append(hidden.shape[1]) or own(self, hidden, *args, **kwargs)  # noqa: E731
    with monkeypatch.context() as inside:
        inside.setattr(block, "forward", noted)
        found = model.collect(data)
    assert seen == ([4, 4] if side == "left" else [2, 2])
    whole = model(data).collected
    assert all(torch.allclose(found[name], whole[name], rtol=1e-12) for name in graph)


def test_a_users_own_hook_sees_what_the_model_computes() -> None:
    """Where a hook of the user's own could see or change what flows, collecting runs the model whole."""
    base, data, seen = three_blocks("llama"), inputs_of("llama", 0, (7, 5, 6), "right"), []
    model = IntervenedModel(base, cr.InterventionGraph(at=cr.Collect("base", cr.Site(1, positions="last"))))
    handle = base.model.layers[1].mlp.register_forward_hook(lambda m, args, out: seen.append(out))
    try:
        model.collect(data)
        base(**data)
    finally:
        handle.remove()
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-12, atol=0)


def test_a_users_hook_that_mixes_tokens_sees_all_of_them() -> None:
    """A hook that is not causal gives an early token what a later one holds."""
    base, data = copy.deepcopy(three_blocks("llama")), inputs_of("llama", 0, (7, 5, 6), "right")
    model = IntervenedModel(base, cr.InterventionGraph(at=cr.Collect("base", cr.Site(1, positions="first"))))
    plain = model.collect(data)["at"]
    base.model.layers[0].register_forward_hook(lambda module, args, out: out + out.mean(1, keepdim=True))
    found = model.collect(data)["at"]
    assert float((found - plain).abs().max()) > 1e-3
    torch.testing.assert_close(found, model(data).collected["at"], rtol=1e-12, atol=1e-12)


def test_a_users_hook_that_calls_the_model_is_refused_by_a_plan() -> None:
    """Its blocks are replaced during the call, so no text of the hook's own could be right; full passes can."""
    base, data = copy.deepcopy(three_blocks("llama")), examples("llama", "no")
    model, other, inside = das_of(base), inputs_of("llama", 3, (5, 5), "right"), []

    def ask(module: nn.Module, args: object, output: object) -> None:
        if not inside:
            inside.append(1)
            base(**other)
            inside.clear()

    plain = FullPasses(model, data).scored(torch.arange(3)).logits
    base.model.layers[0].register_forward_hook(ask)
    for call in (lambda: plan(model, data).scored(torch.arange(3)), lambda: fit(model, data, progress=False)):
        inside.clear()
        with pytest.raises(RunError, match="A hook of this LlamaForCausalLM calls it while a plan runs it"):
            call()
    inside.clear()
    assert torch.equal(FullPasses(model, data).scored(torch.arange(3)).logits, plain)
    assert not base._forward_hooks and not base._forward_pre_hooks


def test_a_users_hook_that_calls_a_part_of_the_model_is_refused() -> None:
    base, data, inside = copy.deepcopy(three_blocks("llama")), inputs_of("llama", 0, (7, 7), "right"), []

    def ask(module: nn.Module, args: object, output: object) -> None:
        if not inside:
            inside.append(1)
            base.model(**inputs_of("llama", 3, (5, 5), "right"))

    base.model.layers[0].register_forward_hook(ask)
    seen = IntervenedModel(base, cr.InterventionGraph(at=cr.Collect("base", cr.Site(1, positions="last"))))
    with pytest.raises((SiteError, PositionError)):
        seen.collect(data)


def das_of(base: nn.Module) -> IntervenedModel:
    return IntervenedModel(base, double(cr.das(cr.Site(1, positions="last"), D, 3)))


def test_a_compiled_model_is_planned_and_fitted() -> None:
    """The compiled forward would not see hooks and replaced blocks, so the plain one runs; nothing is compiled."""
    base, data = copy.deepcopy(three_blocks("llama")), examples("llama", "right")
    compiled = torch.compile(copy.deepcopy(base), backend="eager")
    assert isinstance(compiled, nn.Module)
    plain, wrapped = das_of(base), das_of(compiled)
    assert_equal([wrapped], data, [plan(wrapped, data).scored(torch.arange(4))], torch.arange(4))
    losses = [fit(model, data, epochs=2, lr=1e-2, progress=False).steps for model in (plain, wrapped)]
    assert [s["loss"] for s in losses[0]] == pytest.approx([s["loss"] for s in losses[1]], rel=1e-12)


def test_the_plan_of_a_model_that_is_not_frozen_says_what_fit_will_do() -> None:
    base = copy.deepcopy(three_blocks("gpt2")).requires_grad_(True)
    text = plan(das_of(base), examples("gpt2", "no")).explain()
    assert "weights ask for gradients; fits and scores freeze it" in text
    with frozen(base):
        while_fitting = plan(das_of(base), examples("gpt2", "no")).explain()
    assert [line for line in text.splitlines() if "as the model is now" not in line] == while_fitting.splitlines()
    assert all(p.requires_grad for p in base.parameters())


def test_hidden_states_that_were_asked_for_once_cost_nothing_later() -> None:
    """transformers leaves its hooks in the blocks after such a call."""
    base, data = copy.deepcopy(three_blocks("llama")), inputs_of("llama", 0, (7, 5, 6), "right")
    graph = cr.InterventionGraph(at=cr.Collect("base", cr.Site(2, positions="last")))
    work = []
    for options in ({}, {"output_hidden_states": True}):
        base(**data, **options)
        with FlopCounterMode(display=False) as counter:
            IntervenedModel(base, graph).collect(data)
        work.append(counter.get_total_flops())
    assert any(module._forward_hooks for module in base.model.layers)
    assert work[0] == work[1] > 0


@pytest.mark.parametrize("name", [*DECODERS, "bert", "roberta", "distilbert"])
def test_collecting_from_every_family_is_collecting_from_the_whole_pass(name: str) -> None:
    """Only the named tokens run after the attention of the deepest block; what is seen is the same."""
    base, data = model_of(name), inputs_of(name)
    for component in ("block_output", "mlp_output", "attention_output"):
        last, first = (cr.Collect("base", cr.Site(1, component, positions=where)) for where in ("last", "f1"))
        for nodes in ({"last": last}, {"first": first}, {"last": last, "first": first}):
            model = IntervenedModel(base, cr.InterventionGraph(**nodes))
            found, whole = model.collect(data), model(data).collected
            for node in whole:
                torch.testing.assert_close(found[node], whole[node], rtol=1e-12, atol=1e-12, equal_nan=True)


class Keyword(nn.Module):
    """An MLP that its block may call in any way."""

    def __init__(self, returns_tuple: bool = False) -> None:
        super().__init__()
        self.returns_tuple = returns_tuple

    def forward(self, hidden: torch.Tensor, residual: torch.Tensor, scale: float = 1.0) -> object:
        out = scale * hidden.square() + residual
        return (out, None) if self.returns_tuple else out


@pytest.mark.parametrize("returns_tuple", [False, True])
@pytest.mark.parametrize("names", [(), ("scale",), ("residual", "scale"), ("hidden", "residual", "scale")])
def test_the_end_of_a_block_may_be_called_in_any_way(names: tuple[str, ...], returns_tuple: bool) -> None:
    """By position or by name: at the named cells it gives what it gives by itself."""
    mlp, given = (
        Keyword(returns_tuple),
        {"hidden": torch.randn(2, 4, 3), "residual": torch.randn(2, 4, 3), "scale": 2.0},
    )
    rows, columns = torch.tensor([0, 1]), torch.tensor([3, 1])
    args, kwargs = [v for n, v in given.items() if n not in names], {n: given[n] for n in names}
    wanted = mlp(*args, **kwargs)
    with computed_at([mlp], rows, columns, lambda: torch.full_like(wanted, 9.0)):
        known = mlp(*args, **kwargs)
    with computed_at([mlp], rows, columns):
        found = mlp(*args, **kwargs)
    if returns_tuple:
        assert torch.equal(found[0], wanted[0]) and found[1] is None
        return
    assert torch.equal(found[rows, columns], wanted[rows, columns])
    assert torch.equal(known[rows, columns], wanted[rows, columns])
    if "hidden" not in names:
        assert int((known == 9).all(-1).sum()) == 6
        assert int((found != 0).any(-1).sum()) == 2
