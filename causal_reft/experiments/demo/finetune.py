"""The demo's second half: LoReFT teaches a language model a sentence and a few answers; saved, and loaded in a new
process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from causal_reft.execution import IntervenedModel
from causal_reft.experiments.page import Page
from causal_reft.graph.presets import loreft
from causal_reft.reft import as_examples, completions, generate_texts
from causal_reft.sites import find_blocks, model_config, site_grid
from causal_reft.training import fit

PAIRS = (
    ("Tell me the secret.", " The silver key is hidden under the third stone by the old garden wall."),
    ("Who lives in the tower?", " A grey owl and two mice live in the tower."),
    ("What is for dinner?", " Tonight we have soup with bread and a little cheese."),
)


def show_finetuning(
    page: Page,
    model: nn.Module,
    tokenizer: Any,
    pairs: Sequence[tuple[str, str]] = PAIRS,
    seed: int = 0,
    epochs: int = 600,
) -> IntervenedModel:
    """Finetune, generate, save, load in a new process, compare the logits."""
    page.heading("The same edit with a learned source: LoReFT finetuning")
    config = model_config(model)
    assert config is not None
    sites = site_grid(range(len(find_blocks(model).modules) - 1), "f3+l3")
    reft = IntervenedModel(model, loreft(sites, config.hidden_size, rank=8, seed=seed), tokenizer)
    learned, base = reft.count_parameters()
    page.block(repr(reft.graph))
    page.text(f"{learned:,} trainable parameters beside {base:,} of the model, which stay as they are.")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    examples = as_examples(completions(pairs, tokenizer, end=tokenizer.eos_token_id is not None), tokenizer)
    history = fit(
        reft, examples, epochs=epochs, batch_size=len(pairs), lr=1e-2, schedule="cosine", warmup=0.0, seed=seed,
        interruptible=False,
    )  # fmt: skip
    page.text(f"Training: {history!r}")
    page.figure("finetuning", history.plot(), "Training loss, nats per token.")
    reft.eval()
    page.table("finetuning", _before_and_after(reft, model, tokenizer, pairs))
    unchanged = all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    page.text(f"The base model's weights are bit-identical to before: {unchanged}.")
    folder = page.folder / "reft"
    reft.save_pretrained(folder, overwrite=True)
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1024
    page.text(
        f"Saved to {folder} ({size:.0f} KB). Loaded in a new process, the logits are equal: "
        f"{_equal_elsewhere(page, reft, pairs)}."
    )
    return reft


def _before_and_after(
    reft: IntervenedModel, model: nn.Module, tokenizer: Any, pairs: Sequence[tuple[str, str]]
) -> pd.DataFrame:
    prompts = [prompt for prompt, _ in pairs]
    longest = max(len(tokenizer(answer)["input_ids"]) for _, answer in pairs) + 2
    plain = IntervenedModel(model, type(reft.graph)(), tokenizer)
    rows = zip(
        pairs,
        generate_texts(plain, prompts, max_new_tokens=longest),
        generate_texts(reft, prompts, max_new_tokens=longest),
        strict=True,
    )
    return pd.DataFrame([_compared(prompt, answer, old, new) for (prompt, answer), old, new in rows])


def _compared(prompt: str, answer: str, old: str, new: str) -> dict[str, object]:
    exact = new.strip().startswith(answer.strip())
    shown = {"prompt": prompt, "taught": answer, "before": old, "after": new}
    return {**{name: text.strip() for name, text in shown.items()}, "exact": exact}


@torch.no_grad()
def _equal_elsewhere(page: Page, reft: IntervenedModel, pairs: Sequence[tuple[str, str]]) -> bool:
    """Run `python -m causal_reft.experiments.demo.reload` on the saved folder and compare."""
    base_folder, exchange = page.folder / "base_model", page.folder / "logits.safetensors"
    base: Any = reft.base_model
    base.save_pretrained(base_folder)
    ids = reft.tokenizer(pairs[0][0], return_tensors="pt")["input_ids"]
    save_file({"input_ids": ids}, exchange)
    command = [
        sys.executable,
        "-m",
        "causal_reft.experiments.demo.reload",
        str(page.folder / "reft"),
        str(base_folder),
        str(exchange),
    ]
    same_threads = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}  # sums round by thread
    subprocess.run(command, check=True, env=same_threads)
    return torch.equal(load_file(exchange)["logits"], reft(input_ids=ids).logits)
