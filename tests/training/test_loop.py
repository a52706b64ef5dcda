"""The training loop, step by step, against one that is written out plainly: the same losses and the same parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import causal_reft as cr
from causal_reft.seeds import derive
from causal_reft.training import fit_many
from tests.models import D_MODEL, gpt2
from tests.training.test_fit import text_examples

N_ROWS, EPOCHS, BATCH, LR, WARMUP, DECAY, CLIP, SEED = 11, 3, 2, 3e-2, 0.25, 0.01, 0.5, 7
SETTINGS = {"epochs": EPOCHS, "batch_size": BATCH, "lr": LR, "warmup": WARMUP, "seed": SEED, "progress": False}
SETTINGS |= {"weight_decay": DECAY, "clip": CLIP}


def reft(layer: int = 1) -> cr.IntervenedModel:
    graph = cr.loreft(cr.Site(layer, positions="last"), D_MODEL, 2, seed=3, init="random")
    graph.modules.double()
    return cr.IntervenedModel(gpt2(), graph)


def examples() -> cr.Examples:
    """Eleven texts: the last batch has one row, and answers have one to three tokens, so that steps are unequal."""
    return text_examples(N_ROWS)


def factor(schedule: str, step: int, steps: int) -> float:
    """The learning rate's share of its peak."""
    rising = round(WARMUP * steps)
    if step < rising:
        return step / rising
    done = (step - rising) / (steps - rising)
    return (1 + math.cos(math.pi * done)) / 2 if schedule == "cosine" else 1 - done


def plain(model: cr.IntervenedModel, data: cr.Examples, accumulate: int, schedule: str) -> tuple[list[float], Any]:
    """What `fit` means: full passes, one backward over the concatenated reads of each step."""
    parameters = list(model.trainable_parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1.0, weight_decay=DECAY)
    passes, order = cr.FullPasses(model, data), torch.Generator().manual_seed(derive(SEED, "data order"))
    model.base_model.requires_grad_(False).eval()
    losses, total = [], EPOCHS * math.ceil(math.ceil(N_ROWS / BATCH) / accumulate)
    for _ in range(EPOCHS):
        for rows in torch.randperm(N_ROWS, generator=order).split(BATCH * accumulate):
            scored = passes.scored(rows)
            loss = nn.functional.cross_entropy(scored.logits, scored.targets)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, CLIP)
            optimizer.param_groups[0]["lr"] = LR * factor(schedule, len(losses), total)
            optimizer.step()
            losses.append(loss.item())
    return losses, parameters


@pytest.mark.parametrize("passes", [cr.FullPasses, cr.plan])
@pytest.mark.parametrize(("accumulate", "schedule"), [(1, "linear"), (1, "cosine"), (2, "linear"), (3, "cosine")])
def test_fit_is_the_plain_loop(passes: Callable[..., Any], accumulate: int, schedule: str) -> None:
    expected, learned = plain(reft(), examples(), accumulate, schedule)
    model = reft()
    history = cr.fit(model, examples(), passes=passes, accumulate=accumulate, schedule=schedule, **SETTINGS)
    assert [step["loss"] for step in history.steps] == pytest.approx(expected, rel=1e-10)
    close(model, learned)


def test_fit_many_is_the_plain_loop_for_each_graph() -> None:
    models = [reft(layer) for layer in (0, 1, 2)]
    shared = [cr.IntervenedModel(models[0].base_model, model.graph) for model in models]
    histories = fit_many(shared, examples(), accumulate=2, schedule="linear", **SETTINGS)
    for layer, history in enumerate(histories):
        expected, learned = plain(reft(layer), examples(), 2, "linear")
        assert [step["loss"] for step in history.steps] == pytest.approx(expected, rel=1e-10)
        close(shared[layer], learned)


def close(model: cr.IntervenedModel, learned: list[Tensor]) -> None:
    for mine, theirs in zip(model.trainable_parameters(), learned, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)
