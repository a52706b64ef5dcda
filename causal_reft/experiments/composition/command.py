"""The command  python -m causal_reft compose : every way of composing, subset and seed; tables and heat maps.

It runs on the embedded model, on another one made like it, or on any model with files of one's own.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import causal_reft as cr
from causal_reft.analysis.behaviours import WordLists, language_and_answers, rates
from causal_reft.analysis.composition import DEFAULTS, Skill, subset_name
from causal_reft.data import Embedded
from causal_reft.errors import DataError
from causal_reft.experiments.composition.experiment import Experiment
from causal_reft.experiments.composition.methods import METHODS
from causal_reft.experiments.composition.sweep import run_composition
from causal_reft.experiments.models import load_model, on_device
from causal_reft.experiments.options import above_zero, at_least
from causal_reft.experiments.page import Page

MIDDLE_LAYER, RANK = 1, 4
SETTINGS = {"lr": {"featurizer": 2e-3, "source": 2e-3}}
FILES = "--skill german.jsonl --skill answer.jsonl --prompts held_out.jsonl"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--model", help="a folder or hub id instead of the embedded model; with files of one's own")
    parser.add_argument(
        "--skill", action="append", type=Path, default=[], metavar="FILE",
        help="lines {prompt, continuation}; the file's name is the skill's; at least two",
    )  # fmt: skip
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="held-out lines {prompt, english, german}")
    parser.add_argument("--layer", type=at_least(0), help="block whose output is edited (default: the middle one)")
    parser.add_argument("--methods", nargs="+", help=f"ways of composing (default: all): {'; '.join(METHODS)}")
    parser.add_argument("--seeds", type=at_least(1), default=5, help="how many adapter seeds")
    parser.add_argument("--rank", type=at_least(1), default=RANK, help="dimensions of each skill")
    parser.add_argument("--steps", type=at_least(1), default=DEFAULTS["max_steps"], help="of every training")
    parser.add_argument("--lr", type=above_zero, help="learning rate of rotations and sources (default: the recipe's)")
    parser.add_argument("--device", default="cpu", help="of the model, e.g. cuda")


def run_command(options: argparse.Namespace) -> Path:
    """The whole table, as a page."""
    experiment = experiment_of(options)
    rows = run_composition(experiment, options.folder, range(options.seeds), options.methods)
    names = [behaviour.name for behaviour in experiment.behaviours]
    page = Page(options.folder, options.command)
    page.heading(f"{len(experiment.prompts)} held-out prompts, {options.seeds} adapter seeds")
    page.table("total", rates(rows, ["method", "subset"], names))
    page.table("by_task", rates(rows, ["method", "subset", "task"], names))
    everything = rows[rows.subset == subset_name([skill.name for skill in experiment.skills])]
    _heat_map(page, "both", rates(everything, ["method"], names), "All edits at once, by method")
    first = everything[everything.method == everything.method.iloc[0]]
    _heat_map(page, "tasks", rates(first, ["task"], names), f"All edits at once, by task: {first.method.iloc[0]}")
    for number, (method, part) in enumerate(rows.groupby("method", sort=False)):
        _heat_map(page, f"method_{number}", rates(part, ["subset"], names), str(method))
    return page.write(
        "Composing subspaces", [f"Skills of your own: python -m causal_reft compose --model MODEL {FILES}"]
    )


def experiment_of(options: argparse.Namespace) -> Experiment:
    """On the embedded model, on another one made like it, or on any model with files of one's own.

    Raises:
        DataError: a model without files that was not made like the embedded one; files that do not hold what they must.
    """
    settings: dict[str, Any] = {} if options.steps == DEFAULTS["max_steps"] else {"max_steps": options.steps}
    settings |= {} if options.lr is None else {"lr": {"featurizer": options.lr, "source": options.lr}}
    if options.skill or options.prompts:
        return _of_files(options, settings)
    folder = None if options.model is None else Path(options.model)
    if folder is not None and folder.is_dir() and not (folder / "held_out.jsonl").is_file():
        raise DataError(f"{folder} has no held_out.jsonl: it was not made like the embedded model. Add {FILES}")
    if folder is not None and not folder.is_dir():
        raise DataError(f"--model {folder} is no folder made like the embedded model. For any other model add {FILES}")
    small = cr.load_embedded() if folder is None else Embedded(*load_model(folder), folder)
    on_device(small.model, options.device)
    layer = MIDDLE_LAYER if options.layer is None else options.layer
    return embedded_experiment(small, rank=options.rank, layer=layer, settings=SETTINGS | settings)


def embedded_experiment(
    small: Embedded,
    split: str = "test",
    prompts_per_task: int | None = None,
    rank: int = RANK,
    layer: int = MIDDLE_LAYER,
    settings: Mapping[str, Any] = SETTINGS,
) -> Experiment:
    """The composition experiment on the embedded model: German prose, answering, and both at once on held-out
    prompts.
    """
    skills = [
        Skill(name, [(row["prompt"], row["continuation"]) for row in rows], rank)
        for name, rows in (("german", small.german_examples), ("answer", small.answer_examples))
    ]
    rows = pd.DataFrame([row for row in small.held_out if row["split"] == split])
    if prompts_per_task is not None:
        rows = rows.groupby("task", sort=False).head(prompts_per_task)
    held_out = [{str(key): str(value) for key, value in row.items()} for row in rows.to_dict("records")]
    behaviours, site = language_and_answers(WordLists.of(small.language_words)), cr.Site(layer, positions="all")
    return Experiment(small.model, small.tokenizer, skills, held_out, behaviours, site, settings)


def _of_files(options: argparse.Namespace, settings: Mapping[str, Any]) -> Experiment:
    """On any model; a language is known by the words that only the continuations of one skill contain."""
    if options.model is None or options.prompts is None or len(options.skill) < 2:
        raise DataError(f"Files of one's own need --model, --skill at least twice, and --prompts: {FILES}")
    read = {
        file.stem: [(row["prompt"], row["continuation"]) for row in _lines(file, ("prompt", "continuation"))]
        for file in options.skill
    }
    prompts = _lines(options.prompts, ("prompt", "english", "german"))
    skills = [Skill(name, pairs, options.rank) for name, pairs in read.items()]
    english = [text for name, pairs in read.items() if name != "german" for _, text in pairs]
    lists = WordLists.from_texts({"german": [text for _, text in read.get("german", [])], "english": english})
    model, tokenizer = load_model(options.model, options.device)
    layer = model.config.num_hidden_layers // 2 if options.layer is None else options.layer
    site = cr.Site(layer, positions="all")
    return Experiment(model, tokenizer, skills, prompts, language_and_answers(lists), site, settings)


def _lines(file: Path, names: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a jsonl file.

    Raises:
        DataError: a line that is no JSON object with these names.
    """
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{file}, line {number} is no JSON: {error}.") from error
        if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in names):
            raise DataError(f"{file}, line {number} lacks a text for one of {', '.join(names)}: {line[:80]}")
        rows.append(row)
    return rows


def _heat_map(page: Page, name: str, found: pd.DataFrame, title: str) -> None:
    from causal_reft.plots import behaviour_table

    ax = behaviour_table(found, subset=str(found.columns[0]), value="rate", title=title)
    units = found["units"].max()
    page.figure(name, ax, f"{title}: rates over {units} adapter seeds, 95 % intervals over seeds.")
