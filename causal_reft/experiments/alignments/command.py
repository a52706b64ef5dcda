"""The command  python -m causal_reft align <question> : one study of a pretrained model, and its page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from causal_reft.errors import DataError
from causal_reft.experiments.alignments.cities import CITIES, show_cities
from causal_reft.experiments.alignments.questions import QUESTIONS
from causal_reft.experiments.alignments.study import Effort, made_by, show_study
from causal_reft.experiments.alignments.swaps import SWAPS
from causal_reft.experiments.cost import metered
from causal_reft.experiments.models import load_model
from causal_reft.experiments.options import above_zero, at_least
from causal_reft.experiments.page import Page


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    usual, whole = Effort((), ()), at_least(1)
    parser.add_argument("question", choices=[*QUESTIONS, CITIES], help="what is looked for")
    parser.add_argument("--model", required=True, help="a folder of save_pretrained or a hub id")
    parser.add_argument("--layers", nargs="+", type=at_least(0), help="(default: every fourth)")
    parser.add_argument("--positions", nargs="+", help="spans of the prompt, last, ... (default: the question's)")
    parser.add_argument("--heads", nargs="*", type=at_least(0), help="single heads (without numbers: all), not blocks")
    parser.add_argument(
        "--swap", choices=SWAPS, default=usual.swap,
        help="a subspace; the whole vector, nothing trained; or the heads that a learned mask takes",
    )  # fmt: skip
    parser.add_argument("--rank", type=whole, default=usual.rank, help="of subspaces")
    parser.add_argument("--seeds", type=whole, default=usual.seeds, help="how many fits at each place")
    parser.add_argument("--rows", type=whole, default=usual.rows, help="that each fit is trained on")
    parser.add_argument("--epochs", type=whole, default=usual.epochs, help="of every fit")
    parser.add_argument("--batch-size", type=whole, default=usual.batch_size, help="rows of each optimizer step")
    parser.add_argument("--lr", type=above_zero, default=usual.lr, help="learning rate")
    parser.add_argument("--random", type=whole, default=usual.random, help="random subspaces at each place")
    parser.add_argument("--data", type=Path, help="RAVEL's folder of files, for cities")
    parser.add_argument("--attribute", default="Country", help="that is interchanged, for cities")
    parser.add_argument("--beside", nargs="+", default=["Continent", "Language"], help="that must stay, for cities")
    parser.add_argument("--entities", type=whole, default=60, help="cities of each part, drawn at random")
    parser.add_argument("--device", default="cpu", help="of the model, e.g. cuda")
    parser.add_argument("--dtype", default="float32", help="of the model's weights: auto, float32, bfloat16")


def run_command(options: argparse.Namespace) -> Path:
    """The study, and its page."""
    if options.question == CITIES and options.data is None:
        raise DataError("Cities need RAVEL's files: --data FOLDER, which holds ravel_city_entity_attributes.json.")
    model, tokenizer = load_model(options.model, options.device, options.dtype)
    page, effort = Page(options.folder), _effort(options, model)
    with metered(options.folder) as spent:
        if options.question == CITIES:
            cities = options.data, options.attribute, options.beside, options.entities
            show_cities(page, model, tokenizer, effort, *cities)
        else:
            show_study(page, options.question, QUESTIONS[options.question], model, tokenizer, effort)
        page.block(made_by(options.command, model, tokenizer, spent()))
    return page.write(
        f"Alignment study: {options.question.replace('_', ' ')}",
        ["A question of your own on this model: docs/your_model.md, five minutes to a heat map."],
    )


def _effort(options: argparse.Namespace, model: Any) -> Effort:
    question = QUESTIONS.get(options.question)
    return Effort(
        options.layers or range(0, model.config.num_hidden_layers, 4),
        options.positions or (("entity[-1]",) if question is None else question.positions),
        range(model.config.num_attention_heads) if options.heads == [] else options.heads or (),
        options.rank,
        options.seeds,
        options.rows,
        options.epochs,
        options.lr,
        options.random,
        options.batch_size,
        options.swap,
    )
