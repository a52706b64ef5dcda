"""THE DEMO: both halves of the library on small models, in a few minutes, with a page that shows what came out.

Alignment of trained networks, alignment of a language model, finetuning, two composed skills, a memorised text.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from causal_reft.experiments.page import Page

NEXT = (
    "A model of your own, finetuned: python -m causal_reft demo --model <folder or hub id>",
    "A model of your own, aligned: docs/your_model.md, five minutes from from_pretrained to a heat map.",
    "LoReFT beside LoRA and others, by its paper's recipes, one setting at a time: python -m causal_reft compare, "
    "replicate, ablate.",
    "The same experiments at full size, with more seeds and controls: python -m causal_reft --help",
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m causal_reft demo`."""
    parser.add_argument("--model", help="only finetune this language model: a folder or a hub id")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is learned")


def run_command(options: argparse.Namespace) -> Path:
    """Everything on the embedded model; with `--model` the finetuning on that one. Returns the page."""
    from causal_reft.experiments.demo.finetune import show_finetuning
    from causal_reft.experiments.models import load_model
    from causal_reft.experiments.page import Page

    started, page = time.perf_counter(), Page(options.folder, options.command)
    if options.model is not None:
        show_finetuning(page, *load_model(options.model), seed=options.seed)
    else:
        with _one_thread():
            _everything(page, options.seed)
    target = page.write("causal_reft: the demo", NEXT)
    print(f"\n{time.perf_counter() - started:.0f} s. Figures and tables are beside the page.")
    return target


def _everything(page: Page, seed: int) -> None:
    import causal_reft as cr
    from causal_reft.experiments.demo.align import show_alignment
    from causal_reft.experiments.demo.composition import show_composition
    from causal_reft.experiments.demo.equality import show_equality
    from causal_reft.experiments.demo.finetune import show_finetuning
    from causal_reft.experiments.demo.memory import show_memory

    show_equality(page, seed=seed)
    small = cr.load_embedded()
    show_alignment(page, small, seed=seed)
    pairs = [(row["prompt"], row["continuation"]) for row in small.answer_examples[:3]]
    show_finetuning(page, small.model, small.tokenizer, pairs, seed, epochs=200)
    show_composition(page, small, seed)
    show_memory(page, small, seed)


@contextmanager
def _one_thread() -> Iterator[None]:
    """The models are so small that a second thread only waits."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
