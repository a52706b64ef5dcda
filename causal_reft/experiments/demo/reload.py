"""A new process that loads a saved intervened model and computes logits.

python -m causal_reft.experiments.demo.reload REFT BASE FILE
"""

from __future__ import annotations

import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from causal_reft.execution import IntervenedModel


@torch.no_grad()
def main(reft: str, base: str, exchange: str) -> None:
    """Read `input_ids` from the file and add `logits` to it."""
    model = IntervenedModel.from_pretrained(reft, AutoModelForCausalLM.from_pretrained(base).eval()).eval()
    ids = load_file(exchange)["input_ids"]
    save_file({"input_ids": ids, "logits": model(input_ids=ids).logits.contiguous()}, exchange)


if __name__ == "__main__":
    main(*sys.argv[1:])
