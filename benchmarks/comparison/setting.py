"""The models and the data: random weights in the shapes of known models, random tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import transformers

from causal_reft.execution import Examples

IDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}


@dataclass(frozen=True)
class Setting:
    """One model shape with T tokens a row and B rows a batch."""

    name: str
    n_layers: int
    d_model: int
    T: int = 64
    B: int = 8
    rank: int = 16

    @property
    def middle(self) -> int:
        """A position in the middle of the text."""
        return self.T // 2


GPT2 = Setting("GPT-2 small", 12, 768)
LLAMA = Setting("Llama, 8 x 512", 8, 512)
TINY = Setting("GPT-2, 3 x 64", 3, 64, T=32, B=4, rank=4)


@lru_cache(maxsize=2)
def model_of(setting: Setting) -> torch.nn.Module:
    """The model, frozen, in evaluation mode."""
    torch.manual_seed(0)
    if setting.name.startswith("Llama"):
        config = transformers.LlamaConfig(
            vocab_size=32000,
            hidden_size=setting.d_model,
            intermediate_size=1376,
            num_hidden_layers=setting.n_layers,
            num_attention_heads=8,
            num_key_value_heads=8,
            **IDS,
        )
    else:
        vocabulary = 50257 if setting == GPT2 else 500
        config = transformers.GPT2Config(
            vocab_size=vocabulary,
            n_embd=setting.d_model,
            n_layer=setting.n_layers,
            n_head=setting.d_model // 64 if setting == GPT2 else 4,
            **IDS,
        )
    return transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


def texts(setting: Setting, n_rows: int, seed: int = 0) -> Examples:
    """Pairs of texts without padding, and one class for each."""
    draw = torch.Generator().manual_seed(seed)

    def run() -> dict[str, torch.Tensor]:
        ids = torch.randint(1, 400, (n_rows, setting.T), generator=draw)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    return Examples({"base": run(), "source": run()}, torch.randint(1, 400, (n_rows,), generator=draw))


def answers(setting: Setting, n_rows: int, n_answer: int) -> Examples:
    """Prompts followed by answer tokens, whose labels alone are read."""
    base = dict(texts(setting, n_rows).runs["base"])
    ids = base["input_ids"]
    labels = ids.clone()
    labels[:, : setting.T - n_answer] = -100
    base["prompt_lengths"] = torch.full((n_rows,), setting.T - n_answer)
    return Examples({"base": base}, labels)
