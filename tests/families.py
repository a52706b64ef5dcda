"""Tiny random models of every family in the architecture table, in float64, and inputs for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import transformers as t

N_LAYERS, HEADS, KEY_HEADS, VOCABULARY = 2, 4, 2, 40

_NAMES = {
    "vocab_size": VOCABULARY,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 64,
}
_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}
_ENCODER = {**_NAMES, "hidden_size": 16, "intermediate_size": 24, "pad_token_id": 0}
_LLAMA = {
    **_NAMES,
    **_IDS,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_key_value_heads": KEY_HEADS,
    "tie_word_embeddings": False,
}
_WIDE = {**_LLAMA, "head_dim": 8}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
_GPT = {**_IDS, "vocab_size": VOCABULARY, "n_embd": 16, "n_layer": N_LAYERS, "n_head": HEADS, "n_positions": 64}


@dataclass(frozen=True)
class Family:
    """One tiny model: how to build it, and what kind of model it is."""

    name: str
    build: Callable[[], torch.nn.Module]
    kind: str = "decoder"


def _decoder(name: str, config: type, **settings: Any) -> Family:
    return Family(name, lambda: t.AutoModelForCausalLM.from_config(config(**settings), experts_implementation="eager"))


_FALCON = {**_NAMES, **_IDS, "hidden_size": 16}
FAMILIES = {
    family.name: family
    for family in (
        _decoder("gpt2", t.GPT2Config, **_GPT),
        _decoder("gptj", t.GPTJConfig, **_GPT, rotary_dim=2),
        _decoder("gpt_neox", t.GPTNeoXConfig, **_NAMES, **_IDS, hidden_size=16, intermediate_size=24),
        _decoder("opt", t.OPTConfig, **_NAMES, **_IDS, hidden_size=16, ffn_dim=24, word_embed_proj_dim=16),
        _decoder("bloom", t.BloomConfig, **_IDS, vocab_size=VOCABULARY, hidden_size=16, n_layer=N_LAYERS, n_head=HEADS),
        _decoder("falcon", t.FalconConfig, **_FALCON),
        _decoder("falcon_groups", t.FalconConfig, **_FALCON, new_decoder_architecture=True, num_kv_heads=KEY_HEADS),
        _decoder("falcon_heads", t.FalconConfig, **_FALCON, multi_query=False, alibi=True, parallel_attn=False),
        _decoder("llama", t.LlamaConfig, **_LLAMA),
        _decoder("mistral", t.MistralConfig, **_WIDE, sliding_window=4),
        _decoder("mixtral", t.MixtralConfig, **_LLAMA, num_local_experts=4),
        _decoder("qwen2", t.Qwen2Config, **_LLAMA),
        _decoder("qwen3", t.Qwen3Config, **_WIDE),
        _decoder("qwen2_moe", t.Qwen2MoeConfig, **_LLAMA, **_EXPERTS),
        _decoder("qwen3_moe", t.Qwen3MoeConfig, **_WIDE, **_EXPERTS),
        _decoder("gemma", t.GemmaConfig, **_WIDE),
        _decoder("gemma2", t.Gemma2Config, **_WIDE, query_pre_attn_scalar=8, sliding_window=4),
        _decoder("gemma3", t.Gemma3TextConfig, **_WIDE, query_pre_attn_scalar=8, sliding_window=4),
        _decoder("phi3", t.Phi3Config, **_LLAMA),
        _decoder("olmo2", t.Olmo2Config, **_LLAMA),
        Family("bert", lambda: t.BertModel(t.BertConfig(**_ENCODER)), "encoder"),
        Family("roberta", lambda: t.RobertaModel(t.RobertaConfig(**_ENCODER)), "encoder"),
        Family(
            "distilbert",
            lambda: t.DistilBertModel(
                t.DistilBertConfig(
                    vocab_size=VOCABULARY, dim=16, hidden_dim=24, n_layers=N_LAYERS, n_heads=HEADS,
                    max_position_embeddings=64,
                )
            ),
            "encoder",
        ),
        Family(
            "t5",
            lambda: t.T5ForConditionalGeneration(
                t.T5Config(
                    vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=24, num_layers=N_LAYERS, num_heads=HEADS,
                    decoder_start_token_id=0, pad_token_id=0, eos_token_id=None,
                )
            ),
            "encoder-decoder",
        ),
        Family(
            "vit",
            lambda: t.ViTModel(
                t.ViTConfig(
                    hidden_size=16, intermediate_size=24, num_hidden_layers=N_LAYERS, num_attention_heads=HEADS,
                    image_size=8, patch_size=4,
                )
            ),
            "image",
        ),
    )
}  # fmt: skip
# in float64, where they add a mask of float64 before a softmax of float32
NAN_ON_LEFT_PADDING = ("bloom", "gemma2")
DECODERS = tuple(name for name, family in FAMILIES.items() if family.kind == "decoder")


@cache
def model_of(name: str) -> torch.nn.Module:
    """The family's model, float64, in evaluation mode; shared by all tests, so nobody may change it."""
    torch.manual_seed(1)
    return randomised(FAMILIES[name].build()).double().eval().requires_grad_(False)


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """The model with weights large enough for every part to matter."""
    for key, parameter in model.named_parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0.0 if key.endswith("bias") else 1.0, 0.3)
        else:
            torch.nn.init.normal_(parameter, 0.0, 0.3)
    return model


def inputs_of(
    name: str, seed: int = 0, lengths: tuple[int, ...] = (6, 4, 5), side: str = "right"
) -> dict[str, torch.Tensor]:
    """Rows of unequal length padded on one side; three images for the image model."""
    draw = torch.Generator().manual_seed(seed)
    if FAMILIES[name].kind == "image":
        return {"pixel_values": torch.randn(len(lengths), 3, 8, 8, generator=draw, dtype=torch.float64)}
    rows = [torch.randint(2, VOCABULARY, (n,), generator=draw) for n in lengths]
    inputs = padded(rows, side)
    if FAMILIES[name].kind == "encoder-decoder":
        inputs["decoder_input_ids"] = torch.randint(2, VOCABULARY, (len(lengths), 5), generator=draw)
    return inputs


def padded(rows: list[torch.Tensor], side: str) -> dict[str, torch.Tensor]:
    """Token rows as one batch with its mask."""
    width = max(map(len, rows))

    def row(values: torch.Tensor) -> torch.Tensor:
        pads = torch.zeros(width - len(values), dtype=values.dtype)
        return torch.cat([pads, values] if side == "left" else [values, pads])

    return {
        "input_ids": torch.stack([row(r) for r in rows]),
        "attention_mask": torch.stack([row(torch.ones_like(r)) for r in rows]),
    }


def output_of(output: Any) -> torch.Tensor:
    """The tensor that one compares: logits, or the last hidden state."""
    return output.logits if "logits" in output else output.last_hidden_state
