"""The demo's third part: German and answering, learned as two slices of one rotation, alone and together; one text,
one vector.
"""

from __future__ import annotations

import pandas as pd

from causal_reft.analysis.behaviours import Behaviour, WordLists, continuations, language_and_answers, rates
from causal_reft.analysis.composition import Skill, learn_together, subset_name, subsets
from causal_reft.analysis.composition_table import Experiment, run_composition
from causal_reft.data import Embedded
from causal_reft.demo.page import Page
from causal_reft.execution import IntervenedModel
from causal_reft.sites import Site

MIDDLE_LAYER = 1
METHOD = "one rotation, mixed batches"


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
    site = Site(MIDDLE_LAYER, positions="all")
    return Experiment(small.model, small.tokenizer, skills, rows.to_dict("records"), behaviours, site)


def show_composition(page: Page, small: Embedded) -> pd.DataFrame:
    """Train once, show four continuations of two prompts side by side, and the table of subsets x behaviours."""
    from causal_reft.plots import behaviour_table

    page.heading("Two skills in orthogonal slices of one rotation, composed")
    experiment = embedded_experiment(small, prompts_per_task=10)
    graph = learn_together(small.model, small.tokenizer, experiment.skills, experiment.site, seed=0)
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
