"""Training on preferences: the loss against plain float64 lines, the same model as the reference, either padding."""

from __future__ import annotations

import math

import pytest
import torch

import causal_reft as cr
from causal_reft.errors import DataError
from causal_reft.reft import ReftCollator
from tests.reft.test_trainer import arguments, reft_of

PAIRS = [
    ("who is it", "the cat", "a dog sees"),
    ("a dog sees", "the old grey owl", "it"),
    ("what", "it is a dog", "cat"),
]
LOSSES = {"DPO": cr.DPO(beta=0.3), "RePS": cr.RePS()}


def by_hand(name: str, reft: cr.IntervenedModel, pairs: list) -> torch.Tensor:
    """Row by row without padding; the prompt ends where the completion begins."""
    losses = []
    for pair in pairs:
        edited, plain, n = {}, {}, {}
        for side, record in pair.items():
            ids, prompt = torch.tensor([record["input_ids"]]), record["prompt_lengths"]
            given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "prompt_lengths": [prompt]}
            n[side] = ids.shape[1] - prompt
            for found, model in ((edited, reft), (plain, reft.with_graph(cr.InterventionGraph()))):
                logp = model(given).logits[0, :-1].log_softmax(-1)
                found[side] = sum(logp[t - 1, int(ids[0, t])] for t in range(prompt, ids.shape[1]))
        if name == "DPO":
            x = 0.3 * (edited["chosen"] - plain["chosen"] - edited["rejected"] + plain["rejected"])
        else:
            weight = (plain["rejected"] - plain["chosen"]).detach().clamp_min(1)
            x = weight * edited["chosen"] / n["chosen"] - edited["rejected"] / n["rejected"]
        losses.append(torch.log1p(torch.exp(-x)))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_is_its_formula(name, side, tokenizer, model, tmp_path):
    reft, pairs = reft_of(model.double(), tokenizer), cr.preferences(PAIRS, tokenizer)
    generator = torch.Generator().manual_seed(1)
    for parameter in reft.graph.modules.double().parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    trainer = cr.ReftTrainer(reft, arguments(tmp_path), train_dataset=pairs, preference=LOSSES[name])
    ours = trainer.compute_loss(reft, ReftCollator(0, side)(pairs))
    expected = by_hand(name, reft, pairs)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)
    leaves = list(reft.trainable_parameters())
    for mine, theirs in zip(*(torch.autograd.grad(loss, leaves) for loss in (ours, expected)), strict=True):
        assert theirs.abs().max() > 1e-9
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_it_learns_the_preference_and_evaluates(name, tokenizer, model, tmp_path):
    """From log 2, where edited and plain model are equal; nothing of the base changes."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    reft, pairs = reft_of(model, tokenizer), cr.preferences(PAIRS, tokenizer)
    options = {"train_dataset": pairs, "eval_dataset": pairs, "preference": LOSSES[name]}
    trainer = cr.ReftTrainer(reft, arguments(tmp_path, max_steps=12), **options)
    start = trainer.evaluate()["eval_loss"]
    assert name == "RePS" or start == pytest.approx(math.log(2), abs=1e-6)
    trainer.train()
    assert trainer.why_full == "preferences are compared in pairs"
    assert trainer.evaluate()["eval_loss"] < 0.8 * start
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [module for module in reft.modules() if type(module) is type(model)] == [model], "there is one copy"


def test_pairs_that_cannot_be_compared_are_refused(tokenizer, model, tmp_path):
    long = cr.preferences([("who is it", "the cat", "a dog " * 40)], tokenizer)
    with pytest.raises(DataError, match="was made for 64"):
        cr.ReftTrainer(reft_of(model, tokenizer), arguments(tmp_path), train_dataset=long)
    last = cr.IntervenedModel(model, cr.loreft(cr.Site(2, positions="f1"), 16, 2), tokenizer)
    with pytest.raises(DataError, match="gradient is exactly zero"):
        cr.ReftTrainer(last, arguments(tmp_path), train_dataset=cr.preferences(PAIRS[:2], tokenizer)).train()
