"""The command  python -m causal_reft replicate : LoReFT by the ReFT paper's recipes, beside the paper's numbers.

Wu et al. 2024, arXiv 2404.03592. Where a recipe names layers that the model lacks, all layers are used. Answers to
instructions are also written to a file in AlpacaEval's format, for a judge elsewhere.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from causal_reft.errors import DataError
from causal_reft.experiments.finetuning import setting
from causal_reft.experiments.finetuning.benchmarks import BENCHMARKS, GROUPS
from causal_reft.experiments.finetuning.cell import Bench, FinetuningCell
from causal_reft.experiments.page import Page


@dataclass(frozen=True)
class PaperRecipe:
    """What the paper trains with, and what it reports.

    Args:
        rank, positions, layers, epochs: of LoReFT; layers as in `Shape`.
        reported: the paper's numbers, in words.
    """

    rank: int
    positions: str
    layers: str
    epochs: int
    reported: str


LR = 9e-4
RECIPES = {
    "commonsense": PaperRecipe(8, "f7+l7", "all", 6, "LoReFT is the best of the compared methods on LLaMA-7B and 13B"),
    "arithmetic": PaperRecipe(
        8, "f7+l7", "all", 12, "averages: LLaMA-7B LoReFT 42.6, LoRA 46.9; 13B LoReFT 49.6, LoRA 51.1"
    ),
    "glue": PaperRecipe(
        1, "f1", "all", 40, "averages: RoBERTa-base LoReFT 84.2, LoRA 84.7, full finetuning 85.6; large LoReFT 88.2"
    ),
    "instruct": PaperRecipe(
        4,
        "f5+l5",
        "3;9;18;24",
        9,
        "Alpaca-Eval 1.0 win rate, Llama-2 7B: LoReFT 85.60, LoRA 81.48, full finetuning 80.93",
    ),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("group", choices=GROUPS, help="of benchmarks")
    setting.add_bench_options(parser, seeds=1)
    parser.set_defaults(epochs=None, rank=None)
    setting.add_lr_option(parser, LR)
    parser.add_argument("--benchmarks", nargs="+", choices=list(BENCHMARKS), help="of the group (default: all)")


def run_command(options: argparse.Namespace) -> Path:
    """Train on each benchmark of the group, and write the page."""
    recipe = RECIPES[options.group]
    options.epochs, options.rank = options.epochs or recipe.epochs, options.rank or recipe.rank
    bench = setting.bench_of(options)
    names, left_out = _names(bench, options)
    layers = _layers(recipe.layers, bench)
    cells = [
        FinetuningCell(name, "LoReFT", options.lr, seed, "test", options.rank, layers, recipe.positions, writes=True)
        for name in names
        for seed in range(options.seeds)
    ]
    store = bench.store(options.folder, names)
    print(setting.cost(bench, cells), flush=True)
    results = bench.run(cells, store, options.group)
    table = setting.over_seeds(setting.scores(results), ["benchmark", "metric"])
    table["without_training"] = [bench.score(bench.model, name)["score"] for name in table.benchmark]
    page = Page(options.folder, options.command)
    page.heading(
        f"{options.group}: LoReFT, rank {options.rank}, layers {layers}, {recipe.positions}, lr {options.lr:g}"
    )
    for name in names:
        parts = bench.parts(name)
        texts = [found.facts["texts"] for cell, found in results.items() if cell.benchmark == name]
        page.text(
            f"{name}: {len(parts['train'])} records of {bench.source(name)}; {len(parts['test'])} scored."
            f"{setting.one_answer(bench, name, texts)}"
        )
    for why in left_out:
        page.text(f"Left out: {why}")
    page.text(f"{bench.epochs} epochs, batch {bench.batch_size}, {options.seeds} seeds. {setting.versions(bench)}.")
    page.table(f"replicate_{options.group}", setting.readable(table))
    page.text(f"The paper: {recipe.reported}. Other models and other data than here: no comparison, a reference.")
    if options.group == "instruct":
        texts = results[cells[0]].facts["texts"]
        page.text(f"Answers in AlpacaEval's format: {_alpaca_eval(bench, cells[0], texts, options.folder).name}")
    return page.write(
        f"LoReFT on {options.group}", ["On the same data beside other methods: python -m causal_reft compare --help"]
    )


def _names(bench: Bench, options: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The benchmarks that are asked for, or those of the group that the data allow, and why others are left out.

    Raises:
        DataError: none of the group has items.
    """
    if options.benchmarks:
        return options.benchmarks, []
    group = [one.name for one in BENCHMARKS.values() if one.group == options.group]
    why = {name: _why_not(bench, name) for name in group}
    names = [name for name in group if not why[name]]
    if not names:
        raise DataError(why[group[0]])
    return names, [reason for reason in why.values() if reason]


def _why_not(bench: Bench, name: str) -> str:
    """Why a benchmark cannot be learned from this data; empty where it can."""
    try:
        bench.parts(name)
    except DataError as error:
        return str(error)
    return ""


def _layers(asked: str, bench: Bench) -> str:
    depth = bench.model.config.num_hidden_layers
    return asked if asked == "all" or max(map(int, asked.split(";"))) < depth else "all"


def _alpaca_eval(bench: Bench, cell: FinetuningCell, texts: Sequence[str], folder: Path) -> Path:
    """The answers to the test instructions as [{instruction, output, generator, dataset}]."""
    items = bench.parts(cell.benchmark)["test"]
    rows = [
        {"instruction": item.instruction, "output": text, "generator": cell.method, "dataset": cell.benchmark}
        for item, text in zip(items, texts, strict=True)
    ]
    target = folder / "alpaca_eval.json"
    target.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
    return target
