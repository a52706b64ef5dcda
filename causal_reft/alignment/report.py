"""The report of a study: what it found, and how sure that is. Every number comes from the tables.

A cell is said to separate where its p-value, corrected for the whole grid, is below 5 % *and* the 95 % interval of its
separation from the best control lies above zero.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from causal_reft.alignment.cells import LEFT_OUT, SHUFFLED
from causal_reft.alignment.metrics import SHARES, shown
from causal_reft.alignment.tables import HALF, StudyTables
from causal_reft.display import counted

ALPHA = 0.05
REFERENCES = {"the whole vector": "full_patch", "PCA": "pca"}
NAMES = {"iia": "IIA", "no_edit": "identity patch", "pca": "PCA", "full_patch": "whole vector"}
PARTS = {"train": "training", "select": "selection", "test": "report"}
MATCHED = {"vocabulary": "of the full vocabulary", "choices": "of the answers that the task knows"}


def headline(study: StudyTables) -> str:
    """A few lines: what separates, and the best cell with its controls."""
    lines = [line for variable in finished(study) for line in _headline(study, variable)]
    return "\n".join([*_partial(study), *lines])


def report_text(study: StudyTables) -> str:
    """The whole report."""
    parts = _partial(study)
    for variable in finished(study):
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


def finished(study: StudyTables) -> list[str]:
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


def so_far(study: StudyTables) -> dict[str, str]:
    """For each variable with a finished fit, the cell that is best on the selection rows, scored on the report rows."""
    rows = {variable: study.leading(variable) for variable in study.rows if study.fits(variable=variable, role="study")}
    return {f"{name}, best so far:": f"{_named(row)} {_score(row)}, {name_of(row)}" for name, row in rows.items()}


def marked(study: StudyTables, variable: str) -> pd.DataFrame:
    """The rows of the grid of a variable with what a figure marks: `separated`, `chosen`, and the model's name."""
    grid = _of(study, variable)
    model = study.description["model"]["class"].rpartition(".")[2]
    return grid.assign(separated=separates(grid), chosen=grid.index == study.best(variable).name, model=model)


def name_of(row: pd.Series) -> str:
    """A cell of the grid in words."""
    return f"{row.site} at {row.positions} ({row.featurizer})"


def _headline(study: StudyTables, variable: str) -> list[str]:
    grid, best = _of(study, variable), study.best(variable)
    apart, compared = grid[separates(grid)], int(grid["control"].notna().sum())
    by = "" if study.metric == "iia" else f" by {study.metric}"
    if apart.empty:
        found = [
            f"{variable}: nothing separates from the controls{by} at any of {counted(compared, 'cell')} (p corrected "
            f"for all of them; alpha {ALPHA})."
            if compared
            else f"{variable}: nothing is compared yet, as no cell has its controls.",
            f"  The best on the selection rows{by}, {name_of(best)}, has {_named(best)} {_score(best)}, "
            f"{_best_control(best)}.",
        ]
    else:
        found = [
            f"{variable}: {len(apart)} of {len(grid)} cells separate from their best control{by} (p corrected for all "
            f"of them; alpha {ALPHA}){_beyond_whole(apart)}.",
            f"  Chosen on the selection rows{by}: {name_of(best)}. On the report rows: {_separation(best)}; "
            f"{_named(best)} {_score(best)} over {counted(int(best.seeds), 'seed')}.",
        ]
    return [*found, *_references(study, variable), *_without_cause(best), *_not_new(study, variable)]


def _best_control(row: pd.Series) -> str:
    missing = pd.isna(row.control)
    return "its controls missing" if missing else f"its best control ({row.best_control}) {row.control:.3f}"


def _separation(row: pd.Series) -> str:
    if pd.isna(row.control):
        return "its controls missing"
    return (
        f"separation {row.separation:+.3f} [{row.separation_low:+.3f}, {row.separation_high:+.3f}] from "
        f"{row.best_control}, p = {row.p_corrected:.2g}"
    )


def _references(study: StudyTables, variable: str) -> list[str]:
    """What PCA and the whole vector do at the best cell: by themselves they say that the variable is there."""
    best, grid = study.best(variable), _of(study, variable)
    if pd.isna(best.control):
        return []
    line = (
        f"  There: whole vector {_measured(best.full_patch)}, PCA {_measured(best.pca)}, no edit {best.no_edit:.3f}."
        + _kinds_of_controls(study, best)
    )
    effects = {name: study.effect(variable, column) for name, column in REFERENCES.items()}
    gains = [
        f"{name} by {found[0].value:+.3f} [{found[0].low:+.3f}, {found[0].high:+.3f}] {found[1]}"
        for name, found in effects.items()
        if found is not None
    ]
    if not gains or separates(grid).any():
        return [line]
    return [
        line,
        f"  That is localisation by itself: {' and '.join(gains)} exceed{'s' * (len(gains) == 1)} no edit, so the "
        "variable is at this site, whether or not a fitted subspace separates.",
    ]


def _without_cause(best: pd.Series) -> list[str]:
    """A best cell at which nothing changes that must."""
    if best.cause > 0 or pd.isna(best.cause):
        return []
    return [
        "  Its cause is 0: no answer changes that must, and the score comes from rows whose answer stays. Choose by "
        "what changes too: Study(..., metric='disentangle') or 'cause'."
    ]


def _not_new(study: StudyTables, variable: str) -> list[str]:
    found = _in_common(study.shared[variable])
    return [f"  Its rows are not new: {found}."] if found else []


def _in_common(shared: pd.DataFrame) -> str:
    """What the report rows have in common with the others: "training and report share 3 prompts"; empty: nothing."""
    found = []
    for row in shared.to_dict("records"):
        one, two = (PARTS[part] for part in row.pop("parts").split(" and "))
        counts = [f"{count} {what}" for what, count in row.items() if count]
        if counts and two == "report":
            found.append(f"{one} and {two} share {', '.join(counts)}")
    return "; ".join(found)


def _beyond_whole(apart: pd.DataFrame) -> str:
    """At how many of the separated cells the whole vector does less than half of what the subspace does."""
    beyond = int((apart["whole_share"] < HALF).sum())
    if not beyond:
        return ""
    which = "each" if beyond == len(apart) else f"{beyond}"
    where = "there" if len(apart) == 1 else f"at {which} of these {len(apart)}"
    return (
        f"; but {where} the whole vector changes less than half of the answers that the subspace "
        "changes, so the subspace sets states that swapping the whole vector does not"
    )


def _where(study: StudyTables, variable: str) -> list[str]:
    """For each position, the layers that separate."""
    grid = _of(study, variable)
    lines = []
    for (positions, component, featurizer), part in grid.groupby(["positions", "component", "featurizer"], sort=False):
        apart = part[separates(part)]
        place = _place(part, positions, component) + (f" with {featurizer}" if grid["featurizer"].nunique() > 1 else "")
        if apart.empty:
            highest = part.iloc[int(part[study.metric].to_numpy().argmax())]
            found = "no effect beyond the controls" if part["control"].notna().any() else "no controls yet"
            lines.append(
                f"At {place}: {found} at any of {counted(len(part), 'site')} (highest {_named(highest)} "
                f"{_score(highest)}, control {_measured(highest.control)})."
            )
            continue
        listed = "; ".join(
            f"{_layer(row)} {row.separation:+.3f} ({_named(row)} {row[row.metric]:.3f}, whole vector "
            f"{_measured(row.full_patch)})"
            for _, row in apart.iterrows()
        )
        lines.append(f"At {place}: separated at {len(apart)} of {len(part)} sites: {listed}.")
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
    over_seeds = "" if pd.isna(best.score_sd) else f" Standard deviation over seeds {best.score_sd:.3f}."
    angle = (
        ""
        if pd.isna(best.seed_angle)
        else f" Subspaces of different seeds differ by {best.seed_angle:.0f} degrees (mean largest angle)."
    )
    return [
        f"At {name_of(best)}: identity patch {_measured(best.no_edit)}; random subspaces of rank {best['rank']:g} "
        f"{_random(study, best)}; PCA "
        f"{_measured(best.pca)}; permuted labels {_measured(best.permuted)}; shuffled weights {_shuffled(study, best)};"
        f" whole vector {_measured(best.full_patch)}." + over_seeds + angle,
        f"{shown({name: float(best[name]) for name in SHARES}).capitalize()}.",
    ]


def _random(study: StudyTables, best: pd.Series) -> str:
    """Scores of the random subspaces, and how many of them the score is above."""
    if pd.isna(best.random_mean):
        return "not measured"
    share = "all" if best.random_percentile == 100 else f"{best.random_percentile:.0f} % of"
    ties = "" if best.random_percentile == 100 else ", ties counted half"
    draws = study.description["controls"]["random"]
    return (
        f"mean {best.random_mean:.3f}, best {best.random_best:.3f} (the score is above {share} {draws} random "
        f"subspaces{ties})"
    )


def _shuffled(study: StudyTables, best: pd.Series) -> str:
    """Their score, and among what it counts."""
    among = study.description["shuffled"]
    if among == LEFT_OUT:
        return (
            "left out (of the full vocabulary they hardly ever give an answer, and the task lists none to choose from)"
        )
    if among == study.description["match"] or pd.isna(best.shuffled):
        return _measured(best.shuffled)
    return f"{best.shuffled:.3f} (among the task's answers: of the full vocabulary they hardly ever give one)"


def _kinds_of_controls(study: StudyTables, best: pd.Series) -> str:
    """Cause and isolate of the controls, where both are measured."""
    if pd.isna(best.disentangle) or not len(study.controls):
        return ""
    keys = ["variable", "site", "positions", "featurizer"]
    mine = study.controls[(study.controls[keys] == best[keys].to_numpy()).all(axis=1)]
    found = [f"{NAMES.get(row.control, row.control)} {row.cause:.3f}/{row.isolate:.3f}" for row in mine.itertuples()]
    return f" Cause/isolate of the controls: {', '.join(found)}."


def _measured(value: float) -> str:
    return "not measured" if pd.isna(value) else f"{value:.3f}"


def _ladder(study: StudyTables, variable: str) -> list[str]:
    ladder = study.ladder
    mine = ladder[ladder["variable"] == variable] if len(ladder) else ladder
    if not len(mine):
        return []
    steps = (
        mine.groupby(["featurizer", "network"], sort=False)[study.metric]
        .agg(["mean", "min", "max", "count"])
        .reset_index()
    )
    steps = steps.sort_values("network", kind="stable")
    listed = "; ".join(
        f"{row.featurizer}{' on shuffled weights' if row.network == SHUFFLED else ''} {row['mean']:.3f} "
        f"[{row['min']:.3f} to {row['max']:.3f}, {row['count']} seed{'s' * (row['count'] > 1)}]"
        for _, row in steps.iterrows()
    )
    return [f"Capacity ladder there: {listed}. A Flow can align almost anything: what it reaches is no evidence."]


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
        f"Scored on {first.rows} report rows ({first.clusters} pairs){_apart(study, variable)}"
        f"{_dropped(study.dropped[variable])}. An answer is right where it is the most likely "
        f"{MATCHED[study.description['match']]}. Seeds {seeds}; {len(grid)} cells; "
        f"torch {_versions(study)}.",
        *_halved(study),
    ]


def _halved(study: StudyTables) -> list[str]:
    """That the sites were chosen, from how many and by which rows."""
    halved = study.description.get("halved")
    if not halved:
        return []
    epochs = ", ".join(map(str, dict.fromkeys(row["epochs"] for row in halved["rounds"])))
    return [
        f"Its {counted(len(study.description['sites']), 'site')} are left of {halved['sites']} by successive halving: "
        f"fits of {epochs} epochs with seed {halved['seed']}, compared on the selection rows. The report rows played "
        "no part in it; p is corrected for the sites that are left."
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


def _layer(row: pd.Series) -> str:
    if pd.isna(row.layer):
        return row.site
    head = str(row.site).rpartition(".h")[2]
    return f"layer {int(row.layer)}" + (f", head {head}" if head.isdigit() else "")


def _place(part: pd.DataFrame, positions: object, component: object) -> str:
    return f"{positions!r}" if part["component"].iloc[0] == "block_output" else f"{positions!r} of {component}"


def _score(row: pd.Series) -> str:
    return f"{row[row.metric]:.3f} [{row[f'{row.metric}_low']:.3f}, {row[f'{row.metric}_high']:.3f}]"


def _named(row: pd.Series) -> str:
    return NAMES.get(str(row.metric), str(row.metric))


def _apart(study: StudyTables, variable: str) -> str:
    """That the parts share nothing, as it was counted; or what they share."""
    found, shared = _in_common(study.shared[variable]), study.shared[variable]
    if found:
        return f"; {found}"
    counted = [str(column) for column in shared if column not in ("parts", "pairs")]
    has_prompts = any(str(column).endswith("_prompt") for column in study.rows[variable])
    names = [{"settings": "setting", "prompts": "prompt"}.get(c, c) for c in counted if has_prompts or c != "prompts"]
    return f", which share no {' and no '.join(names)} with training or selection"


def _dropped(counts: Mapping[str, int]) -> str:
    shown = [f"{count} {why}" for why, count in counts.items() if count]
    return f" (dropped: {', '.join(shown)})" if shown else ""


def _versions(study: StudyTables) -> str:
    found = dict.fromkeys(str(result.provenance.get("torch")) for result in study.cells.values())
    return " and ".join(found)
