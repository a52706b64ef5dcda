"""One attribute of RAVEL's cities: what changes it (Cause) and leaves the others alone (Isolate), method by method.

Cities and prompts of RAVEL's train split are fitted on, those of its test split are scored, both only where the model
answers: the base prompt about the base's city and about the source's. So the network's own answers are the data's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

import causal_reft as cr
from causal_reft.alignment import score_rows
from causal_reft.causal import CAUSE, row_kinds
from causal_reft.display import counted
from causal_reft.experiments.alignments import city_scores as scores
from causal_reft.experiments.alignments.city_rows import Setting, city_setting
from causal_reft.experiments.alignments.city_scores import PCA, RANDOM, WHOLE
from causal_reft.experiments.alignments.study import Effort
from causal_reft.experiments.cost import beside_what_was_said, said_before
from causal_reft.experiments.models import identity_of
from causal_reft.experiments.page import Page
from causal_reft.seeds import derive
from causal_reft.sweeps import Result, Store, digest_of, run, table_of
from causal_reft.tasks import ravel_scores

CITIES = "cities"


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
    PCA: Method(_principal, is_random=False),
    WHOLE: Method(_whole, is_random=False),
    RANDOM: Method(_das),
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
    page.text(scores.counted_rows(setting))
    cells = list(_cells(effort))
    plan, said = said_before(page.folder / "plan.json", partial(_planned, setting, cells))
    page.text(plan)
    description = {
        "what": CITIES,
        **identity_of(model, tokenizer),
        "effort": {key: value for key, value in asdict(effort).items() if key not in ("layers", "seeds")},
        "rows": [digest_of(part.to_pandas().astype(str).to_dict("list")) for part in (setting.train, setting.test)],
    }
    store = Store.claim(page.folder / "cells", description)
    results = run(cells, partial(_compute, setting), store, name="methods")
    found = scores.over_seeds(table_of(results)).merge(scores.separations(setting, _right(results)), how="left")
    page.table("cities", found)
    seeds = counted(effort.seeds, "seed")
    for layer, part in found.groupby("layer"):
        page.figure(f"cities_{layer}", scores.figure(part), f"Rank {effort.rank} at block {layer}, mean over {seeds}.")
    page.text(scores.headline(found))
    page.text("Seconds of processor time, as said beforehand and as taken:")
    page.table("cities_cost", beside_what_was_said(_stages(results), said))
    return found


def _right(results: Mapping[CityCell, Result]) -> dict[tuple[int, str], list[np.ndarray]]:
    right: dict[tuple[int, str], list[np.ndarray]] = {}
    for cell, result in results.items():
        right.setdefault((cell.layer, cell.method), []).append(result.arrays["right"])
    return right


def _stages(results: Mapping[CityCell, Result]) -> pd.DataFrame:
    stages = [("fits" if METHODS[cell.method].trained_on else "not trained") for cell in results]
    each = pd.DataFrame({"stage": stages, "seconds": [found.seconds for found in results.values()]})
    return each.groupby("stage", sort=False)["seconds"].agg(cells="size", seconds="sum").reset_index()


def _cells(effort: Effort) -> Iterator[CityCell]:
    for layer in effort.layers:
        for name, method in METHODS.items():
            yield from (CityCell(name, layer, seed) for seed in range(effort.seeds if method.is_random else 1))


def _compute(setting: Setting, cell: CityCell) -> Result:
    graph = _fitted(setting, cell)
    right = score_rows(setting.model, graph, setting.examples(setting.test))["iia"] == 1
    found = ravel_scores(setting.task, setting.test, right)
    return Result({"right": right}, {"rows": [{name: getattr(found, name) for name in scores.SCORES}]})


def _fitted(setting: Setting, cell: CityCell, **settings: Any) -> cr.InterventionGraph:
    method, effort = METHODS[cell.method], setting.effort
    site = cr.Site(cell.layer, positions=effort.positions[0])
    graph = method.build(setting, site, derive(cell.seed, "start"))
    if not method.trained_on:
        return graph
    model = cr.IntervenedModel(setting.model, graph)
    cr.fit(
        model, setting.examples(_training_rows(setting, method)), epochs=effort.epochs,
        batch_size=effort.batch_size, lr=effort.lr, schedule="cosine", seed=cell.seed, progress=False,
        interruptible=False, **settings,
    )  # fmt: skip
    return model.graph


def _planned(setting: Setting, cells: Sequence[CityCell]) -> tuple[str, dict[str, float]]:
    """What the cells will take of processor time, from that of one step of a fit and of one score."""
    trained = [cell for cell in cells if METHODS[cell.method].trained_on]
    first = CityCell("multi-task DAS", setting.effort.layers[0], 0)
    begun = time.process_time()
    _fitted(setting, first, max_steps=1)
    once = time.process_time()
    _fitted(setting, first, max_steps=3)
    thrice = time.process_time()
    _compute(setting, CityCell(WHOLE, first.layer, 0))
    score, step = time.process_time() - thrice, max(thrice - 2 * once + begun, 0.0) / 2
    steps = [_steps(setting, METHODS[cell.method]) for cell in trained]
    fits = len(trained) * (once - begun - step + score) + sum(steps) * step
    seconds = {"fits": fits, "not trained": (len(cells) - len(trained)) * score}
    text = (
        f"{counted(len(trained), 'fit')} of {', '.join(map(str, sorted(set(steps))))} steps and "
        f"{counted(len(cells), 'score')}: about {sum(seconds.values()) / 60:.2g} minutes of processor time. To say so "
        f"took {time.process_time() - begun:.0f} s."
    )
    return text, seconds


def _steps(setting: Setting, method: Method) -> int:
    return setting.effort.epochs * -(-len(_training_rows(setting, method)) // setting.effort.batch_size)


def _training_rows(setting: Setting, method: Method) -> cr.CounterfactualDataset:
    kinds = row_kinds(setting.train, setting.task.causal_model)
    chosen = kinds == CAUSE if method.trained_on == "cause" else np.full(len(kinds), True)
    return setting.train[np.flatnonzero(chosen)]
