"""The demo's fourth part: German and answering, learned as two slices of one rotation, separately and together."""

from __future__ import annotations

import pandas as pd

import causal_reft as cr
from causal_reft.analysis.behaviours import behaviour_rows, rates
from causal_reft.analysis.composition import learn_together, subset_name, subsets
from causal_reft.data import Embedded
from causal_reft.experiments.composition import embedded_experiment
from causal_reft.experiments.page import Page

SHOWN = 4


def show_composition(page: Page, small: Embedded, seed: int = 0) -> pd.DataFrame:
    """Train once, show the continuations of some prompts side by side, and the table of subsets x behaviours."""
    from causal_reft.plots import behaviour_table

    page.heading("Two skills in orthogonal slices of one rotation, composed")
    experiment = embedded_experiment(small, prompts_per_task=10)
    learn = (small.model, small.tokenizer, experiment.skills, experiment.site)
    graph = learn_together(*learn, seed=seed, **experiment.settings)
    page.block(repr(graph))
    measured = pd.concat(
        behaviour_rows(
            cr.IntervenedModel(small.model, graph.only(*subset), small.tokenizer).eval(),
            experiment.prompts,
            experiment.behaviours,
        ).assign(subset=subset_name(subset), seed=seed)
        for subset in subsets(list(graph.nodes))
    )
    every = len(experiment.prompts) // SHOWN
    shown = {"prompt": [row["prompt"].strip() for row in experiment.prompts[::every]][:SHOWN]}
    for name, rows in measured.groupby("subset", sort=False):
        shown[str(name)] = rows["text"].iloc[::every].tolist()[:SHOWN]
    page.table("four_generations", pd.DataFrame(shown))
    found = rates(measured, ["subset"], [behaviour.name for behaviour in experiment.behaviours])
    page.table("composition", found)
    ax = behaviour_table(found, value="rate", subset="subset", behaviour="behaviour")
    page.figure("composition", ax, f"What each subset of edits does on {len(experiment.prompts)} held-out prompts.")
    return found
