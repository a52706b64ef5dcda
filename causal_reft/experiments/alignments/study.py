"""One study of one question: what the model can do, what the study will cost, the study, and its page.

A subspace that does more than the whole vector is named by the study's report, and the table shows both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

import causal_reft as cr
from causal_reft.alignment import score_rows
from causal_reft.display import counted
from causal_reft.experiments.alignments.questions import Question
from causal_reft.experiments.alignments.swaps import HEADS, SWAPS, heads_taken
from causal_reft.experiments.cost import beside_what_was_said, said_before
from causal_reft.experiments.models import identity_of
from causal_reft.experiments.page import Page

SHOWN = (
    "layer", "head", "positions", "iia", "iia_low", "iia_high", "best_control", "control", "separation",
    "separation_low", "p_corrected", "whole vector", "pca", "no edit",
)  # fmt: skip
CALLED = {"full_patch": "whole vector", "no_edit": "no edit"}
CAPTIONS = {
    "iia": "Interchange intervention accuracy (with 95 % intervals) of",
    "full_patch": "Interchange intervention accuracy of",
    "logit_difference": "Logit of the expected answer minus that of the own one, where they differ, for",
}
ASKED = 200


@dataclass(frozen=True)
class Effort:
    """Where a study looks, what it swaps (`SWAPS`), and how much is spent on it."""

    layers: Sequence[int]
    positions: Sequence[str]
    heads: Sequence[int] = ()
    rank: int = 4
    seeds: int = 2
    rows: int = 64
    epochs: int = 6
    lr: float = 2e-2
    random: int = 100
    batch_size: int = 16
    swap: str = "subspace"

    @property
    def sites(self) -> list[cr.Site]:
        """Block outputs; single heads where heads are given; all heads of a layer where a mask chooses among them."""
        where = list(self.positions)
        if not self.heads and not SWAPS[self.swap].of_heads:
            return cr.site_grid(self.layers, where)
        return cr.site_grid(self.layers, where, HEADS, self.heads or None)

    @property
    def figures(self) -> list[str]:
        """Columns of the study's grid that are drawn; beside subspaces of single heads the whole heads."""
        return [*SWAPS[self.swap].figures, *(["full_patch"] if self.heads and self.swap == "subspace" else [])]


def show_study(page: Page, name: str, question: Question, model: Any, tokenizer: Any, effort: Effort) -> cr.StudyResult:
    """Run the study in the page's folder (it goes on there), and show table, figure and report."""
    task, swap = question.task(tokenizer), SWAPS[effort.swap]
    page.heading(f"{task.name}: {', '.join(task.variables)}")
    page.text(question.asks)
    page.text(f"For example {task.sample(1, 0)['prompt'][0]!r}. {_known(model, tokenizer, task)}")
    study = cr.Study(
        model,
        tokenizer,
        task=task,
        sites=effort.sites,
        featurizer=SWAPS[effort.swap].featurizer(effort.rank, model.config.num_attention_heads),
        seeds=range(effort.seeds),
        folder=page.folder / "study",
        recipe={"epochs": effort.epochs, "lr": effort.lr, "batch_size": effort.batch_size},
        sampling=cr.Sampling((effort.rows, effort.rows, 2 * effort.rows), (0.4, 0.2, 0.4), split_by=question.split_by),
        controls=cr.Controls(random=effort.random, seeds=1, ladder=False),
        match=question.match,  # pyright: ignore[reportArgumentType]
    )
    study.prepare()
    plan, said = said_before(page.folder / "plan.json", partial(_planned, study))
    page.block(plan)
    result = study.run()
    page.table(name, _table(result, effort))
    for value in effort.figures:
        page.figure(f"{name}_{value}", _map(result, value, bool(effort.heads)), _caption(value, effort))
    if swap.of_heads:
        _show_heads(page, name, result, effort)
    page.block(result.report())
    steps = ", ".join(map(str, sorted(result.table["steps"].unique())))
    page.text(f"Each fit took {steps} optimizer steps. Seconds of processor time, as said beforehand and as taken:")
    page.table(f"{name}_cost", beside_what_was_said(result.stages, said))
    return result


def made_by(command: str, model: Any, tokenizer: Any, spent: str) -> str:
    """The command, the versions, the digest of the weights, and what it took."""
    of = identity_of(model, tokenizer)
    versions = ", ".join(f"{name} {version}" for name, version in of["versions"].items())
    return "\n".join(
        [
            command,
            f"{of['model']['class']}, weights {of['model']['weights']}, {model.dtype} on {model.device}",
            versions,
            spent,
        ]
    )


def right_answers(model: Any, tokenizer: Any, frame: pd.DataFrame) -> list[bool]:
    """Whether the model continues each `prompt` greedily with its `text`."""
    records = cr.completions(list(zip(frame["prompt"], frame["text"], strict=True)), tokenizer, end=False)
    found = score_rows(model, cr.InterventionGraph(), cr.as_examples(records, tokenizer))
    return (found["iia"] == 1).tolist()


def _known(model: Any, tokenizer: Any, task: cr.Task) -> str:
    asked = task.sample(ASKED, seed=0).drop_duplicates("prompt", ignore_index=True)
    right = sum(right_answers(model, tokenizer, asked))
    return f"The model goes on with the right answer in {right} of {len(asked)} random prompts."


def _planned(study: cr.Study) -> tuple[str, dict[str, float]]:
    plan = study.plan()
    return repr(plan), {stage.name: stage.seconds for stage in plan.stages}


def _with_heads(result: cr.StudyResult) -> pd.DataFrame:
    return result.grid.assign(head=result.grid["site"].str.extract(r"\.h(\d+)$")[0])


def _table(result: cr.StudyResult, effort: Effort) -> pd.DataFrame:
    grid = _with_heads(result).rename(columns=CALLED)
    names = dict.fromkeys([*SHOWN, *(CALLED.get(name, name) for name in effort.figures)])
    return grid[[name for name in names if not grid[name].isna().all()]]


def _show_heads(page: Page, name: str, result: cr.StudyResult, effort: Effort) -> None:
    """A figure for each position: which heads the masks take."""
    from causal_reft.plots import site_heatmap

    for number, (where, part) in enumerate(heads_taken(result).groupby("positions", sort=False)):
        figure = site_heatmap(part, "taken", x="head", title=f"Heads that a learned mask takes, at {where!r}")
        seeds = counted(effort.seeds, "seed")
        page.figure(f"{name}_heads_{number}", figure, f"Share of {seeds} whose mask takes the head, at {where!r}.")


def _map(result: cr.StudyResult, value: str, by_head: bool):
    if not by_head:
        return result.heatmap(value)
    from causal_reft.plots import site_heatmap

    grid = _with_heads(result)
    where = grid["positions"].nunique() > 1
    return site_heatmap(grid.assign(head=grid["head"] + (", " + grid["positions"] if where else "")), value, x="head")


def _caption(value: str, effort: Effort) -> str:
    swap = "whole" if value == "full_patch" else effort.swap
    how = "nothing is trained" if swap == "whole" else counted(effort.seeds, "seed")
    return f"{CAPTIONS[value]} {SWAPS[swap].words.format(rank=effort.rank)}, by layer and place; {how}."
