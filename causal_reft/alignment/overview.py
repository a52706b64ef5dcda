"""What a study will do, in words: its grid, its rows, how its groups are computed, what that saves. `print(study)`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from causal_reft.alignment.cell import FIT
from causal_reft.alignment.work import explained

if TYPE_CHECKING:
    from causal_reft.alignment.study import Study


def describe_study(study: Study) -> str:
    """The repr of a study: the grid, the rows, the cost, the folder."""
    fits = study.design.fits
    main, twins = [c for c in fits if c.role == "study"], [c for c in fits if c.role == "control"]
    sites, seeds = len(study.sites), len(study.seeds)
    grid = f"{sites} sites x {study.n_main} featurizers x {seeds} seeds x {len(study.prepared)} variables"
    last = len(study.labels) - study.n_main
    forwards, seconds = _cost(study)
    lines = [
        f"Study of {', '.join(study.prepared)}: {grid} = {len(main)} fits",
        f"  featurizers: {', '.join(study.labels[: study.n_main])}; seeds {', '.join(map(str, study.seeds))}",
        f"  controls: {study.controls.random} random subspaces, PCA, identity patch and whole vector at every site; "
        f"{len(twins)} more fits to permuted labels and on shuffled weights",
        f"  at the best site: a ladder of {last} more maps"
        + (" and an illusion report" if study.controls.illusion else ""),
        *[
            f"  {name}: {_row_counts(part.data)} rows{dropped_words(part.dropped)}"
            for name, part in study.prepared.items()
        ],
        *_computed(study),
        f"  without shortcuts: about {_round(forwards)} passes of one prompt, {_duration(seconds)} for one worker",
        f"  folder {study.store.folder}: {study.finished} of {len(study.cells)} known cells finished",
    ]
    return "\n".join(lines)


def dropped_words(dropped: Mapping[str, int]) -> str:
    """How many rows were dropped and why, in brackets; empty for none."""
    shown = [f"{count} {why}" for why, count in dropped.items() if count]
    return f" (dropped: {', '.join(shown)})" if shown else ""


def _computed(study: Study) -> list[str]:
    """Into how many groups the cells fall, what one of them runs, and which sites nothing can be learned at."""
    fits = [group for group in study.groups if group.shared.kind == FIT]
    shown = [group for group in fits if group.shared.role == "study" and group.shared.seed == study.seeds[0]]
    plans = [explained(study.work, group) for group in shown]
    sites = dict.fromkeys(cell.site for _, ineffective in plans for cell in ineffective)
    ineffective = ", ".join(f"{study.sites[n].name} at {study.sites[n].where}" for n in sites)
    recipe = study.work.recipe
    steps = recipe.steps(len(study.work.data[shown[0].shared.variable].train))
    return [
        f"  fits in {len(fits)} groups of at most {study.cells_at_once} that share their passes: {steps} batches of "
        f"{recipe.batch_size} rows, then selection and report rows. The first group:",
        *(f"    {line}" for line in plans[0][0].splitlines()),
        *([f"  no logit that is read can feel an edit of {ineffective}: not trained"] if ineffective else []),
    ]


def _row_counts(data) -> str:
    return f"{len(data.train)} training, {len(data.select.examples)} selection, {len(data.report.examples)} report"


def _cost(study: Study) -> tuple[float, float]:
    """Passes of one prompt, and seconds, from the time that the filter took per row."""
    forwards = seconds = 0.0
    for name, part in study.prepared.items():
        fits = sum(cell.kind == FIT and cell.variable == name for cell in study.design.fits)
        fits += len(study.seeds) * (len(study.labels) - study.n_main)
        runs, report = 1 + len(set(part.data.runs.values())), len(part.data.report.examples)
        steps = study.work.recipe.steps(len(part.data.train)) * study.work.recipe.batch_size
        each = steps * (runs + 2) + (report + len(part.data.select.examples)) * runs
        controls = len(study.sites) * (study.controls.random + 3) * report * runs
        forwards += fits * each + controls
        seconds += (fits * each + controls) * part.seconds_per_row
    return forwards, seconds


def _round(number: float) -> str:
    for size, word in ((1e9, " billion"), (1e6, " million"), (1e3, " thousand")):
        if number >= size:
            return f"{number / size:.2g}{word}"
    return f"{number:.0f}"


def _duration(seconds: float) -> str:
    for size, word in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {word}"
    return f"{max(seconds, 1):.0f} seconds"
