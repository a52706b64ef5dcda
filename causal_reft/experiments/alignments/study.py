"""One study of one question: what the model can do, what the study will cost, the study, and its page.

A subspace that does more than the whole vector is named by the study's report, and the table shows both.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import causal_reft as cr
from causal_reft.alignment import score_rows
from causal_reft.display import counted
from causal_reft.experiments.alignments.questions import Question
from causal_reft.experiments.models import identity_of
from causal_reft.experiments.page import Page

SHOWN = (
    "layer", "head", "positions", "iia", "iia_low", "iia_high", "best_control", "control", "separation",
    "separation_low", "p_corrected", "whole vector", "pca", "no edit",
)  # fmt: skip
CALLED = {"full_patch": "whole vector", "no_edit": "no edit"}
ASKED = 200


@dataclass(frozen=True)
class Effort:
    """Where a study looks, and how much is spent on it."""

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

    @property
    def sites(self) -> list[cr.Site]:
        """Block outputs, or single heads where heads are given."""
        where = list(self.positions)
        if not self.heads:
            return cr.site_grid(self.layers, where)
        return cr.site_grid(self.layers, where, ["attention_head_output"], self.heads)


def show_study(page: Page, name: str, question: Question, model: Any, tokenizer: Any, effort: Effort) -> cr.StudyResult:
    """Run the study in the page's folder (it goes on there), and show table, figure and report."""
    task = question.task(tokenizer)
    page.heading(f"{task.name}: {', '.join(task.variables)}")
    page.text(question.asks)
    page.text(f"For example {task.sample(1, 0)['prompt'][0]!r}. {_known(model, tokenizer, task)}")
    study = cr.Study(
        model,
        tokenizer,
        task=task,
        sites=effort.sites,
        featurizer=cr.Subspace.of_rank(effort.rank),
        seeds=range(effort.seeds),
        folder=page.folder / "study",
        recipe={"epochs": effort.epochs, "lr": effort.lr, "batch_size": effort.batch_size},
        sampling=cr.Sampling((effort.rows, effort.rows, 2 * effort.rows), (0.4, 0.2, 0.4), split_by=question.split_by),
        controls=cr.Controls(random=effort.random, seeds=1, ladder=False),
        match=question.match,  # pyright: ignore[reportArgumentType]
    )
    page.block(_planned(study, page.folder / "plan.txt"))
    result = study.run()
    page.table(name, _table(result))
    for value in ("iia", "full_patch") if effort.heads else ("iia",):
        page.figure(f"{name}_{value}", _map(result, value, bool(effort.heads)), _caption(value, effort))
    page.block(result.report())
    steps = ", ".join(map(str, sorted(result.table["steps"].unique())))
    page.text(f"Each fit took {steps} optimizer steps; all cells together {result.seconds:.0f} s of processor time.")
    return result


def made_by(command: str, model: Any, tokenizer: Any) -> str:
    """The command, the versions, the digest of the weights, and the machine."""
    of = identity_of(model, tokenizer)
    versions = ", ".join(f"{name} {version}" for name, version in of["versions"].items())
    return "\n".join(
        [
            command,
            f"{of['model']['class']}, weights {of['model']['weights']}, {model.dtype} on {model.device}",
            f"{versions}; {torch.get_num_threads()} threads of {os.cpu_count()} processor cores; this call took "
            f"{time.process_time():.0f} s of processor time",
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


def _planned(study: cr.Study, file: Path) -> str:
    """The plan as it was made before the study began: seconds that are taken later would say less."""
    study.prepare()
    if not file.is_file():
        file.write_text(f"{study.plan()}\n", encoding="utf-8")
    return file.read_text(encoding="utf-8").rstrip()


def _with_heads(result: cr.StudyResult) -> pd.DataFrame:
    return result.grid.assign(head=result.grid["site"].str.extract(r"\.h(\d+)$")[0])


def _table(result: cr.StudyResult) -> pd.DataFrame:
    grid = _with_heads(result).rename(columns=CALLED)
    return grid[[name for name in SHOWN if not grid[name].isna().all()]]


def _map(result: cr.StudyResult, value: str, by_head: bool):
    if not by_head:
        return result.heatmap(value)
    from causal_reft.plots import site_heatmap

    grid = _with_heads(result)
    where = grid["positions"].nunique() > 1
    return site_heatmap(grid.assign(head=grid["head"] + (", " + grid["positions"] if where else "")), value, x="head")


def _caption(value: str, effort: Effort) -> str:
    what = f"a subspace of rank {effort.rank}" if value == "iia" else "the whole vector"
    seeds = counted(effort.seeds, "seed")
    return f"Interchange intervention accuracy of {what} by layer and place; {seeds}, 95 % intervals."
