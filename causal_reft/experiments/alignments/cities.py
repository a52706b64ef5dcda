"""One attribute of RAVEL's cities: what changes it (Cause) and leaves the others alone (Isolate), method by method.

Cities and prompts of RAVEL's train split are fitted on, those of its test split are scored, both only where the model
answers: the base prompt about the base's city and about the source's. So the network's own answers are the data's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

import causal_reft as cr
from causal_reft.alignment import TextEncoding, score_rows
from causal_reft.causal import CAUSE, UNSCORED, row_kinds
from causal_reft.errors import DataError
from causal_reft.experiments.alignments.study import Effort, right_answers
from causal_reft.experiments.models import identity_of
from causal_reft.experiments.page import Page
from causal_reft.seeds import derive
from causal_reft.sweeps import Result, Store, digest_of, run, table_of
from causal_reft.tasks import load_ravel, ravel_scores
from causal_reft.tasks.ravel import Ravel

CITIES, DRAWN = "cities", 20
SCORES = ("cause", "isolate", "disentangle")


@dataclass(frozen=True, eq=False)
class Setting:
    """A model and the rows of both parts; `known` is the share of prompts that it answers, by part and attribute."""

    model: Any
    tokenizer: Any
    task: cr.Task
    attribute: str
    train: cr.CounterfactualDataset
    test: cr.CounterfactualDataset
    known: pd.DataFrame
    effort: Effort

    @property
    def width(self) -> int:
        """Of the model's states."""
        return self.model.config.hidden_size

    @property
    def source(self) -> str:
        """The name of the source run."""
        return self.train.run_of(self.attribute)

    def examples(self, data: cr.CounterfactualDataset) -> cr.Examples:
        """As the model reads them."""
        return TextEncoding(self.tokenizer).examples(data)


@dataclass(frozen=True)
class CityCell:
    """One method at one layer with one seed."""

    method: str
    layer: int
    seed: int


@dataclass(frozen=True)
class Method:
    """A graph for a setting, a site and a seed; what it is trained on: "" (not), "cause" or "every" row."""

    build: Callable[[Setting, cr.Site, int], cr.InterventionGraph]
    trained_on: str = ""
    is_random: bool = True


def _das(setting: Setting, site: cr.Site, seed: int) -> cr.InterventionGraph:
    return cr.das(site, setting.width, setting.effort.rank, seed, setting.source)


def _mask(setting: Setting, site: cr.Site, seed: int) -> cr.InterventionGraph:
    return cr.dbm(site, cr.Identity(setting.width), setting.source)


def _principal(setting: Setting, site: cr.Site, seed: int) -> cr.InterventionGraph:
    rows = cr.varied_directions(setting.model, site, setting.train, setting.tokenizer, setting.effort.rank)
    return cr.InterventionGraph(edit=cr.Interchange(site, cr.Subspace.from_rows(rows), cr.Collect(setting.source)))


def _whole(setting: Setting, site: cr.Site, seed: int) -> cr.InterventionGraph:
    return cr.patch(site, setting.width, setting.source)


METHODS: Mapping[str, Method] = {
    "DAS": Method(_das, "cause"),
    "multi-task DAS": Method(_das, "every"),
    "mask over neurons": Method(_mask, "every"),
    "PCA of differences": Method(_principal, is_random=False),
    "whole vector": Method(_whole, is_random=False),
    "random subspace": Method(_das),
}


def show_cities(
    page: Page,
    model: nn.Module,
    tokenizer: Any,
    effort: Effort,
    data: Path,
    attribute: str,
    beside: Sequence[str],
    entities: int,
) -> pd.DataFrame:
    """Every method at every layer, in the page's folder (it goes on there), and the table of scores."""
    page.heading(f"Cities: {attribute}")
    page.text(
        f"Which subspace at a city's name holds its {attribute.lower()} and nothing else? Swapping it must change the "
        f"answer to prompts that ask for {attribute} (Cause), and leave {' and '.join(beside)} (Isolate); Disentangle "
        "is their mean (RAVEL, Huang et al. 2024)."
    )
    setting = city_setting(model, tokenizer, effort, data, attribute, beside, entities)
    page.table("cities_known", setting.known)
    cells = list(_cells(effort))
    page.text(_planned(setting, cells))
    description = {
        "what": CITIES,
        **identity_of(model, tokenizer),
        "effort": {key: value for key, value in asdict(effort).items() if key not in ("layers", "seeds")},
        "rows": [digest_of(part.to_pandas().astype(str).to_dict("list")) for part in (setting.train, setting.test)],
    }
    store = Store.claim(page.folder / "cells", description)
    table = table_of(run(cells, partial(_compute, setting), store, name="methods"))
    found = over_seeds(table)
    page.table("cities", found)
    for layer, part in found.groupby("layer"):
        page.figure(f"cities_{layer}", _figure(part), f"Rank {effort.rank} at block {layer}, mean over seeds.")
    page.text(_headline(found))
    return found


def city_setting(
    model: nn.Module,
    tokenizer: Any,
    effort: Effort,
    data: Path,
    attribute: str,
    beside: Sequence[str],
    entities: int,
    wordings: int = 4,
) -> Setting:
    """Rows for training and scoring, from some cities and some prompts of each of RAVEL's splits.

    Raises:
        DataError: fewer than 8 rows that the model answers are left in a part.
    """
    ravel, names = load_ravel(data), (attribute, *beside)
    task, parts, known = ravel.task(names), [], []
    for number, part in enumerate(("train", "test")):
        asked = task.write(_drawn_settings(ravel, names, part, entities, wordings, number))[0]
        asked = asked.assign(right=right_answers(model, tokenizer, asked))
        parts.append(_rows(task, asked[asked["right"]], attribute, effort.rows * (1 + number), number))
        shares = asked.groupby("asked", sort=False)["right"].agg(prompts="size", answered="sum", share="mean")
        known.append(shares.rename_axis("attribute").reset_index().assign(part=part, rows=len(parts[-1])))
    train, test = parts
    return Setting(model, tokenizer, task, attribute, train, test, pd.concat(known, ignore_index=True), effort)


def over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, and the lowest and highest disentangle of a seed."""
    grouped = table.groupby(["layer", "method"], sort=False)
    reach = grouped["disentangle"].agg(lowest="min", highest="max", seeds="size")
    return grouped[list(SCORES)].mean().join(reach).reset_index()


def _drawn_settings(
    ravel: Ravel, names: Sequence[str], part: str, entities: int, wordings: int, seed: int
) -> pd.DataFrame:
    """All pairs of some cities and some prompts of each attribute."""
    draw, prompts = np.random.default_rng(seed), ravel.prompts[ravel.prompts["split"] == part]
    every = [ravel.entities.index[ravel.entities["split"] == part]]
    every += [prompts.index[prompts["attribute"] == name] for name in names]
    most = [entities, *(wordings for _ in names)]
    cities, *texts = (draw.permutation(some)[:count].tolist() for some, count in zip(every, most, strict=True))
    return pd.DataFrame(product(cities, chain(*texts)), columns=["entity", "wording"])


def _rows(task: cr.Task, answered: pd.DataFrame, attribute: str, n: int, seed: int) -> cr.CounterfactualDataset:
    """Scored rows whose base prompt the model answers about both cities."""
    among = answered[["entity", "wording"]].reset_index(drop=True)
    if among.empty:
        raise DataError("The model answers none of these prompts. Give it more cities: --entities, or another model.")
    drawn = replace(task, among=among).counterfactuals(attribute, DRAWN * n, seed, "uniform")
    pairs = set(zip(among["entity"], among["wording"], strict=True))
    about_source = zip(drawn.sources[attribute]["entity"], drawn.base["wording"], strict=True)
    kept = np.array([pair in pairs for pair in about_source]) & (row_kinds(drawn, task.causal_model) != UNSCORED)
    if kept.sum() < 8:
        raise DataError(
            f"Only {kept.sum()} rows are left in which the model answers the prompt about both cities. Give it more "
            "cities: --entities, or another model."
        )
    return drawn[np.flatnonzero(kept)[:n]]


def _cells(effort: Effort) -> Iterator[CityCell]:
    for layer in effort.layers:
        for name, method in METHODS.items():
            yield from (CityCell(name, layer, seed) for seed in range(effort.seeds if method.is_random else 1))


def _compute(setting: Setting, cell: CityCell) -> Result:
    graph = _fitted(setting, cell)
    right = score_rows(setting.model, graph, setting.examples(setting.test))["iia"] == 1
    found = ravel_scores(setting.task, setting.test, right)
    return Result(facts={"rows": [{name: getattr(found, name) for name in SCORES}]})


def _fitted(setting: Setting, cell: CityCell, **settings: Any) -> cr.InterventionGraph:
    method, effort = METHODS[cell.method], setting.effort
    site = cr.Site(cell.layer, positions=effort.positions[0])
    graph = method.build(setting, site, derive(cell.seed, "start"))
    if not method.trained_on:
        return graph
    kinds = row_kinds(setting.train, setting.task.causal_model)
    chosen = kinds == CAUSE if method.trained_on == "cause" else np.full(len(kinds), True)
    model = cr.IntervenedModel(setting.model, graph)
    cr.fit(
        model, setting.examples(setting.train[np.flatnonzero(chosen)]), epochs=effort.epochs,
        batch_size=effort.batch_size, lr=effort.lr, schedule="cosine", seed=cell.seed, progress=False,
        interruptible=False, **settings,
    )  # fmt: skip
    return model.graph


def _planned(setting: Setting, cells: Sequence[CityCell]) -> str:
    """What the cells will take, from the time of one step of a fit and of one score."""
    trained = [cell for cell in cells if METHODS[cell.method].trained_on]
    first = CityCell("multi-task DAS", setting.effort.layers[0], 0)
    begun = time.perf_counter()
    _fitted(setting, first, max_steps=1)
    once = time.perf_counter()
    _fitted(setting, first, max_steps=2)
    step = max(time.perf_counter() - once - (once - begun), 0.1 * (once - begun))
    score = time.perf_counter()
    _compute(setting, CityCell("whole vector", first.layer, 0))
    score = time.perf_counter() - score
    steps = setting.effort.epochs * -(-len(setting.train) // setting.effort.batch_size)
    minutes = (len(trained) * (once - begun + steps * step) + len(cells) * score) / 60
    return f"{len(trained)} fits of up to {steps} steps, {len(cells)} scores: about {minutes:.2g} minutes here."


def _headline(found: pd.DataFrame) -> str:
    best = found.loc[found["disentangle"].idxmax()]
    same = found[found["layer"] == best["layer"]].set_index("method")["disentangle"]
    return (
        f"Highest Disentangle, on the rows that are reported: {best['method']} at block {best['layer']}, "
        f"{best['disentangle']:.3f} (Cause {best['cause']:.3f}, Isolate {best['isolate']:.3f}). There the whole vector "
        f"has {same['whole vector']:.3f}, a random subspace {same['random subspace']:.3f}: an edit that changes "
        "nothing has 0.5. Lowest and highest are of seeds; chance of the rows is not in them."
    )


def _figure(part: pd.DataFrame):
    from causal_reft.plots import behaviour_table

    long = part.melt(["method"], list(SCORES), "score", "value")
    return behaviour_table(long, subset="method", behaviour="score", title="Cause, Isolate and Disentangle")
