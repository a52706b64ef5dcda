"""The command  python -m causal_reft ablate : LoReFT with other positions, ranks, layers and tying.

One setting varies at a time around the command's own; the product of all would be hundreds of trainings.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pandas as pd

from causal_reft.experiments.finetuning import setting
from causal_reft.experiments.finetuning.benchmarks import BENCHMARKS
from causal_reft.experiments.finetuning.cell import FinetuningCell
from causal_reft.experiments.finetuning.methods import METHODS
from causal_reft.experiments.options import at_least
from causal_reft.experiments.page import Page

VARIED = ("positions", "rank", "layers", "share")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    setting.add_bench_options(parser)
    setting.add_lr_option(parser, METHODS["LoReFT"].rates[1])
    parser.add_argument("--benchmark", choices=list(BENCHMARKS), default="SST-2", help="of records")
    parser.add_argument(
        "--positions", nargs="+", default=["f1", "l1", "f1+l1", "f5+l5", "all"], help="the first is the usual one"
    )
    parser.add_argument(
        "--ranks", nargs="+", type=at_least(1), default=[4, 1, 2, 8, 16], help="the first is the usual one"
    )
    parser.add_argument(
        "--layers", nargs="+", default=["all"], help="such as all, 0, or 3;9;18; the first is the usual one"
    )
    parser.add_argument(
        "--shares", nargs="+", choices=["positions", "layers", "all", "None"],
        default=["positions", "layers", "all", "None"], help="what shares parameters; the first is the usual one",
    )  # fmt: skip


def run_command(options: argparse.Namespace) -> Path:
    """Train every variation, and write the page."""
    bench = setting.bench_of(options)
    usual = FinetuningCell(
        options.benchmark, "LoReFT", options.lr, 0, "test", options.ranks[0], options.layers[0],
        options.positions[0], options.shares[0],
    )  # fmt: skip
    values = dict(zip(VARIED, (options.positions, options.ranks, options.layers, options.shares), strict=True))
    variations = [(name, replace(usual, **{name: value})) for name, given in values.items() for value in given]
    cells = [
        replace(cell, seed=seed)
        for cell in dict.fromkeys(cell for _, cell in variations)
        for seed in range(options.seeds)
    ]
    store = bench.store(options.folder, [options.benchmark])
    print(setting.cost(bench, cells), flush=True)
    found = setting.over_seeds(setting.scores(bench.run(cells, store, "variations")), ["metric", *VARIED])
    page = Page(options.folder, options.command)
    parts = bench.parts(options.benchmark)
    page.heading(f"LoReFT on {options.benchmark}")
    page.text(
        f"{len(parts['train'])} records, {bench.epochs} epochs, learning rate {options.lr:g}; {len(parts['test'])} "
        f"scored ({bench.source(options.benchmark)}); {options.seeds} seeds, 95 % intervals over seeds and items. One "
        f"setting varies at a time around {usual.shape}. {setting.versions(bench)}."
    )
    for name, given in values.items():
        if len(given) > 1:
            mine = _varied(found, usual, name)
            page.table(f"ablate_{name}", setting.readable(mine))
            page.figure(
                f"ablate_{name}",
                _figure(mine, name),
                f"{mine.metric.iloc[0]} by {name}.",
            )
    return page.write("LoReFT, one setting at a time", ["Beside other methods: python -m causal_reft compare --help"])


def _varied(found: pd.DataFrame, usual: FinetuningCell, name: str) -> pd.DataFrame:
    """The rows in which all settings but one are the usual ones."""
    same = [found[other] == getattr(usual, other) for other in VARIED if other != name]
    mine = found[pd.concat(same, axis=1).all(axis=1)]
    return mine[["metric", name, "score", "score_low", "score_high", "seeds", "share_trained"]]


def _figure(mine: pd.DataFrame, name: str):
    from causal_reft.plots import points_with_intervals

    return points_with_intervals(mine, name, "score", name, title=f"{mine.metric.iloc[0]} by {name}")
