"""Throughput of serving: one batch in which every row has another graph, against the plain model, in one run.

The shape is GPT-2 small's with random weights (64 rows of 64 tokens; 16 LoReFT graphs of rank 4 at three layers).
Ratios are medians over interleaved repetitions, because machines are noisy. Printed: plain time / served time, for
one forward and for generation with a cache.

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


def main(rows: int = 64, repetitions: int = 5) -> None:
    """Print both ratios, and how far a served batch is from single calls."""
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
            pairs = [(seconds(plain), seconds(ours)) for _ in range(repetitions)]
            ratio = statistics.median(p / o for p, o in pairs)
            print(f"{name:>9}: plain / served = {ratio:.3f}   (plain {statistics.median(p for p, _ in pairs):.3f} s)")
        together = served(batch, graphs=graphs, logits_to_keep=1).logits
        single = [
            cr.IntervenedModel(model, served.graphs[graphs[i]])
            .eval()(input_ids=ids[i : i + 1], logits_to_keep=1)
            .logits
            for i in range(min(rows, GRAPHS))
        ]
        print(f"largest distance to single calls: {(together[: len(single)] - torch.cat(single)).abs().max():.2e}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
