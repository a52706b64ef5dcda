"""A study: a grid of sites, featurizers, seeds and variables, with its controls, in a folder that it can always resume.

    study = cr.Study(model, tokenizer, task=pronouns, variable="gender", sites=cr.site_grid(range(5), ["last"]),
                     featurizer=cr.Subspace.of_rank(4), seeds=range(5), folder="runs/gender")
    result = study.run()

Three stages: fits (with their permuted-label and shuffled-weights twins), controls of every site and rank that the fits
used, and at the best site (chosen on the selection rows) a capacity ladder and an illusion report. Each stage is a list
of cells, computed in groups that share passes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from tqdm.auto import tqdm

import causal_reft
from causal_reft.alignment.bases import SubspaceWithin
from causal_reft.alignment.cells import (
    LEFT_OUT,
    STAGES,
    Controls,
    FeaturizerRecipe,
    Grid,
    everywhere,
    label_of,
    ladder_recipes,
    whole_vector,
)
from causal_reft.alignment.compute_cells import Work, build_graphs, compute_group, with_threads
from causal_reft.alignment.encoding import CHOICES, TextEncoding, as_encoding
from causal_reft.alignment.halving import promising, rungs
from causal_reft.alignment.metrics import CHOSEN_BY
from causal_reft.alignment.network import NetworkSource, Source, fingerprint, place_of, rounded_digest
from causal_reft.alignment.preparation import Prepared, lists_answers, prepare, width_at
from causal_reft.alignment.prepared_study import PreparedStudy
from causal_reft.alignment.results import StudyResult
from causal_reft.alignment.sampling import Sampling, sampled
from causal_reft.alignment.study_arguments import alternatives, checked_seeds, held_data, matching, recipes_of
from causal_reft.alignment.study_plan import StudyPlan, plan_of
from causal_reft.causal import CausalModel, Splits, Task
from causal_reft.display import counted, html_text
from causal_reft.errors import StudyError, nearest
from causal_reft.sites import Site
from causal_reft.sweeps import Store, going_on, run
from causal_reft.training import Recipe

STUDY_RECIPE = Recipe(epochs=8, batch_size=32, lr=1e-2, schedule="cosine")


class Study:
    """What is to be computed. Making one checks it; the model is not run and no folder is written before `prepare`.

    Args:
        model: a folder or hub id, a function that returns the network, or a live network (then without an executor).
        tokenizer: a fast tokenizer, or an `Encoding` (`TensorEncoding(...)` for plain networks).
        task: a `Task`, or the `CausalModel` of a plain network; or None, with `data`.
        variable: what is interchanged: a name; several names joined by "+" ("left+right": each from its own source, in
            orthogonal slices of one rotation); or a list of such alternatives. By default the task's, or all of `data`.
        sites: where to look.
        featurizer: `Subspace.of_rank(4)`, `SubspaceWithin(4, read=0.95)` or any function (d_model, seed) -> Featurizer;
            or a mapping label -> such.
            `Identity` makes it a patching sweep: the whole vector at every site, nothing trained, and no edit the only
            control.
        seeds: of initialisation and data order; integers.
        folder: where finished cells are kept; by default a temporary one.
        data: ready rows for each variable alternative, instead of a task: `data.split(0.6, 0.2, 0.2)`, or a mapping.
        sampling: how rows are drawn from the task.
        recipe: what differs from `STUDY_RECIPE` in every fit: {"epochs": 20} or Recipe(epochs=20). Its seed is
            replaced.
        controls: how much is spent on them.
        metric: what selection, controls, separation and headline are about: "iia", "cause", or "disentangle" (the mean
            of cause and isolate; RAVEL), which a leak does not raise.
        match: "vocabulary": an answer is right where it is the most likely of all tokens; "choices": of the task's
            answers.
        batch_size: rows of a pass when scoring.
        cells_at_once: how many cells may share passes; they are stored together, so an interruption loses as many.
        memory: bytes that a plan may keep; what does not fit is computed again for each batch.
        threads: of every worker.
        device: where workers put the network that they load ("cpu" by default); a live network stays where it is.
        dtype: of the network: "float32" (the default for a folder or hub id), "bfloat16", ..., "auto" (as stored). A
            factory's network is converted where it is given; a live one stays as it is.
        device_map: of `from_pretrained`, in the place of `device`.

    `threads`, `device`, `device_map`, `memory`, `cells_at_once` and versions of the machine change no more than
    rounding: they are kept as the provenance of each cell, and do not stop a folder from going on elsewhere.

    Raises:
        StudyError: an empty grid, seeds that are no integers below 2^32, no task and no data, an unknown variable, an
            unsuitable model.
    """

    def __init__(
        self,
        model: Source | Any,
        tokenizer: Any,
        *,
        task: Task | CausalModel | None = None,
        variable: str | Sequence[str] | None = None,
        sites: Iterable[Site],
        featurizer: FeaturizerRecipe | Mapping[str, FeaturizerRecipe],
        seeds: Iterable[Any] = range(5),
        folder: str | os.PathLike[str] | None = None,
        data: Splits | Mapping[str, Splits] | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        recipe: Recipe | Mapping[str, object] = STUDY_RECIPE,
        controls: Controls = Controls(),  # noqa: B008 - frozen
        metric: str = "iia",
        match: Literal["vocabulary", "choices"] = "vocabulary",
        batch_size: int = 64,
        cells_at_once: int = 16,
        memory: int = 2 << 30,
        threads: int = 1,
        device: str | None = None,
        dtype: str | torch.dtype | None = None,
        device_map: str | dict[str, Any] | None = None,
    ) -> None:
        self.task, self.data, self.sites, self.seeds = task, data, tuple(sites), checked_seeds(seeds)
        if not self.sites or not self.seeds:
            raise StudyError(f"A study needs sites and seeds; given: {len(self.sites)} sites, {len(self.seeds)} seeds.")
        if len(set(self.sites)) < len(self.sites) or len(set(self.seeds)) < len(self.seeds):
            raise StudyError("A site or a seed is given twice; each cell of the grid is one fit.")
        if metric not in CHOSEN_BY:
            raise StudyError(f"metric={metric!r} is none to choose by. {nearest(str(metric), CHOSEN_BY)}")
        if cells_at_once < 1:
            raise StudyError(f"cells_at_once={cells_at_once}: at least one cell is computed at a time.")
        self.source = NetworkSource(model, device, dtype, device_map)
        self.encoding = matching(as_encoding(tokenizer), match, task)
        self.variables = alternatives(task, data, variable)
        self.featurizer, self.sampling, self.controls = recipes_of(featurizer), sampling, controls
        self.metric, self.match = metric, match
        self.recipe = Recipe.of(recipe, STUDY_RECIPE)
        self.folder, self.batch_size, self.cells_at_once = folder, batch_size, cells_at_once
        self.memory, self.threads = memory, threads
        self.halved: Mapping[str, Any] = {}
        self._prepared: PreparedStudy | None = None

    @property
    def shuffled(self) -> str:
        """Among what networks with shuffled weights are right: of the full "vocabulary" they hardly ever give one of
        the task's answers, so they choose among these ("choices"), or such fits are "left out".
        """
        if not isinstance(self.encoding, TextEncoding):
            return self.match
        return "choices" if self.match == "choices" or lists_answers(self.task) else LEFT_OUT

    def prepare(self, progress: bool = True) -> PreparedStudy:
        """Load the model, draw, filter and encode the rows, and claim the folder; the second call gives the same.

        Raises:
            StudyError: too few rows are left; the folder holds another study.
            StorageError: the folder cannot be written, or is damaged.
        """
        if self._prepared is None:
            began = time.process_time()
            with with_threads(self.threads):
                prepared = _prepared(self, progress)
            self._prepared = replace(prepared, seconds=time.process_time() - began)
        return self._prepared

    def plan(self) -> StudyPlan:
        """What `run` will compute and cost with its shortcuts: FLOPs counted and processor time taken on a few real
        steps of a few cells."""
        prepared = self.prepare()
        return plan_of(prepared.work, prepared.grid, self.cells_at_once, prepared.seconds)

    def run(self, executor: Any = None, progress: bool = True) -> StudyResult:
        """Compute what is missing, and return the result.

        Args:
            executor: anything with `submit` whose futures have `done` and `result`: a process pool, Dask's
                `Client.get_executor()`, submitit, mpi4py. Workers only compute; this process writes the files.
            progress: whether to show finished cells, the time left and the best so far: a bar on a terminal, a table in
                a notebook.

        Raises:
            StudyError: a live network with an executor; a live network that changed since `prepare`.
            KeyboardInterrupt: after a sentence that says what is kept; the same call goes on from there.
        """
        if executor is not None:
            self.source.check_sendable()
        prepared = self.prepare(progress)
        if self.source.is_live and fingerprint(self.source.given)["digest"] != prepared.work.source.digest:
            raise StudyError(
                "The network's weights changed since the study was made, or its modules or hooks. Make the study again "
                "from the network as it is now."
            )
        with going_on(prepared.store):
            for stage, cells in zip(STAGES, prepared.stages(), strict=True):
                compute, groups = partial(compute_group, prepared.work, executor is not None), prepared.groups_of(cells)
                run(groups, compute, prepared.store, executor, progress, stage, prepared.so_far)
        return self.result()

    def halving(self, keep: int = 8, executor: Any = None, progress: bool = True) -> Study:
        """The study of the `keep` most promising sites, for a fraction of the cost of all.

        Short fits with the first seed and no controls leave the better half of the sites by the selection rows, longer
        ones the better half of these, and so on (successive halving). The report rows play no part, so p-values and
        intervals of the study that is returned mean what they always do, corrected for the sites that are left. A site
        whose fit rises late may be lost: `keep` is what such a site costs.

        Args:
            keep: how many sites are left, for each variable and featurizer.
            executor, progress: as `run` takes them.

        Returns:
            A study with fewer sites and the same folder; `study.halved["rounds"]` has a row for each short fit. The
            folder `<folder>-halving` keeps these, and the same call goes on there.

        Raises:
            StudyError: `keep` below one; nothing to train; what `prepare` raises.
        """
        if executor is not None:
            self.source.check_sendable()
        schedule = rungs(len(self.sites), keep, self.recipe)
        if not schedule:
            return self
        first, study = copy(self), copy(self)
        first.recipe, first.seeds, first.controls = schedule[0].recipe, self.seeds[:1], Controls(0, 0, False, False)
        first.folder, first._prepared = self.folder and Path(f"{os.fspath(self.folder)}-halving") / "1", None
        prepared = first.prepare(progress)
        if not any(prepared.grid.trains[: prepared.grid.n_main]):
            raise StudyError("Nothing is trained here, so that all sites cost little: study.run() instead of halving.")
        sites, rows = promising(prepared, schedule, keep, executor, progress)
        study.sites, study._prepared = tuple(self.sites[number] for number in sites), None
        study.halved = {"sites": len(self.sites), "seed": self.seeds[0], "rounds": rows}
        return study

    def result(self, partial: bool = False) -> StudyResult:
        """What the finished cells of the folder say; see `StudyResult.load`.

        Raises:
            StudyError: the study is not finished, and `partial` is not set.
        """
        folder = self.folder if self._prepared is None else self._prepared.store.folder
        if folder is None or not Path(folder).exists():
            raise StudyError("The study is not finished: nothing of it has run yet. Run it: study.run().")
        return StudyResult.load(folder, partial)

    def __repr__(self) -> str:
        sites, seeds, variables = len(self.sites), len(self.seeds), len(self.variables)
        recipes = list(self.featurizer.values()) if isinstance(self.featurizer, Mapping) else [self.featurizer]
        n = sum(recipe is not whole_vector for recipe in recipes)
        twins = (1 + (self.shuffled != LEFT_OUT)) * sites * n * variables * min(self.controls.seeds, seeds)
        whole = "the whole vector scored once, with no edit as its only control" if n < len(recipes) else ""
        fits = [
            f"{self.controls.random} random subspaces, PCA, identity patch and whole vector at every site",
            f"{twins} more fits to permuted labels" + " and on shuffled weights" * (self.shuffled != LEFT_OUT),
            *(["a capacity ladder at the best site"] if self.controls.ladder else []),
            *(["an illusion report there"] if self.controls.illusion else []),
        ]
        controls = [*(fits if n else []), *([whole] if whole else [])]
        lines = [
            f"Study of {', '.join(self.variables)}: {counted(sites, 'site')} x {counted(n, 'featurizer')} x "
            f"{counted(seeds, 'seed')} x {counted(variables, 'variable')} = "
            f"{counted(sites * n * seeds * variables, 'fit')}"
            if n
            else f"Study of {', '.join(self.variables)}: a patching sweep of {counted(sites, 'site')}, nothing trained",
            f"  model {self.source}; seeds {', '.join(map(str, self.seeds))}",
            *([f"  each fit: {self.recipe!r}"] if n else []),
            f"  controls: {'; '.join(controls)}",
        ]
        if self._prepared is None:
            return "\n".join([*lines, f"  folder {self.folder or '(temporary)'}; rows are drawn by study.prepare()"])
        return "\n".join([*lines, *(f"  {line}" for line in repr(self._prepared).splitlines())])

    def _repr_html_(self) -> str:
        return html_text(repr(self))


def _prepared(study: Study, progress: bool) -> PreparedStudy:
    splits = _splits(study)
    network, source = study.source.load()
    with tqdm(total=3 * len(splits), desc="rows", disable=not progress, leave=False) as bar:
        parts = {
            name: prepare(
                network, study.encoding, some, study.task, study.sites, study.sampling,
                study.seeds[: study.controls.seeds], study.batch_size, study.metric, bar.update,
            )
            for name, some in splits.items()
        }  # fmt: skip
    first = next(iter(parts.values())).data.train
    widths = [width_at(network, site, first) for site in study.sites]
    recipes = _labelled(study.featurizer, widths[0])
    ladder = ladder_recipes(recipes, widths[0]) if study.controls.ladder else {}
    work = Work(
        source=source,
        sites=study.sites,
        widths=widths,
        featurizers=[*recipes.values(), *ladder.values()],
        data={name: part.data for name, part in parts.items()},
        recipe=study.recipe,
        draws=study.controls.random,
        batch_size=study.batch_size,
        threads=study.threads,
        memory=study.memory,
    )
    description = _description(study, work, parts, {**recipes, **ladder}, len(recipes), fingerprint(network))
    grid = Grid.of(description)
    _check(work, grid, network)
    rows = {
        name: {
            "report": part.records.to_dict("list"),
            "training": part.training.to_dict("list"),
            "dropped": dict(part.dropped),
            "shared": list(part.shared),
        }
        for name, part in parts.items()
    }
    provenance = {"threads": study.threads, "device": place_of(network), "memory": study.memory}
    store = Store.claim(study.folder, description, {**provenance, "cells_at_once": study.cells_at_once}, rows=rows)
    return PreparedStudy(parts, work, grid, store, study.cells_at_once)


def _check(work: Work, grid: Grid, network: nn.Module) -> None:
    """Refuse featurizers that cannot be made: the first one, and each that rows confine, which not every site has."""
    build_graphs(work, (grid.fits[0],), network, work.data[grid.fits[0].variable].train)
    for recipe, data in product(work.featurizers, work.data.values()):
        if isinstance(recipe, SubspaceWithin):
            recipe.rows_at(network, work.sites, data.train, work.batch_size)


def _description(
    study: Study,
    work: Work,
    parts: Mapping[str, Prepared],
    featurizers: Mapping[str, FeaturizerRecipe],
    n_main: int,
    model: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that determines the numbers, as JSON."""
    return {
        "what": "study",
        "causal_reft": causal_reft.__version__,
        "model": model,
        "rows": {name: part.digest for name, part in parts.items()},
        "variables": {name: dict(part.data.runs) for name, part in parts.items()},
        "sites": [
            {
                "layer": s.layer,
                "component": s.name.partition(".")[0],
                "name": s.name,
                "positions": str(s.where).strip("'"),
            }
            for s in study.sites
        ],
        "widths": list(work.widths),
        "labels": list(featurizers),
        "featurizers": [_described(build, work.widths, study.seeds) for build in featurizers.values()],
        "n_main": n_main,
        "seeds": list(study.seeds),
        "sampling": asdict(study.sampling),
        "metric": study.metric,
        "match": study.match,
        "shuffled": _scored_among(study, work),
        "recipe": {key: value for key, value in asdict(work.recipe).items() if key != "seed"},
        "controls": asdict(study.controls),
        "batch_size": work.batch_size,
        **({"halved": dict(study.halved)} if study.halved else {}),
    }


def _scored_among(study: Study, work: Work) -> str:
    listed = all(CHOICES in data.shuffled_report.info for data in work.data.values())
    return study.shuffled if study.shuffled != "choices" or listed else "vocabulary"


def _described(build: FeaturizerRecipe, widths: Sequence[int], seeds: Sequence[int]) -> dict[str, Any]:
    """What a recipe builds at every width with every seed: lambdas have no name that lasts."""
    confined, build = build, everywhere(build)
    first = build(widths[0], 0)
    digests = {
        f"{width}, seed {seed}": rounded_digest(build(width, seed)) for width in sorted(set(widths)) for seed in seeds
    }
    shown = repr(confined if isinstance(confined, SubspaceWithin) else first)
    found = {"shown": shown, "rank": first.rank, "is_linear": first.rows() is not None, "built": digests}
    return found if any(p.requires_grad for p in first.parameters()) else {**found, "trains": False}


def _labelled(
    featurizer: FeaturizerRecipe | Mapping[str, FeaturizerRecipe], width: int
) -> Mapping[str, FeaturizerRecipe]:
    return featurizer if isinstance(featurizer, Mapping) else {label_of(featurizer, width): featurizer}


def _splits(study: Study) -> dict[str, Splits]:
    if study.data is not None:
        held = held_data(study.data)
        return {name: held[name] for name in study.variables}
    assert study.task is not None
    return {name: sampled(study.task, name.split("+"), study.sampling) for name in study.variables}
