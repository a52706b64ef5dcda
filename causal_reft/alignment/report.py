"""The report of a study: what it found, and how sure that is. Every number comes from the tables.

A cell is said to separate where its p-value, corrected for the whole grid, is below 5 % *and* the 95 % interval of its
separation from the best control lies above zero.
"""

from __future__ import annotations

import html
from collections.abc import Mapping

import pandas as pd

from causal_reft.alignment.grid import SHUFFLED
from causal_reft.alignment.tables import StudyTables

ALPHA, HALF = 0.05, 0.5
MATCHED = {"vocabulary": "of the full vocabulary", "choices": "of the answers that the task knows"}


def headline(study: StudyTables) -> str:
    """A few lines: what separates, and the best cell with its controls."""
    lines = [line for variable in _finished(study) for line in _headline(study, variable)]
    return "\n".join([*_partial(study), *lines])


def report_text(study: StudyTables) -> str:
    """The whole report."""
    parts = _partial(study)
    for variable in _finished(study):
        parts += [
            *_headline(study, variable),
            "",
            *_where(study, variable),
            *_ineffective(study, variable),
            *_warnings(study, variable),
            "",
            *_controls(study, variable),
            *_ladder(study, variable),
            *_illusion(study, variable),
        ]
        parts += ["", *_rows(study, variable), ""]
    return "\n".join([*parts, *_reading()])


def report_html(study: StudyTables) -> str:
    """The whole report with the grid as a table."""
    columns = [
        "variable",
        "site",
        "positions",
        "featurizer",
        "iia",
        "iia_low",
        "iia_high",
        "control",
        "best_control",
        "separation",
        "separation_low",
        "separation_high",
        "p_corrected",
    ]
    table = study.grid[columns].to_html(index=False, float_format=lambda x: f"{x:.3f}", border=0)
    paragraphs = "".join(f"<p>{html.escape(line)}</p>" for line in report_text(study).splitlines() if line.strip())
    return f"<div>{paragraphs}{table}</div>"


def _finished(study: StudyTables) -> list[str]:
    """The variables of which there is a fit."""
    return list(dict.fromkeys(study.grid["variable"]))


def _partial(study: StudyTables) -> list[str]:
    missing = study.missing
    if not missing:
        return []
    return [
        f"PARTIAL: {len(study.cells)} cells are finished; {len(missing)} {missing[0].kind} cells are missing, and what "
        "follows from them. Where controls are missing, scores are compared with nothing.",
        "",
    ]


def separates(grid: pd.DataFrame) -> pd.Series:
    """Which rows of the grid separate from their best control."""
    return (grid["p_corrected"] < ALPHA) & (grid["separation_low"] > 0)


def _headline(study: StudyTables, variable: str) -> list[str]:
    grid, best = _of(study, variable), study.best(variable)
    apart = grid[separates(grid)]
    if apart.empty:
        return [
            f"{variable}: nothing separates from the controls, at none of {len(grid)} cells (p corrected for all "
            f"of them; alpha {ALPHA}).",
            f"  The best on the selection rows, {_cell(best)}, scores {_score(best)}, its best control "
            f"({best.best_control}) {best.control:.3f}.",
        ]
    return [
        f"{variable}: {len(apart)} of {len(grid)} cells separate from their best control (p corrected for all of "
        f"them; alpha {ALPHA}){_beyond_whole(apart)}.",
        f"  Chosen on the selection rows: {_cell(best)}. On the report rows: separation {best.separation:+.3f} "
        f"[{best.separation_low:+.3f}, {best.separation_high:+.3f}] from {best.best_control}, p = "
        f"{best.p_corrected:.2g}; IIA {_score(best)} over {best.seeds} seeds.",
    ]


def _beyond_whole(apart: pd.DataFrame) -> str:
    """At how many of the separated cells the whole vector does less than half of what the subspace does."""
    beyond = int((apart["whole_share"] < HALF).sum())
    if not beyond:
        return ""
    which = "each" if beyond == len(apart) else f"{beyond}"
    return (
        f"; but at {which} of these {len(apart)} the whole vector does less than half of what the subspace does beyond "
        "no edit, so the subspace sets states that swapping the whole vector does not"
    )


def _where(study: StudyTables, variable: str) -> list[str]:
    """For each position, the layers that separate."""
    grid = _of(study, variable)
    lines = []
    for (positions, component, featurizer), part in grid.groupby(["positions", "component", "featurizer"], sort=False):
        apart = part[separates(part)]
        place = _place(part, positions, component) + (f" with {featurizer}" if grid["featurizer"].nunique() > 1 else "")
        if apart.empty:
            highest = part.iloc[int(part["iia"].to_numpy().argmax())]
            lines.append(
                f"At {place}: no effect beyond the controls at any of {len(part)} sites (highest IIA "
                f"{_score(highest)}, control {highest.control:.3f})."
            )
            continue
        shown = "; ".join(
            f"{_layer(row)} {row.separation:+.3f} (IIA {row.iia:.3f}, whole vector {row.full_patch:.3f})"
            for _, row in apart.iterrows()
        )
        lines.append(f"At {place}: separated at {len(apart)} of {len(part)} sites: {shown}.")
    return lines


def _warnings(study: StudyTables, variable: str) -> list[str]:
    """Why which intervals may be too short."""
    grid = _of(study, variable)
    found = grid.loc[grid["warning"] != "", "warning"].str.split("; ").explode().value_counts(sort=False)
    return [
        f"Read the intervals of {count} of {len(grid)} cells with care: {warning}." for warning, count in found.items()
    ]


def _controls(study: StudyTables, variable: str) -> list[str]:
    best = study.best(variable)
    angle = (
        ""
        if pd.isna(best.seed_angle)
        else f" Subspaces of different seeds differ by {best.seed_angle:.0f} degrees (mean largest angle)."
    )
    return [
        f"At {_cell(best)}: identity patch {best.no_edit:.3f}; random subspaces of rank {best['rank']:g} mean "
        f"{best.random_mean:.3f}, best {best.random_best:.3f} (the score beats {best.random_percentile:.0f} %); PCA "
        f"{best.pca:.3f}; permuted labels {best.permuted:.3f}; shuffled weights {best.shuffled:.3f}; whole vector "
        f"{best.full_patch:.3f}. Standard deviation over seeds "
        f"{best.iia_sd:.3f}." + angle,
        f"Cause {best.cause:.3f}, isolate {best.isolate:.3f}, disentangle {best.disentangle:.3f} (nan: no such rows).",
    ]


def _ladder(study: StudyTables, variable: str) -> list[str]:
    ladder = study.ladder
    mine = ladder[ladder["variable"] == variable] if len(ladder) else ladder
    if not len(mine):
        return []
    steps = (
        mine.groupby(["featurizer", "network"], sort=False)["iia"].agg(["mean", "min", "max", "count"]).reset_index()
    )
    steps = steps.sort_values("network", kind="stable")
    shown = "; ".join(
        f"{row.featurizer}{' on shuffled weights' if row.network == SHUFFLED else ''} {row['mean']:.3f} "
        f"[{row['min']:.3f} to {row['max']:.3f}, {row['count']} seeds]"
        for _, row in steps.iterrows()
    )
    return [f"Capacity ladder there: {shown}. A Flow can align almost anything: what it reaches is no evidence."]


def _illusion(study: StudyTables, variable: str) -> list[str]:
    found = study.illusion(variable)
    if found is None:
        return []
    lines = (f"  {line}" for line in found.text.splitlines())
    return ["Illusion report of its first seed (a diagnostic, no verdict):", *lines]


def _rows(study: StudyTables, variable: str) -> list[str]:
    grid, first = _of(study, variable), _of(study, variable).iloc[0]
    seeds = ", ".join(map(str, study.description["seeds"]))
    return [
        f"Scored on {first.rows} report rows ({first.clusters} pairs), which share no {_unit(study)} with training or "
        f"selection{_dropped(study.dropped[variable])}. An answer is right where it is the most likely "
        f"{MATCHED[study.description['match']]}. Seeds {seeds}; {len(grid)} cells; "
        f"torch {_versions(study)}."
    ]


def _ineffective(study: StudyTables, variable: str) -> list[str]:
    sites = study.ineffective(variable)
    return [f"Not trained, because an edit changes no logit that is read: {', '.join(sites)}."] if sites else []


def _reading() -> list[str]:
    return [
        "How to read it: the headline is the separation, a score minus that of its best control on the same rows. "
        "Intervals are 95 %, over other base/source pairs and other seeds; pairs that share a base or a source are not "
        "independent. A cell separates where p, corrected for all cells (Holm), is below 0.05 and the interval of the "
        "separation lies above zero. High IIA alone is no evidence."
    ]


def _of(study: StudyTables, variable: str) -> pd.DataFrame:
    return study.grid[study.grid["variable"] == variable]


def _cell(row: pd.Series) -> str:
    return f"{row.site} at {row.positions} ({row.featurizer})"


def _layer(row: pd.Series) -> str:
    return row.site if pd.isna(row.layer) else f"layer {int(row.layer)}"


def _place(part: pd.DataFrame, positions: object, component: object) -> str:
    return f"{positions!r}" if part["component"].iloc[0] == "block_output" else f"{positions!r} of {component}"


def _score(row: pd.Series) -> str:
    return f"{row.iia:.3f} [{row.iia_low:.3f}, {row.iia_high:.3f}]"


def _unit(study: StudyTables) -> str:
    by = study.description["sampling"]["split_by"]
    return "setting" if by is None else by if isinstance(by, str) else " and ".join(by)


def _dropped(counts: Mapping[str, int]) -> str:
    shown = [f"{count} {why}" for why, count in counts.items() if count]
    return f" (dropped: {', '.join(shown)})" if shown else ""


def _versions(study: StudyTables) -> str:
    found = dict.fromkeys(str(result.provenance.get("torch")) for result in study.cells.values())
    return " and ".join(found)
