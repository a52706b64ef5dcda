"""One kernel for a chain of elementwise steps: the same function, and only where nobody could tell otherwise."""

from __future__ import annotations

import pytest
import torch
from transformers.activations import ACT2FN

import causal_reft as cr
from causal_reft.execution.kernels import chains, in_one_kernel
from tests.families import DECODERS, inputs_of, model_of


def value_and_slope(function: torch.nn.Module, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.linspace(-12, 12, 4001, dtype=dtype, requires_grad=True)
    value = function(x)
    return value, torch.autograd.grad(value.sum(), x)[0]


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-14), (torch.float32, 3e-6)])
def test_it_is_the_same_function(dtype: torch.dtype, bound: float) -> None:
    function = ACT2FN["gelu_new"]
    wanted = value_and_slope(function, dtype)
    with in_one_kernel(chains(function)):
        found = value_and_slope(function, dtype)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=bound)
    assert not torch.equal(found[1], wanted[1])  # another kernel did run


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_models_own_steps(dtype: torch.dtype) -> None:
    function = ACT2FN["gelu_new"]
    wanted = value_and_slope(function, dtype)
    with in_one_kernel(chains(function)):
        found = value_and_slope(function, dtype)
    assert all(map(torch.equal, found, wanted))


def test_a_forward_of_the_users_own_stays() -> None:
    function = ACT2FN["gelu_new"]
    function.forward = torch.relu
    with in_one_kernel(chains(function)):
        assert torch.equal(function(torch.tensor([-1.0, 2.0])), torch.tensor([0.0, 2.0]))
    assert vars(function)["forward"] is torch.relu


def test_nothing_is_left_behind() -> None:
    function = ACT2FN["gelu_new"]
    with pytest.raises(ZeroDivisionError), in_one_kernel(chains(function)):
        raise ZeroDivisionError
    assert "forward" not in vars(function)


@pytest.mark.parametrize("name", DECODERS)
def test_collected_states_are_those_of_the_whole_pass(name: str) -> None:
    """The whole pass runs the model's own activations, `collect` the one kernel."""
    model, inputs = model_of(name), inputs_of(name)
    graph = cr.InterventionGraph(seen=cr.Collect("base", cr.Site(1, "mlp_output")))
    under = cr.IntervenedModel(model, graph)
    wanted = under(inputs).collected["seen"]
    assert float(wanted[~wanted.isnan()].abs().max()) > 1e-3
    torch.testing.assert_close(under.collect(inputs)["seen"], wanted, rtol=0, atol=1e-12, equal_nan=True)
