"""THE DEMO: both halves of the library on small models, in a few minutes, with a page that shows what came out.

Alignment of trained networks, alignment of a language model, finetuning, two composed skills, a memorised text.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from causal_reft.experiments.page import Page


def run_demo(folder: Path, model: str | None = None) -> Path:
    """Everything on the embedded model; with `model` (a folder or hub id) the finetuning on that one. Returns the
    page.
    """
    started, page = time.perf_counter(), Page(folder)
    if model is None:
        _everything(page)
    else:
        from causal_reft.experiments.demo.finetune import show_finetuning

        show_finetuning(page, *_load(model))
    target = page.write("causal_reft: the demo")
    print(f"\n{time.perf_counter() - started:.0f} s. Figures, tables and the page: {target}")
    return target


def _everything(page: Page) -> None:
    import torch

    torch.set_num_threads(1)  # the models are so small that a second thread only waits
    from causal_reft.data import load_embedded
    from causal_reft.experiments.demo.align import show_alignment
    from causal_reft.experiments.demo.composition import show_composition
    from causal_reft.experiments.demo.equality import show_equality
    from causal_reft.experiments.demo.finetune import show_finetuning
    from causal_reft.experiments.demo.memory import show_memory

    show_equality(page)
    small = load_embedded()
    show_alignment(page, small)
    pairs = [(row["prompt"], row["continuation"]) for row in small.answer_examples[:3]]
    show_finetuning(page, small.model, small.tokenizer, pairs)
    show_composition(page, small)
    show_memory(page, small)


def _load(name: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(name).eval(), AutoTokenizer.from_pretrained(name)
