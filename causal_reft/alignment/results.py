"""What a finished study says: tidy tables, records, the best site, a report in words, figures, and comparisons.

Everything is read from the study's folder, so `StudyResult.load("runs/gender")` needs no network and no task.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from causal_reft.alignment.cells import STAGES, Grid
from causal_reft.alignment.illusion import IllusionReport
from causal_reft.alignment.report import headline, marked, report_text
from causal_reft.alignment.report_page import report_html, report_page
from causal_reft.alignment.statistics import DIFFERENCE, UNBOUNDED, holm, mean_interval, paired_p
from causal_reft.alignment.tables import StudyTables
from causal_reft.errors import StudyError, nearest
from causal_reft.graph import InterventionGraph
from causal_reft.sweeps import Store

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KEYS = ("variable", "site", "positions", "featurizer")


@dataclass(frozen=True, eq=False)
class StudyResult:
    """The result of a study. Columns are documented in `causal_reft.alignment.COLUMNS`.

    Attributes:
        tables: the finished cells, from which everything else is read.
    """

    tables: StudyTables

    @staticmethod
    def load(folder: str | os.PathLike[str], partial: bool = False) -> StudyResult:
        """Read a study's folder; with `partial` also an unfinished one, of which `missing` says what is not there.

        Raises:
            StudyError: no study there; one that is not finished, or has lost cells (without `partial`).
            StorageError: its description or rows are damaged.
        """
        tables = StudyTables.of(Store.read(folder))
        if not partial and tables.missing:
            fits = Grid.of(tables.description).fits
            expected = [cell for cell in fits if cell.role == "study"]
            found = sum(cell in tables.cells for cell in expected)
            raise StudyError(
                f"{folder} holds {found} of {len(expected)} fits; {len(tables.missing)} "
                f"{tables.missing[0].kind} cells are missing: the study is not finished. Run it again: study.run(); or "
                "read what there is: StudyResult.load(folder, partial=True)."
            )
        if not tables.fits(role="study"):
            raise StudyError(f"{folder} holds no finished fit yet. Run the study: study.run().")
        return StudyResult(tables)

    @property
    def description(self) -> Mapping[str, Any]:
        """Everything that determined the numbers, as `experiment.json` holds it."""
        return self.tables.description

    @property
    def dropped(self) -> Mapping[str, Mapping[str, int]]:
        """For each variable, why how many drawn rows were not used."""
        return self.tables.dropped

    @property
    def missing(self) -> pd.DataFrame:
        """One row for each cell that is not finished (of the first unfinished stage); empty for a finished study."""
        return pd.DataFrame([vars(cell) for cell in self.tables.missing])

    @property
    def seconds(self) -> float:
        """Processor time that all cells took together."""
        return sum(result.seconds for result in self.tables.cells.values())

    @property
    def stages(self) -> pd.DataFrame:
        """One row per stage, as `study.plan()` names them: `cells`, and `seconds` of processor time that they took."""
        cells = self.tables.cells.items()
        taken = {stage: [found.seconds for cell, found in cells if cell.stage == stage] for stage in STAGES}
        return pd.DataFrame([{"stage": s, "cells": len(t), "seconds": sum(t)} for s, t in taken.items() if t])

    @property
    def table(self) -> pd.DataFrame:
        """One row per fit: every setting, seed, score, interval, and control."""
        return self.tables.table

    @property
    def grid(self) -> pd.DataFrame:
        """One row per variable, featurizer and site over all seeds, with p-values corrected for the whole grid."""
        return self.tables.grid

    @property
    def records(self) -> pd.DataFrame:
        """One row per example and fit."""
        return self.tables.records

    @property
    def ladder(self) -> pd.DataFrame:
        """One row per fit of the capacity ladder at the best sites."""
        return self.tables.ladder

    @property
    def control_fits(self) -> pd.DataFrame:
        """One row per fit to permuted labels or on shuffled weights."""
        return self.tables.control_fits

    @property
    def controls(self) -> pd.DataFrame:
        """One row per cell of the grid and control, and for the whole vector (`full_patch`): iia, cause, isolate,
        disentangle, means over draws or fits.
        """
        return self.tables.controls

    @property
    def shared(self) -> Mapping[str, pd.DataFrame]:
        """For each variable, what every two of training, selection and report have in common, counted."""
        return self.tables.shared

    def best(self, variable: str | None = None) -> pd.Series:
        """The row of `grid` with the highest score on the *selection* rows; its scores are those of the report rows."""
        return self.tables.best(self._variable(variable))

    def graph(self, row: Mapping[str, Any] | pd.Series | None = None, **columns: Any) -> InterventionGraph:
        """The trained graph of a fit, with every learned tensor: for `IntervenedModel`, a probe, a start of LoReFT.

        Args:
            row: a row of `table` or `grid`; by default, and with no columns, `best()`.
            columns: or the fit by columns of `table`: `result.graph(layer=1, positions="gender", seed=0)`. Of several
                seeds the one that is best on the selection rows is taken.

        Raises:
            StudyError: no fit, or several that differ in more than the seed; a featurizer of your own that was not
                registered (`register_featurizer`).
        """
        which = dict(self.best() if row is None and not columns else {} if row is None else row)
        return self.tables.graph(which | columns)

    def training(self, variable: str | None = None) -> pd.DataFrame:
        """The rows that the fits of a variable were trained on: prompts (or settings) and expected answers."""
        return self.tables.training[self._variable(variable)]

    def illusion(self, variable: str | None = None) -> IllusionReport:
        """The illusion report of the best site.

        Raises:
            StudyError: the study made none (`Controls(illusion=False)`, several variables at once, a non-linear map).
        """
        name = self._variable(variable)
        found = self.tables.illusion(name)
        if found is None:
            raise StudyError(
                f"The study holds no illusion report of {name!r}. It takes one variable in linear coordinates; "
                "make it from the network: alignment.illusion(...)."
            )
        return found

    def report(self, path: str | os.PathLike[str] | None = None, code: str = "") -> str:
        """What was found, as text: the headline, each site, controls, ladder, illusion, and what was dropped.

        Args:
            path: where to write it as a page too (`result.report("report.html")`): one file that needs no network, with
                heat maps whose cells answer, controls, curves, coordinates of the states, provenance and code.
            code: the code that made the study, for the page: `Path(__file__).read_text()`.

        Raises:
            StudyError: a path that does not end in .html.
        """
        if path is not None:
            target = Path(path)
            if target.suffix != ".html":
                renamed = str(target.with_suffix(".html"))
                raise StudyError(f"report({str(path)!r}): the page is HTML. Write result.report({renamed!r}).")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(report_page(self.tables, code), encoding="utf-8")
        return report_text(self.tables)

    def heatmap(
        self, value: str = "iia", variable: str | None = None, featurizer: str | None = None, ax: Axes | None = None
    ) -> Axes:
        """A score by layer and position over all seeds, with its interval and, for the metric, the best control.

        Cells are hatched that do not separate by the report's rule; the cell that the report chose is framed.
        """
        from causal_reft.plots import site_heatmap

        name = self._variable(variable)
        grid = marked(self.tables, name)
        label = featurizer or str(self.tables.best(name)["featurizer"])
        if label not in set(grid["featurizer"]):
            raise StudyError(f"The study has no featurizer {label!r}. {nearest(label, set(grid['featurizer']))}")
        return site_heatmap(grid[grid["featurizer"] == label], value=value, ax=ax)

    def difference(self, one: Mapping[str, Any], two: Mapping[str, Any], metric: str = "iia") -> pd.Series:
        """A paired test between two cells of the grid, each named by columns: `{"layer": 1, "positions": "gender"}`.

        Returns:
            `difference` (one minus two), `low`, `high`, two-sided `p`, `clusters`; rows are averaged over seeds.
        """
        a, b = (self._pairs(self._cell(which), metric) for which in (one, two))
        return _paired(a, b, metric)

    def compare(self, other: StudyResult, metric: str = "iia") -> pd.DataFrame:
        """Cell by cell, this study minus another, on the base/source pairs that both have scored.

        Returns:
            The keys, `here`, `there`, `difference`, `low`, `high`, two-sided `p`, `p_corrected` over all cells,
            `clusters`.

        Raises:
            StudyError: no common cell, or no common pair.
        """
        shared = self.grid[list(KEYS)].merge(other.grid[list(KEYS)])
        if shared.empty:
            raise StudyError(
                "The two studies have no cell in common (variable, site, positions and featurizer must agree), "
                "so there is nothing to compare."
            )
        rows = []
        for _, key in shared.iterrows():
            a, b = self._pairs(dict(key), metric), other._pairs(dict(key), metric)
            rows.append({**key, "here": a.mean(), "there": b.mean(), **_paired(a, b, metric)})
        table = pd.DataFrame(rows)
        table["p_corrected"] = table.groupby("variable", sort=False)["p"].transform(lambda p: holm(p.to_numpy()))
        return table

    def _variable(self, name: str | None) -> str:
        known = list(self.tables.rows)
        if name is None and len(known) == 1:
            return known[0]
        if name not in known:
            raise StudyError(
                f"variable={name!r}: this study looked for {', '.join(known)}. {nearest(str(name), known)}"
            )
        return name

    def _cell(self, which: Mapping[str, Any]) -> dict[str, Any]:
        for column in which:
            if column not in self.grid:
                raise StudyError(f"The grid has no column {column!r}. {nearest(column, self.grid.columns)}")
        found = self.grid[np.logical_and.reduce([self.grid[column] == value for column, value in which.items()])]
        if len(found) != 1:
            raise StudyError(
                f"{dict(which)} names {len(found)} cells of the grid; name exactly one by {', '.join(KEYS)} or layer."
            )
        return dict(found.iloc[0][list(KEYS)])

    def _pairs(self, key: Mapping[str, Any], metric: str) -> pd.Series:
        """The mean score of each base/source pair over seeds and repetitions."""
        records = self.records
        mine = records[np.logical_and.reduce([records[column] == value for column, value in key.items()])]
        seen = [name for name in mine if name.endswith(("_prompt", "_setting"))]
        return mine.groupby(seen)[metric].mean()

    def __repr__(self) -> str:
        return headline(self.tables)

    def _repr_html_(self) -> str:
        return report_html(self.tables)


def _paired(one: pd.Series, two: pd.Series, metric: str) -> pd.Series:
    difference = (one - two).dropna()
    if difference.empty:
        raise StudyError(
            "The two have no base/source pair in common. Draw both from the same task with the same Sampling."
        )
    values, bounds = difference.to_numpy(), DIFFERENCE if metric == "iia" else UNBOUNDED
    shared = difference.index.to_frame()
    clusters = {"pair": np.arange(len(values))} | {str(name): pd.factorize(shared[name])[0] for name in shared}
    found, p = mean_interval(values, clusters, bounds=bounds), paired_p(values, clusters, bounds=bounds)
    return pd.Series(
        {"difference": found.value, "low": found.low, "high": found.high, "p": p, "clusters": found.clusters}
    )
