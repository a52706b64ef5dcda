"""Texts padded on the left are read as the texts themselves, or refused, in families that no table knows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as t
from torch import nn

import causal_reft as cr
from causal_reft.errors import RunError
from tests.families import padded, randomised

SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GPT = {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, **SPECIAL}
WIDE = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
XGLM = {"vocab_size": 40, "d_model": 16, "ffn_dim": 24, "num_layers": 2, "attention_heads": 2, **SPECIAL}
STABLE = {**WIDE, "num_key_value_heads": 2, **SPECIAL}
BART = {
    "vocab_size": 40, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 64,
    "decoder_start_token_id": 2, "forced_eos_token_id": None, **SPECIAL,
}  # fmt: skip
FAMILIES: dict[str, tuple[Any, str]] = {
    "gpt_neo": (
        lambda: t.GPTNeoForCausalLM(t.GPTNeoConfig(
            vocab_size=40, hidden_size=16, num_layers=2, num_heads=2, attention_types=[[["global"], 2]],
            max_position_embeddings=64, **SPECIAL)), "transformer.h.1"),
    "gpt_bigcode": (lambda: t.GPTBigCodeForCausalLM(t.GPTBigCodeConfig(**GPT)), "transformer.h.1"),
    "biogpt": (lambda: t.BioGptForCausalLM(t.BioGptConfig(**WIDE, **SPECIAL)), "biogpt.layers.1"),
    "xglm": (lambda: t.XGLMForCausalLM(t.XGLMConfig(**XGLM)), "model.layers.1"),
    "openai-gpt": (lambda: t.OpenAIGPTLMHeadModel(t.OpenAIGPTConfig(**GPT)), "transformer.h.1"),
    "ctrl": (lambda: t.CTRLLMHeadModel(t.CTRLConfig(**GPT, dff=24)), "transformer.h.1"),
    "electra": (lambda: t.ElectraForMaskedLM(t.ElectraConfig(**WIDE, embedding_size=16)), "electra.encoder.layer.1"),
    "bart": (lambda: t.BartForConditionalGeneration(t.BartConfig(**BART)), "model.encoder.layers.1"),
    "stablelm": (lambda: t.StableLmForCausalLM(t.StableLmConfig(**STABLE)), "model.layers.1"),
}  # fmt: skip
TEXTS = [torch.tensor([7, 9, 11]), torch.tensor([6, 5, 30, 21, 12, 17])]


def built(name: str) -> tuple[nn.Module, cr.IntervenedModel]:
    torch.manual_seed(0)
    model = randomised(FAMILIES[name][0]()).eval().requires_grad_(False)
    model.to(torch.float32 if name == "xglm" else torch.float64)  # xglm's mask overflows in float64
    site = cr.Site.at(FAMILIES[name][1], positions="all")
    return model, cr.IntervenedModel(model, cr.InterventionGraph(seen=cr.Collect("base", site)))


def extra(name: str, n: int) -> dict[str, torch.Tensor]:
    return {"decoder_input_ids": torch.full((n, 1), 2)} if name == "bart" else {}


REFUSED = ("bart",)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_left_padded_text_is_read_as_the_text_itself_or_refused(name: str) -> None:
    _, reft = built(name)
    if name in REFUSED:
        with pytest.raises(RunError, match=r"gives other numbers for a text.*Pad on the right"):
            reft({**padded(TEXTS, "left"), **extra(name, 2)})
        reft({**padded(TEXTS, "right"), **extra(name, 2)})
        return
    found = reft({**padded(TEXTS, "left"), **extra(name, 2)}).collected["seen"]
    for row, text in enumerate(TEXTS):
        wanted = reft({"input_ids": text[None], **extra(name, 1)}).collected["seen"][0]
        torch.testing.assert_close(found[row, : len(text)], wanted, rtol=1e-5, atol=1e-5)


def test_the_model_is_asked_once() -> None:
    model, reft = built("gpt_neo")
    calls: list[int] = []
    handle = model.register_forward_pre_hook(lambda m, args: calls.append(1))
    for _ in range(2):
        reft(padded(TEXTS, "left"))
    handle.remove()
    assert len(calls) == 3 + 2
