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
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

import torch
from tqdm.auto import tqdm

import causal_reft
from causal_reft.alignment.cell import Cell, CellResult, Group, grouped
from causal_reft.alignment.design import Controls, Design
from causal_reft.alignment.encoding import Encoding, TextEncoding, as_encoding
from causal_reft.alignment.ladder import ladder_recipes
from causal_reft.alignment.network_source import NetworkSource, Source, digest_of
from causal_reft.alignment.preparation import Prepared, Sampling, prepare, sampled, width_at
from causal_reft.alignment.results import StudyResult
from causal_reft.alignment.store import SCHEMA, Store
from causal_reft.alignment.work import FeaturizerRecipe, Work, build_graph, run_group
from causal_reft.causal import CausalModel, Splits, Task
from causal_reft.errors import StudyError, nearest
from causal_reft.featurizers import Featurizer
from causal_reft.sites import Site
from causal_reft.training import Recipe

STUDY_RECIPE = Recipe(epochs=8, batch_size=32, lr=1e-2, schedule="cosine")


class Study:
    """See the module's text.

    Args:
        model: a folder or hub id, a function that returns the network, or a live network (then without an executor).
        tokenizer: a fast tokenizer, or an `Encoding` (`TensorEncoding(...)` for plain networks).
        task: a `Task`, or the `CausalModel` of a plain network; or None, with `data`.
        variable: what is interchanged: a name; several names joined by "+" ("left+right": each from its own source, in
            orthogonal slices of one rotation); or a list of such alternatives.
        sites: where to look.
        featurizer: `Subspace.of_rank(4)` or any function (d_model, seed) -> Featurizer; or a mapping label -> such.
        seeds: of initialisation and data order.
        folder: where finished cells are kept; by default a temporary one.
        data: ready rows for each variable alternative, instead of a task: `data.split(0.6, 0.2, 0.2)`, or a mapping.
        sampling: how rows are drawn from the task.
        recipe: of every fit; its own seed is replaced.
        controls: how much is spent on them.
        match: "vocabulary": an answer is right where it is the most likely of all tokens; "choices": of the task's
            answers.
        batch_size: rows of a pass when scoring.
        cells_at_once: how many cells may share passes; they are stored together, so an interruption loses as many.
        memory: bytes that a plan may keep; what does not fit is computed again for each batch.
        threads: of every worker.
        device: where workers put the network.

    Raises:
        StudyError: an empty grid, a folder of another study, too few rows, an unsuitable model.
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
        seeds: Iterable[int] = range(5),
        folder: str | os.PathLike[str] | None = None,
        data: Splits | Mapping[str, Splits] | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        recipe: Recipe = STUDY_RECIPE,
        controls: Controls = Controls(),  # noqa: B008 - frozen
        match: Literal["vocabulary", "choices"] = "vocabulary",
        batch_size: int = 64,
        cells_at_once: int = 16,
        memory: int = 2 << 30,
        threads: int = 1,
        device: str = "cpu",
    ) -> None:
        self.task, self.sites, self.seeds, self.controls = task, list(sites), [int(seed) for seed in seeds], controls
        if not self.sites or not self.seeds:
            raise StudyError(f"A study needs sites and seeds; given: {len(self.sites)} sites, {len(self.seeds)} seeds.")
        if len(set(self.sites)) < len(self.sites) or len(set(self.seeds)) < len(self.seeds):
            raise StudyError("A site or a seed is given twice; each cell of the grid is one fit.")
        if cells_at_once < 1:
            raise StudyError(f"cells_at_once={cells_at_once}: at least one cell is computed at a time.")
        torch_threads = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            source = NetworkSource.of(model, device)
            splits = self._splits(variable, data, sampling)
            network, encoding = source.network(), _matching(as_encoding(tokenizer), match, task)
            self.prepared: dict[str, Prepared] = {
                name: prepare(
                    network, encoding, parts, task, self.sites, sampling, self.seeds[: controls.seeds], batch_size
                )
                for name, parts in splits.items()
            }
            first = next(iter(self.prepared.values())).data.train
            widths = [width_at(network, site, first) for site in self.sites]
        finally:
            torch.set_num_threads(torch_threads)
        self.labels, recipes = _labelled(featurizer, widths[0])
        self.n_main = len(recipes)
        ladder = ladder_recipes(recipes, self.labels, widths[0]) if controls.ladder else {}
        self.labels = [*self.labels, *ladder]
        self.work = Work(
            source,
            self.sites,
            widths,
            [*recipes, *ladder.values()],
            {name: part.data for name, part in self.prepared.items()},
            recipe,
            controls.random,
            batch_size,
            threads,
            memory,
        )
        self.cells_at_once = cells_at_once
        self.design = Design(self.work, self.seeds, controls, self.n_main)
        for cell in self.design.fits[:1]:
            build_graph(self.work, cell)
        self.sampling, self.match = sampling, match
        self.description = self._described()
        self.digest = self.description["digest"]
        self.store = Store(os.fspath(folder) if folder is not None else self._temporary_folder())
        self.store.open(
            self.description,
            {
                name: part.records.to_dict("list") | {"dropped": dict(part.dropped)}
                for name, part in self.prepared.items()
            },
        )

    def _temporary_folder(self) -> str:
        """A folder that goes when this object goes."""
        folder = tempfile.mkdtemp(prefix="causal_reft-study-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder

    # Running ----------------------------------------------------------------------------------------------------

    def run(self, executor: Any = None, progress: bool = True) -> StudyResult:
        """Compute what is missing, and return the result.

        Args:
            executor: anything with `submit` whose futures have `done` and `result`: a process pool, Dask's
                `Client.get_executor()`, submitit, mpi4py. Workers only compute; this process writes the files.
            progress: whether to show a bar.

        Raises:
            StudyError: a live network with an executor; a live network that changed since the study was made.
        """
        if executor is not None:
            self.work.source.check_sendable()
        if self.work.source.live and digest_of(self.work.source.network()) != self.work.source.digest:
            raise StudyError(
                "The network's weights changed since the study was made. Make the study again from the network "
                "as it is now."
            )
        for stage, cells in zip(("fits", "controls", "ladder"), self._stages(), strict=True):
            self._compute(stage, self._groups(cells), executor, progress)
        return self.result()

    def result(self) -> StudyResult:
        """What the finished cells of the folder say.

        Raises:
            StudyError: the study is not finished.
        """
        return StudyResult.load(self.store.folder)

    @property
    def groups(self) -> list[Group]:
        """The groups of the first stage and, as far as they are known, of the later ones."""
        known: list[Group] = []
        for cells in self._stages():
            known += self._groups(cells)
            if not all(self.store.has(group, self.digest) for group in known):
                break
        return known

    @property
    def cells(self) -> list[Cell]:
        """The cells of these groups."""
        return [cell for group in self.groups for cell in group.cells]

    @property
    def finished(self) -> int:
        """How many cells are finished."""
        return sum(len(group.cells) for group in self.groups if self.store.has(group, self.digest))

    def _groups(self, cells: Sequence[Cell]) -> list[Group]:
        return grouped(cells, self.cells_at_once)

    def _compute(self, stage: str, groups: Sequence[Group], executor: Any, progress: bool) -> None:
        missing = [group for group in groups if not self.store.has(group, self.digest)]
        total, left = (sum(len(group.cells) for group in some) for some in (groups, missing))
        with tqdm(total=total, initial=total - left, desc=stage, disable=not progress) as bar:
            for group, results in self._results(missing, executor):
                self.store.put(group, self.digest, results)
                bar.update(len(results))

    def _results(self, groups: Sequence[Group], executor: Any) -> Iterable[tuple[Group, Mapping[Cell, CellResult]]]:
        if executor is None:
            for group in groups:
                yield group, run_group(self.work.for_group(group), group)
            return
        pending = [(group, executor.submit(run_group, self.work.for_group(group), group)) for group in groups]
        try:
            while pending:
                done = [(group, future) for group, future in pending if future.done()]
                pending = [
                    (group, future) for group, future in pending if all(future is not other for _, other in done)
                ]
                for group, future in done:
                    yield group, future.result()
                if not done:
                    time.sleep(0.02)
        finally:
            for _, future in pending:
                future.cancel()

    def _stages(self) -> Iterator[list[Cell]]:
        """The cells of each stage; those of a later one depend on what the earlier ones found."""
        yield self.design.fits
        found = self.store.all(self.digest)
        yield self.design.controls_of(found)
        yield self.design.closer_look(found)

    # What it is -------------------------------------------------------------------------------------------------

    def _splits(
        self, variable: str | Sequence[str] | None, data: Splits | Mapping[str, Splits] | None, sampling: Sampling
    ) -> dict[str, Splits]:
        if (self.task is None) == (data is None) and data is None:
            raise StudyError(
                "A study needs task=... (a Task or a CausalModel) or data=... (counterfactuals, split in three)."
            )
        if isinstance(data, Splits):
            return {"+".join(data.train.variables): data}
        if data is not None:
            return dict(data)
        assert self.task is not None
        causal = self.task.causal_model if isinstance(self.task, Task) else self.task
        default = self.task.variables if isinstance(self.task, Task) else ()
        alternatives = [variable] if isinstance(variable, str) else list(default if variable is None else variable)
        if not alternatives:
            raise StudyError(f"Say which variable to look for: variable='...'. {nearest('', causal.variables)}")
        return {name: sampled(self.task, name.split("+"), sampling) for name in alternatives}

    def _described(self) -> dict[str, Any]:
        """Everything that determines the numbers, as JSON, with a digest over it."""
        import hashlib
        import json

        work = self.work
        described: dict[str, Any] = {
            "schema": SCHEMA,
            "causal_reft": causal_reft.__version__,
            "torch": torch.__version__,
            "model": {"class": type(work.source.network()).__name__, "weights": work.source.digest},
            "rows": {name: part.digest for name, part in self.prepared.items()},
            "variables": {name: dict(part.data.runs) for name, part in self.prepared.items()},
            "sites": [
                {
                    "layer": site.layer,
                    "component": site.name.partition(".")[0],
                    "name": site.name,
                    "positions": _plain(site),
                }
                for site in self.sites
            ],
            "widths": list(work.widths),
            "labels": self.labels,
            "featurizers": [_fingerprint(build, work.widths[0]) for build in work.featurizers],
            "n_main": self.n_main,
            "seeds": self.seeds,
            "sampling": asdict(self.sampling),
            "match": self.match,
            "recipe": {key: value for key, value in asdict(work.recipe).items() if key != "seed"},
            "controls": asdict(self.controls),
            "batch_size": work.batch_size,
            "cells_at_once": self.cells_at_once,
            "memory": work.memory,
            "threads": work.threads,
            "device": work.source.device,
        }
        text = json.dumps(described, sort_keys=True)
        return {**json.loads(text), "digest": hashlib.sha256(text.encode()).hexdigest()[:16]}

    def __repr__(self) -> str:
        from causal_reft.alignment.overview import describe_study

        return describe_study(self)


def _matching(encoding: Encoding, match: str, task: Task | CausalModel | None) -> Encoding:
    """The encoding, told among which answers the network chooses if that is asked."""
    if match == "vocabulary":
        return encoding
    if match != "choices" or not isinstance(encoding, TextEncoding) or not isinstance(task, Task):
        raise StudyError(f"match={match!r}: allowed are 'vocabulary' and, for a Task on a language model, 'choices'.")
    return replace(encoding, choices=task.choices)


def _labelled(
    featurizer: FeaturizerRecipe | Mapping[str, FeaturizerRecipe], width: int
) -> tuple[list[str], list[FeaturizerRecipe]]:
    if isinstance(featurizer, Mapping):
        return list(featurizer), list(featurizer.values())
    built = featurizer(width, 0)
    return [f"{type(built).__name__} of rank {built.rank}"], [featurizer]


def _fingerprint(build: Callable[[int, int], Featurizer], width: int) -> str:
    """What a recipe builds, in words and bits: lambdas have no name that lasts."""
    built = build(width, 0)
    return f"{built!r} {digest_of(built)}"


def _plain(site: Site) -> str:
    return str(site.where).strip("'")
