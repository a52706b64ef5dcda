"""From finished cells to tidy tables, whose columns are those of `COLUMNS`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from causal_reft.alignment.cells import CONTROLS, FIT, ILLUSION, PERMUTED, SHUFFLED, TRUE, Cell, Grid
from causal_reft.alignment.columns import COLUMNS, PLACE, ordered
from causal_reft.alignment.comparison import Controlled, compared
from causal_reft.alignment.found import graph_of, written_rows
from causal_reft.alignment.illusion import IllusionReport
from causal_reft.alignment.metrics import METRICS, SHARES, Means, summary
from causal_reft.alignment.statistics import Interval, Separation, holm, mean_interval, separation
from causal_reft.alignment.variance import Factors, SeedVariance
from causal_reft.errors import StudyError, nearest
from causal_reft.featurizers import principal_angles
from causal_reft.graph import InterventionGraph
from causal_reft.sweeps import Result, Store

HALF = 0.5


@dataclass(frozen=True, eq=False)
class StudyTables:
    """The tables of one study's finished cells.

    Attributes:
        description: everything that determines the numbers, as the folder holds it.
        rows: for each variable, what is known of its report rows.
        training: for each variable, the same of its training rows.
        dropped: for each variable, why how many drawn rows were not used.
        shared: for each variable, what every two of training, selection and report have in common.
        cells: the finished cells.
    """

    description: Mapping[str, Any]
    rows: Mapping[str, pd.DataFrame]
    training: Mapping[str, pd.DataFrame]
    dropped: Mapping[str, Mapping[str, int]]
    shared: Mapping[str, pd.DataFrame]
    cells: Mapping[Cell, Result]

    @staticmethod
    def of(store: Store) -> StudyTables:
        """From a folder."""
        rows = store.data("rows")
        return StudyTables(
            store.description,
            {name: pd.DataFrame(held["report"]) for name, held in rows.items()},
            {name: pd.DataFrame(held["training"]) for name, held in rows.items()},
            {name: held["dropped"] for name, held in rows.items()},
            {name: pd.DataFrame(held["shared"]) for name, held in rows.items()},
            store.results(Cell),
        )

    @cached_property
    def missing(self) -> list[Cell]:
        """The cells that are not finished: those of the first stage that is not, of all that are known."""
        grid = Grid.of(self.description)
        for stage in (lambda: grid.fits, lambda: grid.controls_of(self.cells), lambda: grid.follow_ups(self.cells)):
            missing = [cell for cell in stage() if cell not in self.cells]
            if missing:
                return missing
        return []

    def fits(self, **wanted: Any) -> list[Cell]:
        """Fit cells with these fields, in order of variable, featurizer, site and seed; plain fits before others."""
        found = [
            c for c in self.cells if c.kind == FIT and all(getattr(c, key) == value for key, value in wanted.items())
        ]
        order, seeds = list(self.description["variables"]), self.description["seeds"]

        def place(c: Cell) -> tuple[object, ...]:
            grid = order.index(c.variable), c.featurizer, c.site, seeds.index(c.seed)
            return *grid, c.network == SHUFFLED, c.labels == PERMUTED

        return sorted(found, key=place)

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per fit of the grid."""
        return ordered(self.fit_row(cell) for cell in self.fits(role="study"))

    @cached_property
    def ladder(self) -> pd.DataFrame:
        """One row per fit at the best sites: the study's and the ladder's; `network` says whether it was shuffled."""
        best = {(c.variable, c.site) for c in self.fits(role="follow-up")}
        cells = [c for c in self.fits(labels=TRUE) if (c.variable, c.site) in best]
        return pd.DataFrame([{**self._place(c), "network": c.network, **self._score(c)} for c in cells])

    @cached_property
    def control_fits(self) -> pd.DataFrame:
        """One row per fit to permuted labels or on shuffled weights."""
        cells = self.fits(role="control")
        return pd.DataFrame(
            [{**self._place(c), "network": c.network, "labels": c.labels, **self._score(c)} for c in cells]
        )

    @cached_property
    def grid(self) -> pd.DataFrame:
        """One row per variable, featurizer and site, over all seeds."""
        groups: dict[tuple[str, int, int], list[Cell]] = {}
        for cell in self.fits(role="study"):
            groups.setdefault((cell.variable, cell.featurizer, cell.site), []).append(cell)
        seeds = {
            variable: SeedVariance.pooled(
                [self._contributions(cells) for key, cells in groups.items() if key[0] == variable],
                self._factors[variable].among(self._means[variable].rows),
            )
            for variable in {key[0]: None for key in groups}
        }
        table = ordered(self._grid_row(cells, seeds[key[0]]) for key, cells in groups.items())
        table["p_corrected"] = table.groupby("variable", sort=False)["p"].transform(_corrected)
        return table[[name for name in COLUMNS if name in table]]

    def fit_row(self, cell: Cell) -> dict[str, Any]:
        """One row of `table`."""
        found, controls, clusters = self.cells[cell], self.controlled(cell), self._clusters(cell)
        score = self._score(cell)
        return {
            **self._place(cell),
            **score,
            "metric": self.metric,
            "selection": found.facts["selection"][self.metric],
            **compared(found.arrays["report.iia"][None], *self._compared_by(cell.variable), controls, clusters),
            "steps": found.facts["steps"],
            "final_loss": found.facts["final_loss"],
        }

    def scores(self, cells: Iterable[Cell], metric: str = "iia") -> np.ndarray:
        """Row scores of fits: "fit rows"."""
        return np.stack([self.cells[cell].arrays[f"report.{metric}"] for cell in cells])

    def controlled(self, cell: Cell) -> Controlled | None:
        """The controls of a fit's place in the grid; None where they are not finished."""
        rank = sum(self.cells[cell].facts["ranks"].values())
        controls = self.cells.get(Cell(CONTROLS, cell.variable, cell.site, rank=rank))
        if controls is None:
            return None
        arrays = controls.arrays
        rivals = {"no_edit": arrays["no_edit.iia"][None]}
        rivals |= {"random": arrays["random.iia"]} if "random.iia" in arrays else {}
        rivals |= {"pca": arrays["pca.iia"][None]} if "pca.iia" in arrays else {}
        for name in (PERMUTED, SHUFFLED):
            twins = self._twins.get((cell.variable, cell.site, cell.featurizer, name))
            rivals |= {name: self.scores(twins)} if twins else {}
        return Controlled(rivals, arrays.get("full_patch.iia"))

    @cached_property
    def _twins(self) -> dict[tuple[str, int, int, str], list[Cell]]:
        """The fits to permuted labels and on shuffled weights of each place in the grid."""
        found: dict[tuple[str, int, int, str], list[Cell]] = {}
        for cell in self.fits():
            for name in (PERMUTED, SHUFFLED):
                if name in (cell.labels, cell.network):
                    found.setdefault((cell.variable, cell.site, cell.featurizer, name), []).append(cell)
        return found

    @cached_property
    def records(self) -> pd.DataFrame:
        """One row per report row and fit of the grid: its place, the row's own columns, and every metric."""
        parts = []
        for cell in self.fits(role="study"):
            metrics = {
                name: self.cells[cell].arrays[f"report.{name}"]
                for name in METRICS
                if f"report.{name}" in self.cells[cell].arrays
            }
            parts.append(self.rows[cell.variable].assign(**self._place(cell), **metrics))
        table = pd.concat(parts, ignore_index=True)
        first = [name for name in COLUMNS if name in table and name not in METRICS]
        return table[[*first, *(name for name in table if name not in first)]]

    def graph(self, which: Mapping[str, Any]) -> InterventionGraph:
        """The trained graph of the fit that these columns of `table` name; of several seeds, the best on the
        selection rows.

        Raises:
            StudyError: no column of this name; no fit, or several that differ in more than the seed; a featurizer that
                was not registered.
        """
        named = {name: value for name, value in which.items() if name in PLACE}
        if unknown := [name for name in which if name not in COLUMNS]:
            raise StudyError(f"The table has no column {unknown[0]!r}. {nearest(unknown[0], PLACE)}")
        places = {cell: self._place(cell) for cell in self.fits(role="study")}
        found = [c for c, place in places.items() if all(_is_same(place[name], named[name]) for name in named)]
        if len({tuple(places[c][name] for name in PLACE if name != "seed") for c in found}) != 1:
            raise StudyError(
                f"{named} names {len(found)} fits of the study. Name one by {', '.join(PLACE)}, or give a row of "
                "result.table or result.grid: result.graph(result.best())."
            )
        best = max(found, key=lambda cell: self.cells[cell].facts["selection"][self.metric])
        return graph_of(self.cells[best])

    @cached_property
    def controls(self) -> pd.DataFrame:
        """One row per cell of the grid and control (and `full_patch`): its scores, means over draws or fits."""
        rows = []
        for cell in self._firsts:
            found, place = self.controlled(cell), {k: v for k, v in self._place(cell).items() if k != "seed"}
            for name, series in found.series.items() if found else ():
                scores = summary({"iia": series.mean(0)}, *self._kinds[cell.variable])
                rows.append({**place, "control": name, "draws": len(series), **scores})
        return pd.DataFrame(rows)

    @property
    def metric(self) -> str:
        """What the study chooses and compares by."""
        return self.description["metric"]

    def best(self, variable: str) -> pd.Series:
        """The row of `grid` with the highest score on the *selection* rows; its scores are those of the report rows."""
        grid = self.grid[self.grid["variable"] == variable]
        return grid.iloc[int(grid["selection"].to_numpy().argmax())]

    def leading(self, variable: str) -> pd.Series:
        """Place, score and interval of the cell that is best on the selection rows among the finished ones."""
        groups: dict[tuple[int, int], list[Cell]] = {}
        for cell in self.fits(variable=variable, role="study"):
            groups.setdefault((cell.featurizer, cell.site), []).append(cell)
        best = max(groups.values(), key=self._selection)
        return pd.Series(
            {**self._place(best[0]), "metric": self.metric, **self._intervals(self.scores(best), variable)[0]}
        )

    def _selection(self, cells: list[Cell]) -> float:
        return float(np.mean([self.cells[cell].facts["selection"][self.metric] for cell in cells]))

    def effect(self, variable: str, name: str) -> tuple[Interval | Separation, str] | None:
        """What a control, or `full_patch`, does at the best site beyond no edit, and over which rows; None: nothing.

        Over all rows; or, where the answers are more than two, in over half of those whose answer must change. (Of two
        answers any disturbance gives the other one there.)
        """
        found, factors = self.controlled(self._best_cell(variable)), self._factors[variable]
        if found is None or name not in found.series:
            return None
        scores, cause = found.series[name], Means.of("cause", *self._kinds[variable])
        gain = separation(scores, {"no_edit": found.rivals["no_edit"]}, factors)
        if gain.low > 0:
            return gain, "over all rows"
        changed = mean_interval(scores, factors, means=cause)
        answers = self.rows[variable].filter(regex="^expected_").drop_duplicates()
        return (changed, "where the answer must change") if len(answers) > 2 and changed.low > HALF else None

    def random_draws(self, variable: str) -> pd.DataFrame:
        """The score of each random subspace at the best site, under the metric's name; empty where there is none."""
        found, means = self.controlled(self._best_cell(variable)), self._means[variable]
        draws = None if found is None else found.rivals.get("random")
        return pd.DataFrame({} if draws is None else {self.metric: means.value(draws)})

    def _best_cell(self, variable: str) -> Cell:
        best = self.best(variable)
        keys = ("site", "positions", "featurizer")
        return next(
            cell
            for cell in self._firsts
            if cell.variable == variable and all(self._place(cell)[key] == best[key] for key in keys)
        )

    @cached_property
    def _firsts(self) -> list[Cell]:
        """The first fit of each cell of the grid."""
        return list({(c.variable, c.featurizer, c.site): c for c in reversed(self.fits(role="study"))}.values())[::-1]

    def illusion(self, variable: str) -> IllusionReport | None:
        """The illusion report of the best site, where the study made one."""
        for cell, found in self.cells.items():
            if (cell.kind, cell.variable) == (ILLUSION, variable):
                frames = {name: pd.DataFrame(found.facts[name]) for name in ("effects", "projections")}
                return IllusionReport(**{**found.facts, **frames})
        return None

    def ineffective(self, variable: str) -> list[str]:
        """The sites at which an edit changes no logit that is read, so that nothing was trained."""
        fits = self.fits(variable=variable, role="study")
        sites = dict.fromkeys(cell.site for cell in fits if self.cells[cell].facts["ineffective"])
        named = (self.description["sites"][number] for number in sites)
        return [f"{site['name']} at {site['positions']}" for site in named]

    def _place(self, cell: Cell) -> dict[str, Any]:
        site = self.description["sites"][cell.site]
        named = {
            "layer": site["layer"],
            "component": site["component"],
            "positions": site["positions"],
            "site": site["name"],
        }
        rank = sum(self.cells[cell].facts["ranks"].values())
        return {
            "variable": cell.variable,
            **named,
            "featurizer": self.description["labels"][cell.featurizer],
            "rank": rank,
            "seed": cell.seed,
        }

    def _score(self, cell: Cell) -> dict[str, Any]:
        scores = self.cells[cell].arrays["report.iia"]
        return {**self._means_of(cell), **self._intervals(scores, cell.variable)[0]}

    def _means_of(self, cell: Cell) -> dict[str, float]:
        arrays = self.cells[cell].arrays
        values = {name: arrays[f"report.{name}"] for name in METRICS if f"report.{name}" in arrays}
        return summary(values, *self._kinds[cell.variable])

    def _intervals(self, scores: np.ndarray, variable: str) -> tuple[dict[str, Any], str]:
        """Every share with its interval, and what warns of that of the metric."""
        factors = self._factors[variable]
        found = {name: mean_interval(scores, factors, means=Means.of(name, *self._kinds[variable])) for name in SHARES}
        columns = {"rows": found["iia"].rows, "clusters": found["iia"].clusters}
        for name, interval in found.items():
            columns |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
        return columns, found[self.metric].warning

    def _contributions(self, cells: list[Cell]) -> np.ndarray:
        return self._means[cells[0].variable].contributions(self.scores(cells))

    def _compared_by(self, variable: str) -> tuple[Means, Means]:
        return self._means[variable], Means.of("cause", *self._kinds[variable])

    @cached_property
    def _means(self) -> dict[str, Means]:
        return {name: Means.of(self.metric, *kinds) for name, kinds in self._kinds.items()}

    @cached_property
    def _kinds(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """For each variable the kind and the weight of each report row."""
        return {name: (rows["kind"].to_numpy(), rows["weight"].to_numpy(float)) for name, rows in self.rows.items()}

    def _grid_row(self, cells: list[Cell], seeds: SeedVariance) -> dict[str, Any]:
        scores, controls, clusters = self.scores(cells), self.controlled(cells[0]), self._clusters(cells[0])
        variable = cells[0].variable
        single = pd.DataFrame([self._means_of(cell) for cell in cells])
        averaged = {m: float(single[m].mean()) for m in METRICS if m in single}
        intervals, warning = self._intervals(scores, variable)
        means = self._means[variable]
        return {
            **{key: value for key, value in self._place(cells[0]).items() if key != "seed"},
            "rank": float(np.mean([sum(self.cells[cell].facts["ranks"].values()) for cell in cells])),
            "seeds": len(cells),
            **averaged,
            **intervals,
            "metric": self.metric,
            "score_sd": float(means.value(scores).std(ddof=1)) if len(cells) > 1 else float("nan"),
            "selection": self._selection(cells),
            **compared(scores, *self._compared_by(variable), controls, clusters, seeds),
            "seed_angle": self._seed_angle(cells),
            "warning": warning,
        }

    def _seed_angle(self, cells: list[Cell]) -> float:
        """Mean over variables and pairs of seeds of the largest principal angle."""
        found = []
        for one, two in combinations([written_rows(self.cells[cell]) for cell in cells], 2):
            found += [float(principal_angles(one[name], two[name]).max()) for name in one if name in two]
        return float(np.mean(found)) if found else float("nan")

    def _clusters(self, cell: Cell) -> Factors:
        return self._factors[cell.variable]

    @cached_property
    def _factors(self) -> dict[str, Factors]:
        """For each variable the clusters of its rows, and which rows have the same base, and the same sources."""
        return {name: _factors(rows, self.description["sampling"]["unit"]) for name, rows in self.rows.items()}


def _factors(rows: pd.DataFrame, unit: str) -> Factors:
    """Numbers of the clusters, and of each run's prompts (or settings), by name."""
    runs = {
        name.removesuffix(end): pd.factorize(rows[name])[0]
        for end in ("_prompt", "_setting")
        for name in map(str, rows)
        if name.endswith(end)
    }
    others = {name: codes for name, codes in runs.items() if name != unit}
    return Factors.of({unit: rows["cluster"].to_numpy(), **others})


def _is_same(one: Any, two: Any) -> bool:
    return bool(one == two or (pd.isna(one) and pd.isna(two)))


def _corrected(p: pd.Series) -> pd.Series:
    """The p-values of one variable's cells by Holm; cells without controls have none."""
    known = p.dropna()
    return pd.Series(holm(known.to_numpy()), known.index).reindex(p.index) if len(known) else p
