"""What saved graphs compute, as a process of its own prints it into a file:

python -m tests.graph.reloaded FOLDER OUT       each folder FOLDER/<dtype>/<name> loaded onto the same tiny GPT-2
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

import causal_reft as cr
from tests.models import gpt2, prompts

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


@torch.no_grad()
def logits_of(model: cr.IntervenedModel) -> Tensor:
    """The logits of left-padded prompts; every run that the graph names has prompts of its own."""
    others = [run for run in model.graph.runs if run != "base"]
    runs = {run: prompts([5, 7, 4], "left", seed) for seed, run in enumerate(["base", *others])}
    return model(runs.pop("base"), **runs).logits


def main(folder: str, out: str) -> None:
    """Load every folder and write the logits."""
    torch.set_num_threads(1)
    found = {}
    for name, dtype in DTYPES.items():
        model = gpt2(dtype=dtype)
        for saved in sorted((Path(folder) / name).glob("*")):
            found[f"{name}/{saved.name}"] = logits_of(cr.IntervenedModel.from_pretrained(saved, model)).contiguous()
    save_file(found, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
