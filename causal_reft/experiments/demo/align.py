"""The demo aligns a variable of the embedded model, the language in which it goes on, with controls beside the score.

A prompt is two lines of context and a question. The second line is German in one prompt and English in another, and the
model goes on in that line's language. Which places carry it? A study interchanges a small subspace there, between
prompts that share nothing else, and counts how often the other language's word comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from causal_reft.alignment import Controls, Sampling, Study, StudyResult
from causal_reft.alignment.study import STUDY_RECIPE
from causal_reft.causal import CausalModel, CounterfactualDataset, Task, Template
from causal_reft.causal.columns import Column
from causal_reft.causal.counterfactuals import PROMPT, TEXT
from causal_reft.data import Embedded
from causal_reft.experiments.page import Page
from causal_reft.featurizers import Subspace
from causal_reft.sites import site_grid

FIRST_WORDS = {"german": "Bald", "english": "Soon"}
RANK = 2
RECIPE = replace(STUDY_RECIPE, epochs=8, lr=2e-2)


def _line(language: Column, german: Column, english: Column) -> Column:
    return np.where(language == "german", german, english)


def _answer(language: Column) -> Column:
    return language.copy()


def language_task(small: Embedded) -> Task:
    """Contexts and questions of the held-out exercises; `language` is that of the line before the question.

    Both languages' lines have equally many tokens, so that the tokens of two prompts pair up.
    """
    contexts = [row["marker_german"].splitlines() for row in small.held_out]
    german = sorted({lines[-1] for lines in contexts})
    english = sorted({line for story in small.stories for line in story["text"].splitlines()})
    length = _common_length(small, german, english)
    model = CausalModel(
        inputs={
            "language": tuple(FIRST_WORDS),
            "opening": sorted({lines[0] for lines in contexts}),
            "german": _of_length(small, german, length),
            "english": _of_length(small, english, length),
            "question": sorted({row["prompt"] for row in small.held_out}),
        },
        mechanisms={"line": _line, "answer": _answer},
        outputs=("answer",),
    )
    return Task("language", model, Template("{opening}\n{line}\n{question}"), FIRST_WORDS, variables=("language",))


def show_alignment(
    page: Page,
    small: Embedded,
    layers: Sequence[int] | None = None,
    rows: tuple[int, int, int] = (96, 48, 48),
    controls: Controls = Controls(random=100, seeds=1, ladder=False),  # noqa: B008 - frozen
    seed: int = 0,
) -> StudyResult:
    """Run the study in the page's folder (it resumes there), and show heat map, grid and headline."""
    page.heading("Where does a language model hold the language in which it will go on?")
    config = small.model.config
    page.text(
        f"A prompt is two lines and a question. Where its second line is German, the model goes on in German, "
        f"otherwise in English. The study swaps {RANK} of {config.hidden_size} dimensions at one place between two "
        f"such prompts, and counts how often the first word ({' or '.join(FIRST_WORDS.values())}) is then that of the "
        f"swapped language. Where both prompts have one language, no edit at all is right too. The last block is left "
        f"out: after it the next word is already decided."
    )
    task = language_task(small)
    layers = range(config.num_hidden_layers - 1) if layers is None else layers
    study = Study(
        small.model,
        small.tokenizer,
        task=task,
        variable="language",
        sites=site_grid(layers, ["line", "last"]),
        featurizer=Subspace.of_rank(RANK),
        seeds=range(seed, seed + 2),
        folder=page.folder / "alignment",
        recipe=RECIPE,
        sampling=Sampling(rows=rows, split_by="line"),
        controls=controls,
        match="choices",
    )
    pairs = task.counterfactuals("language", 3, seed=seed)
    page.text("One of the prompts, and the second lines of some pairs:")
    page.block(pairs.base[PROMPT][0].strip())
    page.table("alignment_pairs", _second_lines(pairs))
    result = study.run(progress=False)
    _show(page, result)
    page.text(f"Read it again without computing: causal_reft.StudyResult.load({str(study.folder)!r}).")
    return result


def _second_lines(pairs: CounterfactualDataset) -> pd.DataFrame:
    """Those of base and source, and the word that is expected when their language is interchanged."""
    source = next(iter(pairs.sources.values()))
    return pd.DataFrame({"base": pairs.base["line"], "source": source["line"], "expected": pairs.labels[TEXT]})


def _show(page: Page, result: StudyResult) -> None:
    found = result.grid[
        ["layer", "positions", "iia", "iia_low", "iia_high", "best_control", "control", "separation", "p_corrected"]
    ]
    page.table("alignment", pd.DataFrame(found))
    ax = result.heatmap("iia")
    page.figure(
        "alignment",
        ax,
        f"IIA by layer and place: {RANK} dimensions, {result.best().seeds} seeds, 95 % intervals, the best of the "
        f"controls. Framed: the cell that the report chose; hatched: no more than the controls.",
    )
    page.block(result.report())


def _common_length(small: Embedded, german: Sequence[str], english: Sequence[str]) -> int:
    """The number of tokens of which both languages have the most lines."""
    counts = [pd.Series(_lengths(small, lines)).value_counts() for lines in (german, english)]
    return int(pd.concat(counts, axis=1).fillna(0).min(axis=1).idxmax())


def _of_length(small: Embedded, lines: Sequence[str], length: int) -> list[str]:
    return [line for line, tokens in zip(lines, _lengths(small, lines), strict=True) if tokens == length]


def _lengths(small: Embedded, lines: Sequence[str]) -> list[int]:
    return [len(ids) for ids in small.tokenizer(list(lines))["input_ids"]]
