"""Tiny models of three families and ragged batches for them, in float64, so that a formula can be checked to rounding.

Weights are drawn wide (standard deviation 0.3), so that an edit at any layer moves the logits by more than any
tolerance in use. `prompts` pads on the left, on the right, or gives rows of equal length ("none").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

logging.set_verbosity_error()  # tiny vocabularies lack the special tokens that the default configs name

D_MODEL, N_LAYERS, VOCABULARY = 16, 3, 23
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SIDES = ("left", "right", "none")


def gpt2(seed: int = 0, dtype: torch.dtype = torch.float64, n_layers: int = N_LAYERS) -> GPT2LMHeadModel:
    """Learned positions, one fused query-key-value projection."""
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=D_MODEL, n_layer=n_layers, n_head=2, n_positions=64, initializer_range=0.3,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **SPECIAL,
    )  # fmt: skip
    return _built(GPT2LMHeadModel, config, seed, dtype)


def llama(seed: int = 0, dtype: torch.dtype = torch.float64, n_layers: int = N_LAYERS) -> LlamaForCausalLM:
    """Rotary positions, four query heads on two key/value heads."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=D_MODEL, num_hidden_layers=n_layers, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=24, max_position_embeddings=64, initializer_range=0.3, **SPECIAL,
    )  # fmt: skip
    return _built(LlamaForCausalLM, config, seed, dtype)


def neox(seed: int = 0, dtype: torch.dtype = torch.float64, n_layers: int = N_LAYERS) -> GPTNeoXForCausalLM:
    """Rotary positions on part of a head, attention and MLP side by side."""
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY, hidden_size=D_MODEL, num_hidden_layers=n_layers, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=64, initializer_range=0.3, **SPECIAL,
    )  # fmt: skip
    return _built(GPTNeoXForCausalLM, config, seed, dtype)


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {"gpt2": gpt2, "llama": llama, "neox": neox}
BLOCKS = {"gpt2": "transformer.h", "llama": "model.layers", "neox": "gpt_neox.layers"}


class ToyMLP(nn.Module):
    """Three linear layers with activations between: sites `first`, `second`, `third` by path; no positions."""

    def __init__(self, d_in: int = 6, width: int = 8, classes: int = 3, inplace: bool = False, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first, self.second = nn.Linear(d_in, width), nn.Linear(width, width)
            self.third = nn.Linear(width, classes)
        self.act = nn.ReLU(inplace=inplace)
        self.to(torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.act(self.second(self.act(self.first(x)))))


def blocks(model: nn.Module, family: str) -> nn.ModuleList:
    """The model's blocks."""
    found = model.get_submodule(BLOCKS[family])
    assert isinstance(found, nn.ModuleList)
    return found


def prompts(lengths: Sequence[int], side: str = "right", seed: int = 0) -> dict[str, Tensor]:
    """Random token ids and their mask for rows of these lengths; `side="none"` makes all as long as the longest."""
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths)
    ids = torch.randint(3, VOCABULARY, (len(lengths), width), generator=generator)
    mask = torch.ones(len(lengths), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        if side == "left":
            mask[row, : width - length] = 0
        if side == "right":
            mask[row, length:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def same_prompts(batch: dict[str, Tensor], side: str, extra: int = 0) -> dict[str, Tensor]:
    """The same texts padded on another side, with `extra` columns of padding more."""
    texts = [ids[mask != 0] for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    width = max(map(len, texts)) + extra
    ids, mask = (torch.zeros(len(texts), width, dtype=torch.long) for _ in range(2))
    for row, text in enumerate(texts):
        cells = slice(width - len(text), width) if side == "left" else slice(0, len(text))
        ids[row, cells], mask[row, cells] = text, 1
    return {"input_ids": ids, "attention_mask": mask}


def at_real_tokens(values: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """(token, ...) from (batch, pos, ...): the real tokens alone, row by row."""
    return values[batch["attention_mask"] != 0]


def _built(kind: Callable[..., nn.Module], config: object, seed: int, dtype: torch.dtype):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind(config)
    return model.to(dtype).eval()
