"""The demo's third part: German and answering, learned as two slices of one rotation, alone and together; one text,
one vector.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from causal_reft.analysis.behaviours import Behaviour, WordLists, continuations, language_and_answers, rates
from causal_reft.analysis.composition import Skill, learn_together, subset_name, subsets
from causal_reft.data import Embedded, load_embedded
from causal_reft.errors import DataError
from causal_reft.execution import IntervenedModel
from causal_reft.experiments.composition.table import Experiment, run_composition
from causal_reft.experiments.page import Page
from causal_reft.sites import Site

MIDDLE_LAYER = 1
METHOD = "one rotation, mixed batches"
SETTINGS = {"lr": {"featurizer": 2e-3, "source": 2e-3}}


def embedded_experiment(small: Embedded, split: str = "test", prompts_per_task: int | None = None) -> Experiment:
    """The composition experiment on the embedded model: German prose, answering, and both at once on held-out
    prompts.
    """
    skills = [
        Skill("german", [(row["prompt"], row["continuation"]) for row in small.german_examples]),
        Skill("answer", [(row["prompt"], row["continuation"]) for row in small.answer_examples]),
    ]
    rows = pd.DataFrame([row for row in small.held_out if row["split"] == split])
    if prompts_per_task is not None:
        rows = rows.groupby("task", sort=False).head(prompts_per_task)
    behaviours: tuple[Behaviour, ...] = language_and_answers(WordLists.of(small.language_words))
    site, prompts = Site(MIDDLE_LAYER, positions="all"), rows.to_dict("records")
    held_out = [{str(key): str(value) for key, value in row.items()} for row in prompts]
    return Experiment(small.model, small.tokenizer, skills, held_out, behaviours, site, SETTINGS)


def user_experiment(name: str, skills: Sequence[Path], prompts: Path, layer: int | None) -> Experiment:
    """The same experiment on any model and files of one's own.

    A skill's file has lines {"prompt": ..., "continuation": ...}; the prompts' file {"prompt": ..., "english": ...,
    "german": ...} with the right answers. Languages are told by the words that only the continuations of one skill
    contain.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(name).eval(), AutoTokenizer.from_pretrained(name)
    read = {file.stem: [(row["prompt"], row["continuation"]) for row in _jsonl(file)] for file in skills}
    learned = [Skill(stem, pairs) for stem, pairs in read.items()]
    others = {"english": [text for stem, pairs in read.items() if stem != "german" for _, text in pairs]}
    lists = WordLists.from_texts({"german": [text for _, text in read.get("german", [])], **others})
    layer = model.config.num_hidden_layers // 2 if layer is None else layer
    return Experiment(
        model, tokenizer, learned, _jsonl(prompts), language_and_answers(lists), Site(layer, positions="all")
    )


def like_embedded(folder: Path) -> Embedded:
    """A model that `data/train_embedded_model.py` has put, with its exercises, into a folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not (folder / "held_out.jsonl").is_file():
        raise DataError(
            f"{folder} has no held_out.jsonl, so it is no model made by data/train_embedded_model.py. For any "
            "other model give --skill twice (german.jsonl, answer.jsonl) and --prompts held_out.jsonl."
        )
    return Embedded(AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder), folder)


def experiment_of(given: Namespace) -> Experiment:
    """On the embedded model, on another one made like it, or on any model with files of one's own."""
    if given.model is None:
        return embedded_experiment(load_embedded())
    skills: list[Path] = given.skill or []
    if not skills and given.prompts is None:
        return embedded_experiment(like_embedded(Path(given.model)))
    if given.prompts is None or len(skills) < 2:
        raise DataError("--model needs --skill twice (german.jsonl, answer.jsonl) and --prompts held_out.jsonl.")
    return user_experiment(given.model, skills, given.prompts, given.layer)


def compose_command(given: Namespace) -> None:
    """The whole table: every method, subset and seed; in total and by task; heat maps. Resumes in its folder."""
    experiment = experiment_of(given)
    rows = run_composition(experiment, given.folder, range(given.seeds), given.methods)
    names = [behaviour.name for behaviour in experiment.behaviours]
    page = Page(given.folder)
    page.heading(f"{len(experiment.prompts)} held-out prompts, {given.seeds} adapter seeds")
    page.table("total", rates(rows, ["method", "subset"], names))
    page.table("by_task", rates(rows, ["method", "subset", "task"], names))
    everything = rows[rows.subset == subset_name([skill.name for skill in experiment.skills])]
    _heat_map(page, "both", rates(everything, ["method"], names), "All edits at once, by method")
    first = everything[everything.method == everything.method.iloc[0]]
    _heat_map(page, "tasks", rates(first, ["task"], names), f"All edits at once, by task: {first.method.iloc[0]}")
    for number, (method, part) in enumerate(rows.groupby("method", sort=False)):
        _heat_map(page, f"method_{number}", rates(part, ["subset"], names), str(method))
    print(page.write("Composing subspaces"))


def _heat_map(page: Page, name: str, found: pd.DataFrame, title: str) -> None:
    from causal_reft.plots import behaviour_table

    ax = behaviour_table(found, subset=str(found.columns[0]), value="rate", title=title)
    units = found["units"].max()
    page.figure(name, ax, f"{title}: rates over {units} adapter seeds, 95 % intervals over seeds.")


def _jsonl(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def show_composition(page: Page, small: Embedded) -> pd.DataFrame:
    """Train once, show four continuations of two prompts side by side, and the table of subsets x behaviours."""
    from causal_reft.plots import behaviour_table

    page.heading("Two skills in orthogonal slices of one rotation, composed")
    experiment = embedded_experiment(small, prompts_per_task=10)
    learn = (small.model, small.tokenizer, experiment.skills, experiment.site)
    graph = learn_together(*learn, seed=0, **experiment.settings)
    page.block(repr(graph))
    prompts = [row["prompt"] for row in experiment.prompts[:: max(1, len(experiment.prompts) // 4)]][:4]
    shown = {"prompt": [prompt.strip() for prompt in prompts]}
    for subset in subsets(list(graph.nodes)):
        shown[subset_name(subset)] = continuations(
            IntervenedModel(small.model, graph.only(*subset), small.tokenizer).eval(), prompts
        )
    page.table("four_generations", pd.DataFrame(shown))
    names = [behaviour.name for behaviour in experiment.behaviours]
    rows = run_composition(experiment, page.folder / "composition", seeds=[0], methods=[METHOD])
    found = rates(rows, ["subset"], names)
    page.table("composition", found)
    ax = behaviour_table(found, value="rate", subset="subset", behaviour="behaviour")
    page.figure("composition", ax, f"What each subset of edits does on {len(experiment.prompts)} held-out prompts.")
    return found
