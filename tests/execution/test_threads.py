"""Threads on one model: every call gets its own numbers, and plain calls are never edited."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import causal_reft as cr
from causal_reft.execution import Examples, Served, plan
from tests.models import ARCHITECTURES, D_MODEL, ToyMLP, llama, prompts

BATCH = prompts([5, 3, 4], "left")
N_THREADS, N_CALLS = 8, 12


@pytest.fixture(autouse=True)
def quick_switches() -> Iterator[None]:
    """Threads change often, so that what can be mixed is mixed."""
    was = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(was)


def shifting(model: nn.Module, seed: int, where: str = "all") -> cr.IntervenedModel:
    shift = cr.Shift(cr.Constant(torch.randn(D_MODEL, generator=torch.Generator().manual_seed(seed)).double()))
    edits = {
        f"at_{layer}": cr.Interchange(cr.Site(layer, positions=where), cr.Identity(D_MODEL), shift) for layer in (0, 1)
    }
    return cr.IntervenedModel(model, cr.InterventionGraph(**edits))


def learning(model: nn.Module, seed: int) -> tuple[Any, Examples]:
    R, W = cr.Subspace(D_MODEL, 2, seed=seed), cr.LearnedSource(2, D_MODEL, init="random", seed=seed)
    graph = cr.InterventionGraph(edit=cr.Interchange(cr.Site(1, positions="last"), R, W))
    return cr.IntervenedModel(model, graph), Examples({"base": BATCH}, torch.tensor([4, 5, 6]))


def many(jobs: list[Callable[[], Tensor]]) -> None:
    """Every job alone, then all of them at once from many threads: the same numbers, every time."""
    wanted = [job() for job in jobs]
    with ThreadPoolExecutor(N_THREADS) as pool:
        found = list(pool.map(lambda i: (i, jobs[i]()), [i % len(jobs) for i in range(N_CALLS * len(jobs))]))
    for i, value in found:
        torch.testing.assert_close(value, wanted[i], rtol=0, atol=1e-12, msg=f"job {i} of {len(jobs)} is mixed up")


def a_plan(model: nn.Module, seed: int) -> Callable[[], Tensor]:
    reft, data = learning(model, seed)
    mine = plan(reft, data)
    return lambda: mine.scored(torch.arange(3)).logits.detach()


def a_gradient(model: nn.Module, seed: int) -> Callable[[], Tensor]:
    reft, _ = learning(model, seed)

    def job() -> Tensor:
        loss = reft(BATCH).logits[:, -1].square().sum()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(reft.trainable_parameters()))])

    return job


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_many_threads_on_one_model_do_not_mix_their_edits(family: str) -> None:
    model = ARCHITECTURES[family]().requires_grad_(False)
    one, two = shifting(model, 1), shifting(model, 2, "last+generated")
    options = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    seen = cr.IntervenedModel(model, cr.InterventionGraph(seen=cr.Collect("base", cr.Site(1, positions="last"))))
    served = Served(model)
    served.add("one", one.graph)
    many([
        lambda: one(BATCH).logits,
        lambda: two(BATCH).logits,
        lambda: seen.collect(BATCH)["seen"],
        lambda: model(**BATCH).logits,
        lambda: two.generate(BATCH, **options),
        lambda: model.generate(**BATCH, **options),
        lambda: served(BATCH, graphs=["one", None, "one"]).logits,
        a_plan(model, 3),
        a_gradient(model, 4),
    ])  # fmt: skip


def test_a_plain_call_in_another_thread_is_not_edited_while_our_hooks_are_on() -> None:
    model, found = llama(), {}
    plain = model(**BATCH).logits

    def meanwhile(module: nn.Module, args: Any) -> None:
        if not found:
            found["started"] = None
            with ThreadPoolExecutor(1) as pool:
                found["logits"] = pool.submit(lambda: model(**BATCH).logits).result()

    handle = model.model.layers[0].register_forward_pre_hook(meanwhile)
    edited = shifting(model, 1)(BATCH).logits
    handle.remove()
    assert torch.equal(found["logits"], plain) and not torch.equal(edited, plain)


def test_a_plain_call_in_another_thread_is_not_cut_while_a_plan_runs() -> None:
    model, found = llama().requires_grad_(False), []
    plain, scored = model(**BATCH).logits, a_plan(model, 3)
    scored()

    def meanwhile(module: nn.Module, args: Any) -> None:
        if not found:
            found.append(None)
            with ThreadPoolExecutor(1) as pool:
                found[0] = pool.submit(lambda: model(**BATCH).logits).result()

    handle = model.model.layers[-1].register_forward_pre_hook(meanwhile)
    scored()
    handle.remove()
    assert torch.equal(found[0], plain)


def test_a_users_hook_that_calls_the_model_does_not_change_what_is_collected() -> None:
    model, other, inside = llama(), prompts([6, 6], "none", seed=5), []
    reft = cr.IntervenedModel(model, cr.InterventionGraph(seen=cr.Collect("base", cr.Site(1, positions="last"))))
    wanted = reft.collect(BATCH)["seen"]

    def calls_again(module: nn.Module, args: Any) -> None:
        if not inside:
            inside.append(1)
            model(**other)

    handle = model.model.layers[0].register_forward_pre_hook(calls_again)
    found = reft.collect(BATCH)["seen"]
    handle.remove()
    assert inside
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_checkpointed_layers_are_recomputed_under_their_own_threads_edits() -> None:
    model = llama().requires_grad_(False).train()
    model.activation_checkpointing_enable({"use_reentrant": False})
    many([a_gradient(model, seed) for seed in range(3)] + [lambda: model(**BATCH).logits])


def test_threads_on_plain_networks() -> None:
    model, x = ToyMLP(), torch.randn(5, 6, generator=torch.Generator().manual_seed(0)).double()

    def job(value: float) -> Callable[[], Tensor]:
        edit = cr.Interchange(cr.Site.at("first"), cr.Identity(8), cr.Constant(value))
        reft = cr.IntervenedModel(model, cr.InterventionGraph(edit=edit))
        return lambda: reft(x)

    many([*map(job, (0.0, 1.0, -1.0)), lambda: model(x)])
