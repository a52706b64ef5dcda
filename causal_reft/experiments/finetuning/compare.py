"""The command  python -m causal_reft compare : LoReFT beside other methods, each with its best learning rate.

Every method tries the same number of learning rates on selection items; the best one is then trained with each seed and
scored on test items. One table, and one figure: score against the share of parameters that is trained.
What a step of each costs is measured after the grid.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from causal_reft.experiments.finetuning import setting
from causal_reft.experiments.finetuning.benchmarks import ACCURACY, BENCHMARKS
from causal_reft.experiments.finetuning.cell import Bench, FinetuningCell
from causal_reft.experiments.finetuning.methods import METHODS
from causal_reft.experiments.finetuning.step_cost import COLUMNS, STEPS, StepCell, step_cost
from causal_reft.experiments.page import Page
from causal_reft.sweeps import run

BENCHMARKED = ("SST-2", "openbookqa", "instruct")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    setting.add_bench_options(parser)
    parser.add_argument(
        "--benchmarks", nargs="+", choices=list(BENCHMARKS), default=list(BENCHMARKED), help="of records"
    )
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), help="of finetuning")
    parser.add_argument(
        "--rates", type=int, choices=[1, 2, 3], default=3,
        help="learning rates that each method tries: a middle, a larger, a smaller one",
    )  # fmt: skip


def run_command(options: argparse.Namespace) -> Path:
    """Search, train, and write the page."""
    bench = setting.bench_of(options)
    methods = [name for name in options.methods if name != "BitFit" or _has_biases(bench)]
    search = [
        FinetuningCell(benchmark, method, lr, 0, "selection", options.rank)
        for benchmark in options.benchmarks
        for method in methods
        for lr in METHODS[method].rates[: options.rates]
    ]
    final = [
        replace(cell, seed=seed, part="test") for cell in search[:: options.rates] for seed in range(options.seeds)
    ]
    store = bench.store(options.folder, options.benchmarks)
    print(setting.cost(bench, [*search, *final], STEPS * len(methods)), flush=True)
    tried = setting.scores(bench.run(search, store, "learning rates"))
    table = setting.scores(bench.run(_chosen(tried, search, options.seeds), store, "seeds"))
    steps = [StepCell(benchmark, method, options.rank) for benchmark in options.benchmarks for method in methods]
    costs = setting.scores(run(steps, partial(step_cost, bench), store, name="step costs")).drop(columns="rank")
    page = Page(options.folder, options.command)
    left_out = "" if len(methods) == len(options.methods) else " BitFit is left out: the model has no biases."
    _write(page, bench, table, costs, options, left_out)
    page.heading("Learning rates tried, on selection items (seed 0)")
    page.table("learning_rates", setting.readable(tried[["benchmark", "method", "lr", "score"]]))
    page.text(_at_the_edge(tried, table))
    return page.write(
        "Ways of finetuning", ["Other positions, ranks and layers of LoReFT: python -m causal_reft ablate --help"]
    )


def _chosen(tried: pd.DataFrame, search: list[FinetuningCell], seeds: int) -> list[FinetuningCell]:
    """For each benchmark and method the learning rate with the best selection score, at every seed."""
    chosen = []
    for _, part in tried.groupby(["benchmark", "method"], sort=False):
        better = part["score"] if (part["metric"] == ACCURACY).all() else -part["score"]
        cell = search[int(better.idxmax())]
        chosen += [replace(cell, seed=seed, part="test") for seed in range(seeds)]
    return chosen


def _at_the_edge(tried: pd.DataFrame, table: pd.DataFrame) -> str:
    """Where the best rate is the largest tried: a still larger one may be better."""
    largest = tried.groupby(["benchmark", "method"])["lr"].max().rename("largest")
    best = table.drop_duplicates(["benchmark", "method"]).join(largest, on=["benchmark", "method"])
    at_edge = best[best.lr == best.largest]
    edge = [f"{method} on {name}" for method, name in zip(at_edge.method, at_edge.benchmark, strict=True)]
    return f"The best rate is the largest that was tried for: {', '.join(edge) or 'none'}."


def _write(
    page: Page, bench: Bench, table: pd.DataFrame, costs: pd.DataFrame, options: argparse.Namespace, left_out: str
) -> None:
    found = setting.over_seeds(table, ["benchmark", "metric", "method", "lr"]).merge(costs, on=["benchmark", "method"])
    base = {name: bench.score(bench.model, name)["score"] for name in options.benchmarks}
    for name in options.benchmarks:
        mine = found[found.benchmark == name].drop(columns="benchmark")
        metric, better = mine.metric.iloc[0], mine.metric.iloc[0] == ACCURACY
        page.heading(f"{name}: {metric}, {'higher' if better else 'lower'} is better")
        page.text(
            f"{len(bench.parts(name)['train'])} records, {bench.epochs} epochs, batch {bench.batch_size}; "
            f"{len(bench.parts(name)['test'])} scored ({bench.source(name)}). Without training: {base[name]:.3f}."
            f"{setting.one_answer(bench, name, table[table.benchmark == name].texts.tolist())} "
            f"{options.seeds} seeds, 95 % intervals over seeds and items. {setting.versions(bench)}.{left_out}"
        )
        mine = mine.sort_values("score", ascending=not better)
        page.table(f"compare_{name}", setting.readable(mine.drop(columns="metric")))
        page.text(_reading(mine, better))
        page.text(COLUMNS)
        page.figure(
            f"compare_{name}",
            _figure(mine, name, metric, base[name]),
            f"{name}: {metric} against share trained; where shares are close, points stand side by side.",
        )


def _reading(mine: pd.DataFrame, better: bool) -> str:
    """Which methods beat LoReFT, and with which their intervals overlap."""
    if "LoReFT" not in set(mine.method):
        return ""
    ours = mine[mine.method == "LoReFT"].iloc[0]
    beaten = mine[(mine.score_low > ours.score_high) if better else (mine.score_high < ours.score_low)]
    beats = mine[(mine.score_high < ours.score_low) if better else (mine.score_low > ours.score_high)]
    return (
        f"Beyond overlapping intervals, LoReFT is beaten by {', '.join(beaten.method) or 'none'} and beats "
        f"{', '.join(beats.method) or 'none'}; the others cannot be told apart from it with these seeds."
    )


def _figure(mine: pd.DataFrame, name: str, metric: str, base: float):
    from causal_reft.plots import points_with_intervals
    from causal_reft.plots.style import legend

    mine = mine.assign(share_trained=side_by_side(mine.share_trained))
    ax = points_with_intervals(
        mine, "share_trained", "score", "method", log=True, title=f"{name}: {metric} by share trained"
    )
    ax.axhline(base, linestyle=":", linewidth=1, color="0.5", label="without training")
    legend(ax, len(mine) + 1, "method")
    return ax


def _has_biases(bench: Bench) -> bool:
    return any(name.endswith(".bias") for name, _ in bench.model.named_parameters())


def side_by_side(shares: pd.Series) -> pd.Series:
    """Shares for a figure: bars that would cover each other stand at least 15 % apart."""
    shown: dict[Any, float] = {}
    for row, share in shares.sort_values(kind="stable").items():
        shown[row] = max(share, *(1.15 * other for other in shown.values()), 0)
    return pd.Series(shown).reindex(shares.index)
