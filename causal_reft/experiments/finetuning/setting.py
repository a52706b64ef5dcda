"""What the three commands have in common: the options of a bench, what it will cost, and scores with intervals."""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import causal_reft as cr
from causal_reft.alignment import SHARE, UNBOUNDED, mean_interval
from causal_reft.experiments.finetuning.benchmarks import ACCURACY, BENCHMARKS
from causal_reft.experiments.finetuning.cell import Bench, FinetuningCell
from causal_reft.experiments.finetuning.methods import METHODS
from causal_reft.experiments.models import load_model
from causal_reft.experiments.options import above_zero, at_least
from causal_reft.sweeps import Result

COSTS = ("trainable", "share_trained", "saved_bytes", "step_flops")


def add_bench_options(parser: argparse.ArgumentParser, **defaults: Any) -> None:
    """Options for the model, the data and the length of training; `defaults` are those of the command."""
    whole = at_least(1)
    parser.add_argument("--model", required=True, help="a folder of save_pretrained or a hub id")
    parser.add_argument("--data", required=True, type=Path, help="a folder that holds a folder for each benchmark")
    parser.add_argument("--limit", type=whole, default=defaults.get("limit", 256), help="records that are trained on")
    parser.add_argument("--test-limit", type=whole, default=defaults.get("test_limit", 100), help="records to score")
    parser.add_argument("--epochs", type=whole, default=defaults.get("epochs", 1), help="of every training")
    parser.add_argument("--batch-size", type=whole, default=defaults.get("batch_size", 16), help="of every step")
    parser.add_argument("--rank", type=whole, default=defaults.get("rank", 4), help="of subspaces and of LoRA")
    parser.add_argument("--seeds", type=whole, default=defaults.get("seeds", 3), help="how many trainings of each kind")
    parser.add_argument("--device", default="cpu", help="of the model, e.g. cuda")
    parser.add_argument("--dtype", default="float32", help="of the model's weights: auto, float32, bfloat16")


def add_lr_option(parser: argparse.ArgumentParser, default: float) -> None:
    """The learning rate, for commands that do not search it."""
    parser.add_argument("--lr", type=above_zero, default=default, help="learning rate")


def bench_of(options: argparse.Namespace) -> Bench:
    """The bench that the options ask for."""
    model, tokenizer = load_model(options.model, options.device, options.dtype)
    return Bench(
        model, tokenizer, options.data, options.epochs, options.batch_size, 0.1, options.limit, options.test_limit
    )


def cost(bench: Bench, cells: Sequence[FinetuningCell], more_steps: int = 0) -> str:
    """What the cells will take, and some more steps on each benchmark, from the time of one step and one scored batch
    with LoReFT."""
    seconds, counted = 0.0, {}
    for name in dict.fromkeys(cell.benchmark for cell in cells):
        items, chosen = bench.parts(name), BENCHMARKS[name]
        shape = next(cell.shape for cell in cells if cell.benchmark == name)
        reft: Any = METHODS["LoReFT"].build(bench.model, bench.tokenizer, shape, 0)
        batch = items["train"][: bench.batch_size]
        inputs = bench.batch(batch)
        begun = time.perf_counter()
        reft(**inputs).loss.backward()
        step = time.perf_counter() - begun
        if chosen.metric == ACCURACY:
            cr.generate_texts(
                reft.eval(), [item.prompt for item in batch], len(batch), max_new_tokens=chosen.new_tokens
            )
        scored = time.perf_counter() - begun - step
        steps = bench.epochs * math.ceil(len(items["train"]) / bench.batch_size)
        mine = [cell for cell in cells if cell.benchmark == name]
        each = {part: steps * step + math.ceil(len(items[part]) / len(batch)) * max(scored, step / 3) for part in items}
        seconds += sum(each[cell.part] for cell in mine) + more_steps * step
        counted[name] = f"{len(mine)} x {steps} steps on {name}"
    return f"{len(cells)} trainings ({', '.join(counted.values())}): about {seconds / 3600:.2g} hours on this machine."


def scores(results: Mapping[Any, Result]) -> pd.DataFrame:
    """One row for each cell: its fields and what was found."""
    return pd.DataFrame([{**vars(cell), **found.facts} for cell, found in results.items()])


def over_seeds(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Mean score of each group with its 95 % interval over seeds and items; with one seed, over items only."""
    rows = []
    for key, part in table.groupby(list(by), sort=False, dropna=False):
        each = np.array(part["items"].tolist())
        bounds = SHARE if (part["metric"] == ACCURACY).all() else UNBOUNDED
        found = mean_interval(each if len(each) > 1 else each[0], np.arange(each.shape[1]), bounds=bounds)
        named = dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True))
        score = {"score": found.value, "score_low": found.low, "score_high": found.high, "seeds": len(part)}
        rows.append({**named, **score, **{name: part[name].mean() for name in COSTS}})
    return pd.DataFrame(rows)


def one_answer(bench: Bench, name: str, texts: Sequence[Sequence[str]]) -> str:
    """What one answer to all test records scores, and how many of the trainings give one to nearly all of them."""
    chosen = BENCHMARKS[name]
    if chosen.metric != ACCURACY:
        return ""
    items = bench.parts(name)["test"]
    commonest = Counter(item.answer for item in items).most_common(1)[0][1] / len(items)
    most = [max(Counter(filter(None, map(chosen.extract, each))).values(), default=0) / len(each) for each in texts]
    return (
        f" The commonest answer, given to all records, scores {commonest:.3f}; {sum(share >= 0.9 for share in most)} "
        f"of {len(most)} trainings give one answer to nine in ten records or more."
    )


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The table with some numbers as text: three decimals would show a learning rate of 9e-4 as 0.001."""
    forms = dict.fromkeys(("lr", "share_trained", "step_flops"), "{:.3g}")
    forms |= dict.fromkeys(("step_time", "step_time_low", "step_time_high"), "{:.2f}")
    forms |= dict.fromkeys(("trainable", "saved_bytes", "peak_bytes"), "{:.0f}")
    return table.assign(**{name: table[name].map(form.format) for name, form in forms.items() if name in table})


def versions(bench: Bench) -> str:
    """The machine and the packages that the numbers come from."""
    return f"torch {torch.__version__}, {torch.get_num_threads()} threads, {bench.model.device}, {bench.model.dtype}"
