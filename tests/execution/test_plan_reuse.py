"""A plan that is used again after something changed gives the logits of full passes as they are now."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import causal_reft as cr
from causal_reft.execution import Examples, FullPasses, IntervenedModel, plan, plan_all
from tests.execution.test_plan_exact import double, examples, three_blocks
from tests.families import DECODERS

D = 16
Change = Callable[[nn.Module, IntervenedModel, Examples], None]


def projection(base: nn.Module) -> nn.Linear:
    """The last linear map of the first block."""
    return [m for m in base.get_submodule(blocks_of(base)).get_submodule("0").modules() if hasattr(m, "weight")][-1]


def blocks_of(base: nn.Module) -> str:
    return cr.sites.find_blocks(base).path


def first_block(base: nn.Module) -> nn.Module:
    return base.get_submodule(f"{blocks_of(base)}.0")


def weight_through_data(base: nn.Module, model: IntervenedModel, data: Examples) -> None:
    projection(base).weight.data.mul_(3.0)


def one_number_through_data(base: nn.Module, model: IntervenedModel, data: Examples) -> None:
    projection(base).weight.data.flatten()[0] += 100.0


def weight_replaced(base: nn.Module, model: IntervenedModel, data: Examples) -> None:
    projection(base).weight.data = projection(base).weight.data * 3.0


def parameter_replaced(base: nn.Module, model: IntervenedModel, data: Examples) -> None:
    module = projection(base)
    module.weight = nn.Parameter(module.weight.data * 3.0, requires_grad=False)


def hook_on_a_lower_block(base: nn.Module, model: IntervenedModel, data: Examples) -> None:
    projection(base).register_forward_hook(lambda module, args, output: output * 3.0)


def hook_on_a_lower_input(base: nn.Module, model: IntervenedModel, data: Examples) -> None:
    projection(base).register_forward_pre_hook(lambda module, args: (args[0] * 3.0,))


def forward_replaced(base: nn.Module, model: IntervenedModel, data: Examples) -> None:
    module = projection(base)
    own = module.forward
    module.forward = lambda *args, **kwargs: own(*args, **kwargs) * 3.0


def base_ids_in_place(base: nn.Module, model: IntervenedModel, data: Examples) -> None:
    data.runs["base"]["input_ids"][:, 0] = 3 + (data.runs["base"]["input_ids"][:, 0] + 1) % 5


def source_ids_in_place(base: nn.Module, model: IntervenedModel, data: Examples) -> None:
    ids, mask = (data.runs["source"][key] for key in ("input_ids", "attention_mask"))
    ids.copy_(torch.where(mask == 1, 3 + (ids + 1) % 5, ids))


def source_of_a_frozen_subspace(base: nn.Module, model: IntervenedModel, data: Examples) -> None:
    with torch.no_grad():
        for parameter in model.graph["upstream"].featurizer.parameters():
            parameter.data = parameter.data.flip(-1).contiguous()


def labels_in_place(base: nn.Module, model: IntervenedModel, data: Examples) -> None:
    data.labels.copy_(data.labels.flip(0))


CHANGES = [
    weight_through_data,
    one_number_through_data,
    weight_replaced,
    parameter_replaced,
    hook_on_a_lower_block,
    hook_on_a_lower_input,
    forward_replaced,
    base_ids_in_place,
    source_ids_in_place,
    source_of_a_frozen_subspace,
]


def question(family: str, layer: int = 1, where: object = "last") -> tuple[nn.Module, IntervenedModel, Examples]:
    """A model of its own, a graph whose source run has a frozen edit, and examples of their own."""
    base, data = copy.deepcopy(three_blocks(family)), examples(family, "right")
    data = Examples({run: {k: v.clone() for k, v in given.items()} for run, given in data.runs.items()}, data.labels)
    frozen = cr.Subspace(D, 3, seed=5).requires_grad_(False)
    graph = cr.InterventionGraph(
        upstream=cr.Interchange(cr.Site(0, positions=where), frozen, cr.Collect("other"), run="source"),
        edit=cr.Interchange(cr.Site(layer, positions=where), cr.Subspace(D, 3), cr.Collect("source")),
    )
    return base, IntervenedModel(base, double(graph)), data


def assert_as_full(passes: cr.Plan, model: IntervenedModel, data: Examples) -> torch.Tensor:
    rows = torch.tensor([2, 0, 3])
    mine, full = passes.scored(rows), FullPasses(model, data).scored(rows)
    torch.testing.assert_close(mine.logits, full.logits, rtol=1e-10, atol=1e-10)
    assert torch.equal(mine.targets, full.targets)
    return mine.logits.detach()


@pytest.mark.parametrize("change", [*CHANGES, labels_in_place], ids=lambda change: change.__name__)
def test_a_change_between_two_calls_is_seen(change: Change) -> None:
    base, model, data = question("gpt2")
    passes = plan(model, data)
    before = assert_as_full(passes, model, data)
    change(base, model, data)
    after = assert_as_full(passes, model, data)
    assert change is labels_in_place or float((after - before).abs().max()) > 1e-4, "the change changes the logits"


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_between_two_loops_is_seen(change: Change) -> None:
    base, model, data = question("gpt2")
    passes = plan(model, data)
    for turn in range(2):
        with passes:
            assert_as_full(passes, model, data)
            assert passes.joint.chosen.joint_passes.bytes > 0
        if not turn:
            change(base, model, data)


@settings(max_examples=15)
@given(
    st.sampled_from([name for name in DECODERS if name not in ("gptj", "gemma2")]),
    st.integers(0, 2),
    st.sampled_from(["last", "f2+l1", -2]),
    st.lists(st.tuples(st.sampled_from(CHANGES), st.booleans()), min_size=1, max_size=4),
)
def test_random_changes(family: str, layer: int, where: object, changes: list[tuple[Change, bool]]) -> None:
    """Any changes in any order, each call inside of a loop or not."""
    base, model, data = question(family, layer, where)
    passes = plan(model, data, check=False)
    assert_as_full(passes, model, data)
    for change, loops in changes:
        change(base, model, data)
        if loops:
            with passes:
                assert_as_full(passes, model, data)
                assert_as_full(passes, model, data)
        else:
            assert_as_full(passes, model, data)


class Scaled(nn.Module):
    """A plain network with a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 3)
        self.register_buffer("scale", torch.ones(()))
        self.power = 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second((self.scale * self.first(x)) ** self.power)


@pytest.mark.parametrize(
    "change",
    [
        lambda network: network.scale.mul_(2.0),
        lambda network: network.scale.data.mul_(2.0),
        lambda network: setattr(network, "power", 2),
        lambda network: network.first.weight.data.mul_(2.0),
        lambda network: network.first.register_forward_hook(lambda module, args, output: 2 * output),
    ],
    ids=["buffer", "buffer through data", "attribute", "weight", "hook"],
)
def test_a_plain_network_that_changed(change: Callable[[Scaled], object]) -> None:
    network = Scaled().double().eval().requires_grad_(False)
    runs = {run: torch.randn(5, 6, dtype=torch.float64) for run in ("base", "source")}
    data = Examples(runs, torch.tensor([0, 1, 2, 0, 1]))
    model = IntervenedModel(network, double(cr.das(cr.Site.at("second", port="input"), 6, 2)))
    passes = plan(model, data)
    before = assert_as_full(passes, model, data)
    change(network)
    assert float((assert_as_full(passes, model, data) - before).abs().max()) > 1e-4


class Buffers(nn.Module):
    """A network without a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Tanh(), nn.Identity()
        self.register_buffer("weight", torch.randn(6, 3, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x)) @ self.weight


def test_a_network_of_buffers_alone_is_run_collected_and_planned() -> None:
    runs = {run: torch.randn(5, 6, dtype=torch.float64) for run in ("base", "source")}
    model = IntervenedModel(Buffers(), double(cr.das(cr.Site.at("second"), 6, 2)))
    data = Examples(runs, torch.tensor([0, 1, 2, 0, 1]))
    assert_as_full(plan(model, data), model, data)
    seen = IntervenedModel(Buffers(), cr.InterventionGraph(seen=cr.Collect("base", cr.Site.at("first"))))
    assert torch.equal(seen.collect(runs["base"])["seen"][:, 0], runs["base"].tanh())


def test_adapters_that_are_switched_off_and_on() -> None:
    peft = pytest.importorskip("peft")
    base, _, data = question("llama")
    wrapped = peft.get_peft_model(base, peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)).eval()
    wrapped.double().requires_grad_(False)
    model = IntervenedModel(wrapped, double(cr.das(cr.Site(1, positions="last"), D, 3)))
    passes = plan(model, data)
    on = assert_as_full(passes, model, data)
    with wrapped.disable_adapter():
        off = assert_as_full(passes, model, data)
    assert float((on - off).abs().max()) > 1e-4
    torch.testing.assert_close(assert_as_full(passes, model, data), on, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_another_precision(dtype: torch.dtype) -> None:
    base, model, data = question("llama")
    passes = plan(model, data)
    assert_as_full(passes, model, data)
    base.to(dtype)
    mine, full = passes.scored(torch.arange(4)).logits, FullPasses(model, data).scored(torch.arange(4)).logits
    assert mine.dtype == dtype
    torch.testing.assert_close(mine, full)
    with passes:
        torch.testing.assert_close(passes.scored(torch.arange(4)).logits, full)


def test_a_weight_that_is_written_inside_of_a_loop() -> None:
    base, model, data = question("gpt2")
    with plan(model, data) as passes:
        assert_as_full(passes, model, data)
        with torch.no_grad():
            projection(base).weight.mul_(3.0)
        assert_as_full(passes, model, data)


def test_loops_of_one_plan_may_lie_in_one_another() -> None:
    _, model, data = question("gpt2")
    with plan_all([model], data) as joint:
        with joint:
            joint.scored(torch.arange(2))
            chosen = joint.chosen
        assert joint.chosen is chosen
        assert chosen.joint_passes.bytes > 0
    assert joint.chosen is not chosen
    assert joint.chosen.joint_passes.bytes == 0
