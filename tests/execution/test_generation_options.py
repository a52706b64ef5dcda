"""Ways of generating: the edit acts where training edits, or the call is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

import causal_reft as cr
from causal_reft.errors import RunError
from tests.models import D_MODEL, gpt2, llama, neox, prompts

BATCH = prompts([6, 3, 4], "left")
GREEDY = {"do_sample": False, "pad_token_id": 0}


def shifting(model: Any, where: str, seed: int = 0) -> cr.IntervenedModel:
    v = 2 * torch.randn(D_MODEL, generator=torch.Generator().manual_seed(seed)).double()
    edit = cr.Interchange(cr.Site(1, positions=where), cr.Identity(D_MODEL), cr.Shift(cr.Constant(v)))
    return cr.IntervenedModel(model, cr.InterventionGraph(edit=edit))


def filled(model: Any, columns: int) -> DynamicCache:
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(**{key: value[:, :columns] for key, value in BATCH.items()}, past_key_values=cache, use_cache=True)
    return cache


@pytest.mark.parametrize("make", [gpt2, llama, neox])
def test_a_cache_that_holds_the_prompt_is_refused_because_its_tokens_would_not_be_edited(make: Any) -> None:
    model = make()
    reft = shifting(model, "first")
    with pytest.raises(RunError, match=r"generate was given past_key_values that hold 5 tokens"):
        reft.generate(BATCH, past_key_values=filled(model, 5), max_new_tokens=2, **GREEDY)
    with pytest.raises(RunError, match=r"run 'base' was given past_key_values that hold 5 tokens"):
        reft(BATCH, past_key_values=filled(model, 5))


def test_an_empty_cache_is_welcome() -> None:
    model = llama()
    reft = shifting(model, "first")
    wanted = reft.generate(BATCH, max_new_tokens=3, **GREEDY)
    cache = DynamicCache(config=model.config)
    assert torch.equal(reft.generate(BATCH, past_key_values=cache, max_new_tokens=3, **GREEDY), wanted)
    empty = DynamicCache(config=model.config)
    assert torch.equal(reft(BATCH, past_key_values=empty).logits, reft(BATCH).logits)


def test_guidance_by_a_text_without_the_prompt_is_refused() -> None:
    reft = shifting(llama(), "last")
    with pytest.raises(RunError, match=r"guidance_scale=1.5"):
        reft.generate(BATCH, guidance_scale=1.5, max_new_tokens=2, **GREEDY)
    reft.base_model.generation_config.guidance_scale = 2.0
    with pytest.raises(RunError, match=r"guidance_scale=2.0"):
        reft.generate(BATCH, max_new_tokens=2, **GREEDY)


def by_hand(reft: cr.IntervenedModel, steps: int) -> torch.Tensor:
    """Greedy decoding by whole forwards, whose prompts end where the given ones do."""
    batch, lengths = dict(BATCH), BATCH["attention_mask"].sum(1)
    for _ in range(steps):
        with torch.no_grad():
            last = reft({**batch, "prompt_lengths": lengths}).logits[:, -1].argmax(-1, keepdim=True)
        batch = {"input_ids": torch.cat([batch["input_ids"], last], 1),
                 "attention_mask": torch.cat([batch["attention_mask"], torch.ones_like(last)], 1)}  # fmt: skip
    return batch["input_ids"]


OPTIONS: dict[str, dict[str, Any]] = {
    "cached": {},
    "without a cache": {"use_cache": False},
    "a static cache": {"cache_implementation": "static"},
    "prompt lookup": {"prompt_lookup_num_tokens": 2},
    "in chunks": {"prefill_chunk_size": 2},
    "one beam of several": {"num_return_sequences": 1, "num_beams": 1},
}


@settings(max_examples=40)
@given(
    name=st.sampled_from(sorted(OPTIONS)), make=st.sampled_from([gpt2, llama]), steps=st.integers(1, 4),
    where=st.sampled_from(["first", "last", "all", "generated", "last+generated", "f2+l1"]), seed=st.integers(0, 3),
)  # fmt: skip
def test_random_ways_of_decoding_give_the_tokens_of_whole_forwards(
    name: str, make: Any, steps: int, where: str, seed: int
) -> None:
    reft = shifting(make(), where, seed)
    reft.base_model.generation_config.eos_token_id = None
    one = {key: value[:1] for key, value in BATCH.items()} if name == "prompt lookup" else BATCH
    try:
        found = reft.generate(one, max_new_tokens=steps, min_new_tokens=steps, **GREEDY, **OPTIONS[name])
    except RunError:
        return
    assert torch.equal(found, by_hand(reft, steps)[: len(found)])
