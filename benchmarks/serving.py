"""Throughput of serving: one batch in which every row has another graph, against the plain model, in one run.

The shape is GPT-2 small's with random weights (64 rows of 64 tokens; 16 LoReFT graphs of rank 4 at three layers).
Ratios are medians over interleaved repetitions, because machines are noisy. Printed: plain time / served time, for
one forward and for generation with a cache, and how far a batch is from single calls, relative to the largest logit:
in single precision the plain model itself is not the same in a batch as row by row.

    python benchmarks/serving.py [rows] [repetitions]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from transformers import AutoModelForCausalLM, GPT2Config

import causal_reft as cr
from causal_reft.execution import Served

GRAPHS, RANK, LAYERS, TOKENS, NEW = 16, 4, (2, 5, 8), 64, 8


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def in_turn(plain: Callable[[], object], ours: Callable[[], object], first: bool) -> tuple[float, float]:
    """Wall times of both, one after the other."""
    if first:
        return seconds(plain), seconds(ours)
    after = seconds(ours)
    return seconds(plain), after


def main(rows: int = 64, repetitions: int = 5) -> None:
    """Print both ratios, and how far batches are from single calls."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = (
        AutoModelForCausalLM.from_config(GPT2Config(bos_token_id=None, eos_token_id=None, pad_token_id=0))
        .eval()
        .to(device)
    )
    served = Served(model)
    for i in range(GRAPHS):
        sites = [cr.Site(layer, positions="f4+l4+generated") for layer in LAYERS]
        served.add(f"user{i}", cr.loreft(sites, model.config.hidden_size, RANK, seed=i, init="random"))
    ids = torch.randint(1, model.config.vocab_size, (rows, TOKENS), device=device)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    graphs = [f"user{i % GRAPHS}" for i in range(rows)]
    options = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
    ways = {
        "forward": (lambda: model(**batch, logits_to_keep=1), lambda: served(batch, graphs=graphs, logits_to_keep=1)),
        "generate": (
            lambda: model.generate(**batch, **options),
            lambda: served.generate(**batch, graphs=graphs, **options),
        ),
    }
    print(
        f"{type(model).__name__} of GPT-2 small's shape on {device}, {rows} rows of {TOKENS} tokens, {GRAPHS} graphs "
        f"of rank {RANK} at layers {LAYERS}"
    )
    with torch.no_grad():
        for name, (plain, ours) in ways.items():
            plain(), ours()
            pairs = [in_turn(plain, ours, first=i % 2 == 0) for i in range(repetitions)]
            ratios = [p / o for p, o in pairs]
            print(
                f"{name:>9}: plain / served = {statistics.median(ratios):.3f}   ({min(ratios):.3f} to "
                f"{max(ratios):.3f} in {repetitions}; plain {statistics.median(p for p, _ in pairs):.3f} s)"
            )
        rows_alone = [{key: value[i : i + 1] for key, value in batch.items()} for i in range(rows)]
        alone = {
            "plain": [model(**row, logits_to_keep=1).logits for row in rows_alone],
            "served": [
                cr.IntervenedModel(model, served.graphs[name]).eval()(row, logits_to_keep=1).logits
                for name, row in zip(graphs, rows_alone, strict=True)
            ],
        }
        together = {"plain": ways["forward"][0]().logits, "served": ways["forward"][1]().logits}
        for name, logits in together.items():
            far = (logits - torch.cat(alone[name])).abs().max()
            print(f"{name:>9}: {rows} rows together are {far / logits.abs().max():.1e} from single calls ({far:.1e})")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
