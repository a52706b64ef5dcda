"""The report as HTML: for a notebook, and as a page of one file with everything that a reader may ask for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape

import pandas as pd

from causal_reft.alignment.cells import GIVEN
from causal_reft.alignment.report import NAMES, finished, headline, marked, name_of, report_text
from causal_reft.alignment.tables import StudyTables
from causal_reft.display import counted, html_table

CELL = ["variable", "site", "positions", "featurizer"]
BESIDE = {name: NAMES.get(name, name) for name in ("no_edit", "pca", "full_patch")} | {
    "random_mean": "random subspaces, mean",
    "random_best": "best random subspace",
    "permuted": "permuted labels",
    "shuffled": "shuffled weights",
}
FAILING, LONGEST = 5, 240  # rows that a cell of the page names, letters of a prompt
SETTINGS = ("sampling", "recipe", "controls")


def report_html(study: StudyTables, failing: int = 1) -> str:
    """For a notebook: the report, and below it the heat map of every variable and featurizer."""
    lines = "".join(f"<p>{escape(line)}</p>" for line in report_text(study).splitlines() if line.strip())
    maps = "".join(live for variable in finished(study) for live in _heatmaps(study, variable, failing))
    return f"<div>{lines}{maps}</div>"


def report_page(study: StudyTables, code: str = "") -> str:
    """The page: heat maps, controls, curves, coordinates of the states, illusion, provenance, code."""
    from causal_reft.plots.page import document, table_html

    parts = [f"<p>{escape(line)}</p>" for line in headline(study).splitlines() if line.strip()]
    parts += [part for variable in finished(study) for part in _sections(study, variable)]
    parts += [_heading("In words"), _block(report_text(study)), _heading("Every cell"), table_html(study.grid)]
    every = _block(json.dumps(study.description, indent=1))
    parts += [_heading("Provenance"), _provenance(study), _folded("Everything that determined the numbers", every)]
    parts += [_heading("Code"), *([_block(code)] if code else []), _block(_call(study))]
    model = study.description["model"]["class"].rpartition(".")[2]
    return document(f"Study of {', '.join(finished(study))} in {model}", parts)


# Heat maps that answer --------------------------------------------------------------------------------------------


def _heatmaps(study: StudyTables, variable: str, failing: int) -> Iterator[str]:
    from causal_reft.plots import site_heatmap_html

    records = dict(list(study.records.groupby(CELL, sort=False)))
    for _, grid in marked(study, variable).groupby("featurizer", sort=False):
        details = [_details(row, records[tuple(row[CELL])], failing) for _, row in grid.iterrows()]
        yield site_heatmap_html(grid, details, study.metric)


def _details(row: pd.Series, records: pd.DataFrame, failing: int) -> str:
    """What a cell answers: score, separation, controls, warning, and rows that fail."""
    score = f"{NAMES.get(row.metric, row.metric)} {_interval(row, row.metric)}"
    lines = [f"{score} over {counted(row.clusters, 'pair')} and {counted(row.seeds, 'seed')}"]
    if not pd.isna(row.control):
        p = "p < 0.001" if row.p_corrected < 0.001 else f"p = {row.p_corrected:.3f}"
        lines.append(
            f"{'separates' if row.separated else 'does not separate'}: {_interval(row, 'separation')} from the best "
            f"control, {NAMES.get(row.best_control, row.best_control)}; {p} (corrected)"
        )
        lines.append("; ".join(f"{words} {_number(row[name])}" for name, words in BESIDE.items()))
    lines += [row.warning] if row.warning else []
    shown = "".join(f"<div>{escape(line)}</div>" for line in lines)
    return f"<div><b>{escape(name_of(row))}</b></div>{shown}{_failing(records, failing)}"


def _failing(records: pd.DataFrame, most: int) -> str:
    """The report rows that the cell gets wrong most often."""
    right = records.groupby("row")["iia"].mean()
    wrong = right[right < 1].sort_values(kind="stable")
    if wrong.empty:
        return "<div>Every report row is right with every seed.</div>"
    rows = records.drop_duplicates("row").set_index("row")
    columns = list(rows.filter(regex="_prompt$|_setting$|^expected_text$"))
    columns += [] if "expected_text" in columns else list(rows.filter(regex="^expected_"))
    shown = [[*(_cut(rows.at[row, name]) for name in columns), f"{wrong[row]:.0%}"] for row in wrong.index[:most]]
    title = f"{len(wrong)} of {counted(len(right), 'report row')} are wrong with some seed. Most often:"
    return html_table(title, [*(str(name).replace("_", " ") for name in columns), "right"], shown)


def _cut(text: object) -> str:
    """A long text without its middle."""
    found, half = str(text), LONGEST // 2
    return found if len(found) <= LONGEST else f"{found[:half]} … {found[-half:]}"


def _interval(row: pd.Series, name: str) -> str:
    return f"{_number(row[name])} [{_number(row[f'{name}_low'])}, {_number(row[f'{name}_high'])}]"


def _number(value: float) -> str:
    return "not measured" if pd.isna(value) else f"{value:.3f}"


# Sections of the page ---------------------------------------------------------------------------------------------


def _sections(study: StudyTables, variable: str) -> Iterator[str]:
    """Everything about one variable."""
    from causal_reft.plots.page import table_html

    best = study.best(variable)
    yield _heading(variable)
    yield from _heatmaps(study, variable, FAILING)
    yield _folded("The same as a figure", *_static(study, variable))
    yield from _curves(study, variable)
    if len(study.controls):
        yield _heading(f"Controls at {name_of(best)}", 3)
        controls = study.controls
        yield table_html(controls[(controls[CELL] == best[CELL].to_numpy()).all(axis=1)].drop(columns=CELL))
    found = study.illusion(variable)
    if found is not None:
        yield _heading("Illusion report", 3)
        yield _block(found.text)
        yield table_html(found.effects)
        yield from _probe(study, variable, found.projections)


def _static(study: StudyTables, variable: str) -> Iterator[str]:
    from causal_reft.plots import site_heatmap
    from causal_reft.plots.page import embedded, figure_html

    for label, grid in marked(study, variable).groupby("featurizer", sort=False):
        caption = f"{variable} by {label}: 95 % intervals over rows and seeds, and the best control."
        yield figure_html(embedded(site_heatmap(grid, study.metric)), caption)


def _curves(study: StudyTables, variable: str) -> Iterator[str]:
    """Scores by layer, the random subspaces of the best site, and the ladder of capacity: what the study has of it."""
    from causal_reft.plots import curves_with_intervals, iia_against_rank, random_controls
    from causal_reft.plots.page import embedded, figure_html

    grid, best, metric = marked(study, variable), study.best(variable), study.metric
    mine = grid[grid["featurizer"] == best["featurizer"]].dropna(subset="layer")
    if mine["layer"].nunique() > 1 and not mine.duplicated(["layer", "positions"]).any():
        ax = curves_with_intervals(mine, "layer", metric, group="positions")
        yield figure_html(embedded(ax), f"By layer and position, with {best.featurizer}; bands: 95 % intervals.")
    draws = study.random_draws(variable)
    if len(draws):
        ends = best[f"{metric}_low"], best[f"{metric}_high"]
        ax = random_controls(draws, best[metric], metric, *ends)
        yield figure_html(embedded(ax), f"{name_of(best)} among random subspaces of the same rank.")
    ladder = study.ladder[study.ladder["variable"] == variable] if len(study.ladder) else study.ladder
    if len(ladder):
        network = (", " + ladder["network"] + " weights").where(ladder["network"] != GIVEN, "")
        kinds = ladder.assign(kind=ladder["featurizer"].str.split().str[0] + network)
        ax = iia_against_rank(kinds, metric, group="kind")
        yield figure_html(embedded(ax), "Ladder of capacity at the best site. What a Flow reaches is no evidence.")


def _probe(study: StudyTables, variable: str, projections: pd.DataFrame) -> Iterator[str]:
    """What is written at the best site, in coordinates of its subspace; of one token a row, and at most 7 answers."""
    from causal_reft.plots import subspace_probe
    from causal_reft.plots.page import embedded, figure_html
    from causal_reft.plots.style import PALETTE

    answers = study.rows[variable].filter(regex="^expected_").iloc[:, 0]
    written = projections[(projections["direction"] == "subspace") & (projections["state"] == "source")]
    z = {f"z{number}": part.to_numpy() for number, part in written.groupby("coordinate")["value"]}
    if len(z["z0"]) == len(answers) and answers.nunique() <= len(PALETTE):
        ax = subspace_probe(pd.DataFrame({**z, "answer": answers.map(str)}), "answer")
        caption = "Source states at the best site in coordinates of the subspace, and the answer that they must bring."
        yield figure_html(embedded(ax), caption)


def _provenance(study: StudyTables) -> str:
    described, model = study.description, study.description["model"]
    machines = dict.fromkeys(json.dumps(result.provenance, sort_keys=True) for result in study.cells.values())
    seconds = sum(result.seconds for result in study.cells.values())
    rows = [
        ("model", f"{model['class']}, weights {model['weights']}, fingerprint {model['digest']}"),
        ("rows", "; ".join(f"{name}: digest {digest}" for name, digest in described["rows"].items())),
        ("dropped", "; ".join(f"{name}: {dict(counts)}" for name, counts in study.dropped.items())),
        ("seeds", ", ".join(map(str, described["seeds"]))),
        ("cells", f"{len(study.cells):,}, together {seconds:,.0f} s of processor time"),
        ("causal_reft", described["causal_reft"]),
        *(("machine", machine) for machine in machines),
    ]
    return html_table("", (), rows)


def _call(study: StudyTables) -> str:
    """The call with what the folder knows of it."""
    described = study.description
    sites = "; ".join(f"{site['name']} at {site['positions']}" for site in described["sites"])
    shown = dict(
        zip(
            described["labels"][: described["n_main"]], (one["shown"] for one in described["featurizers"]), strict=False
        )
    )
    settings = [f"    {name}=cr.{name.capitalize()}({_arguments(described[name])})," for name in SETTINGS]
    lines = [
        "# model, tokenizer, task (or data), sites and featurizer are yours; everything else is as it was",
        "study = cr.Study(",
        f"    model,  # {described['model']['class']}",
        "    tokenizer,",
        "    task=task,",
        f"    variable={list(described['variables'])},",
        f"    sites=sites,  # {sites}",
        f"    featurizer=featurizer,  # {'; '.join(f'{name}: {one}' for name, one in shown.items())}",
        f"    seeds={described['seeds']},",
        *settings,
        *(f"    {name}={described[name]!r}," for name in ("metric", "match", "batch_size")),
        ")",
        "result = study.run()",
    ]
    return "\n".join(lines)


def _arguments(values: dict[str, object]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())


def _heading(text: str, level: int = 2) -> str:
    return f"<h{level}>{escape(text)}</h{level}>"


def _block(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"


def _folded(summary: str, *parts: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{''.join(parts)}</details>"
