"""The table of a composition experiment: ways of learning x subsets of skills x measured behaviours x adapter seeds.

    table = run_composition(embedded_experiment(), folder="runs/composition", seeds=range(5))

One file for each finished (method, seed) is kept in the folder, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from causal_reft.analysis.behaviours import Behaviour, Row, behaviour_rows
from causal_reft.analysis.composition import (
    Skill,
    added,
    learn_apart,
    learn_jointly,
    learn_together,
    mixed_examples,
    orthogonalised,
    reordered,
    subset_name,
    subsets,
)
from causal_reft.errors import DataError, nearest
from causal_reft.execution import IntervenedModel
from causal_reft.graph import InterventionGraph
from causal_reft.seeds import derive
from causal_reft.sites import Site


@dataclass(frozen=True)
class Experiment:
    """Everything that determines a composition table.

    Args:
        model, tokenizer: a causal language model.
        skills: what is learned; two or more.
        prompts: held-out rows: `prompt`, what the behaviours read, and `task` for the breakdown.
        behaviours: what is measured on each continuation.
        site: where the edits are.
        settings: of `fit`.
    """

    model: nn.Module
    tokenizer: Any
    skills: Sequence[Skill]
    prompts: Sequence[Row]
    behaviours: Sequence[Behaviour]
    site: Site
    settings: Mapping[str, Any] = field(default_factory=dict)
    max_new_tokens: int = 24

    def __post_init__(self) -> None:
        seen = {prompt for skill in self.skills for prompt, _ in skill.pairs}
        repeated = [row["prompt"] for row in self.prompts if row["prompt"] in seen]
        if repeated:
            raise DataError(f"{len(repeated)} held-out prompts are training prompts too, e.g. {repeated[0]!r}.")

    def digest(self, method: str, seed: int) -> str:
        """Changes with everything that determines a cell."""
        weights = [float(p.detach().double().sum()) for p in self.model.parameters()]
        data = [(s.name, s.rank, tuple(map(tuple, s.pairs))) for s in self.skills]
        names = [b.name for b in self.behaviours]
        prompts = [tuple(sorted(row.items())) for row in self.prompts]
        how = (repr(self.site), sorted(self.settings.items()), self.max_new_tokens)
        return f"{derive(seed, method, weights, data, prompts, names, how):016x}"


def run_composition(
    experiment: Experiment,
    folder: str | os.PathLike[str],
    seeds: Sequence[int] = range(5),
    methods: Sequence[str] | None = None,
) -> pd.DataFrame:
    """One row for each method x seed x subset x prompt: `method`, `seed`, `subset`, and the columns of
    `behaviour_rows`.

    Raises:
        DataError: an unknown method.
    """
    methods = list(METHODS) if methods is None else list(methods)
    for method in methods:
        if method not in METHODS:
            raise DataError(f"There is no way of composing called {method!r}. {nearest(method, METHODS)}")
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    cells = [(method, seed) for method in methods for seed in seeds]
    frames = []
    for method, seed in tqdm(cells, desc="composition"):
        file = target / f"{method.replace(' ', '_')}.seed{seed}.{experiment.digest(method, seed)}.csv"
        if not file.exists():
            _cell(experiment, method, seed).to_csv(scratch := file.with_suffix(".part"), index=False)
            os.replace(scratch, file)
        frames.append(pd.read_csv(file, keep_default_na=False))
    return pd.concat(frames, ignore_index=True)


def _cell(experiment: Experiment, method: str, seed: int) -> pd.DataFrame:
    frames = []
    for subset, model in METHODS[method](experiment, seed):
        rows = behaviour_rows(model, experiment.prompts, experiment.behaviours, experiment.max_new_tokens)
        frames.append(rows.assign(method=method, seed=seed, subset=subset))
    return pd.concat(frames, ignore_index=True)


Variants = Iterator[tuple[str, IntervenedModel]]


def _intervened(experiment: Experiment, graph: InterventionGraph) -> IntervenedModel:
    return IntervenedModel(experiment.model, graph, experiment.tokenizer).eval()


def _all_subsets(experiment: Experiment, graph: InterventionGraph) -> Variants:
    for subset in subsets(list(graph.nodes)):
        yield subset_name(subset), _intervened(experiment, graph.only(*subset))


def _everything(experiment: Experiment, graph: InterventionGraph) -> Variants:
    yield subset_name([skill.name for skill in experiment.skills]), _intervened(experiment, graph)


def _learned(
    learn: Callable[..., InterventionGraph], experiment: Experiment, seed: int, site: Site | None = None
) -> InterventionGraph:
    return learn(
        experiment.model,
        experiment.tokenizer,
        experiment.skills,
        site or experiment.site,
        seed,
        False,
        **experiment.settings,
    )


def _together(experiment: Experiment, seed: int) -> Variants:
    return _all_subsets(experiment, _learned(learn_together, experiment, seed))


def _together_last_token(experiment: Experiment, seed: int) -> Variants:
    return _all_subsets(experiment, _learned(learn_together, experiment, seed, experiment.site.moved(positions="last")))


def _apart_in_sequence(experiment: Experiment, seed: int) -> Variants:
    return _all_subsets(experiment, _learned(learn_apart, experiment, seed))


def _apart_reversed(experiment: Experiment, seed: int) -> Variants:
    graph = _learned(learn_apart, experiment, seed)
    return _everything(experiment, reordered(graph, *reversed(list(graph.nodes))))


def _apart_added(experiment: Experiment, seed: int) -> Variants:
    return _everything(experiment, added(_learned(learn_apart, experiment, seed)))


def _apart_orthogonalised(experiment: Experiment, seed: int) -> Variants:
    return _everything(experiment, orthogonalised(_learned(learn_apart, experiment, seed)))


def _joint(experiment: Experiment, seed: int) -> Variants:
    return _everything(experiment, _learned(learn_jointly, experiment, seed))


def _lora_added(experiment: Experiment, seed: int) -> Variants:
    """A LoRA adapter for each skill, trained apart on a copy of the model, and their sum (peft's linear
    combination).
    """
    from peft import LoraConfig, get_peft_model

    model = copy.deepcopy(experiment.model)
    wrapped: Any = None
    for number, skill in enumerate(experiment.skills):
        torch.manual_seed(derive(seed, "lora", skill.name))
        config = LoraConfig(r=skill.rank, lora_alpha=2 * skill.rank, target_modules="all-linear", task_type="CAUSAL_LM")
        if number == 0:
            wrapped = get_peft_model(model, config, adapter_name=skill.name)
        else:
            wrapped.add_adapter(skill.name, config)
        wrapped.set_adapter(skill.name)
        _train_lora(wrapped, mixed_examples([skill], experiment.tokenizer), experiment, seed)
    names = [skill.name for skill in experiment.skills]
    for subset in subsets(names)[1:]:
        if len(subset) == 1:
            wrapped.set_adapter(subset[0])
        else:
            wrapped.add_weighted_adapter(list(subset), [1.0] * len(subset), "_".join(subset), combination_type="cat")
            wrapped.set_adapter("_".join(subset))
        plain = IntervenedModel(wrapped.eval(), InterventionGraph(), experiment.tokenizer)
        yield subset_name(subset), plain


def _train_lora(model: nn.Module, examples: Any, experiment: Experiment, seed: int) -> None:
    """The same number of steps and the same batches as the edits; LoRA's customary learning rate."""
    steps, size = experiment.settings.get("max_steps", 250), experiment.settings.get("batch_size", 48)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3)
    order = torch.Generator().manual_seed(derive(seed, "data order"))
    for _ in range(steps):
        batch = examples.rows(torch.randperm(len(examples), generator=order)[:size])
        base = batch.runs["base"]
        loss = model(input_ids=base["input_ids"], attention_mask=base["attention_mask"], labels=batch.labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


METHODS: dict[str, Callable[[Experiment, int], Variants]] = {
    "one rotation, mixed batches": _together,
    "one rotation, last token only": _together_last_token,
    "apart, in sequence": _apart_in_sequence,
    "apart, reversed order": _apart_reversed,
    "apart, added": _apart_added,
    "apart, orthogonalised": _apart_orthogonalised,
    "one joint edit": _joint,
    "LoRA adapters, added": _lora_added,
}
