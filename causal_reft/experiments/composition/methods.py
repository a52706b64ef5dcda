"""Ways of learning skills and of putting them together: each gives models under subsets of the learned edits."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch

import causal_reft as cr
from causal_reft.analysis.composition import (
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
from causal_reft.experiments.composition.experiment import Experiment
from causal_reft.seeds import derive

Variants = Iterator[tuple[str, cr.IntervenedModel]]
Method = Callable[["Experiment", int], Variants]


def _intervened(experiment: Experiment, graph: cr.InterventionGraph) -> cr.IntervenedModel:
    return cr.IntervenedModel(experiment.model, graph, experiment.tokenizer).eval()


def _all_subsets(experiment: Experiment, graph: cr.InterventionGraph) -> Variants:
    for subset in subsets(list(graph.nodes)):
        yield subset_name(subset), _intervened(experiment, graph.only(*subset))


def _everything(experiment: Experiment, graph: cr.InterventionGraph) -> Variants:
    yield subset_name([skill.name for skill in experiment.skills]), _intervened(experiment, graph)


def _reversed(graph: cr.InterventionGraph) -> cr.InterventionGraph:
    return reordered(graph, *reversed(list(graph.nodes)))


def _edits(
    learn: Callable[..., cr.InterventionGraph],
    combine: Callable[[cr.InterventionGraph], cr.InterventionGraph] | None = None,
    every_subset: bool = False,
    positions: str | None = None,
) -> Method:
    """Edits that are learned, put together, and measured: every subset of them, or all at once."""

    def variants(experiment: Experiment, seed: int) -> Variants:
        site = experiment.site if positions is None else experiment.site.moved(positions=positions)
        graph = learn(
            experiment.model, experiment.tokenizer, experiment.skills, site, seed, False, **experiment.settings
        )
        graph = graph if combine is None else combine(graph)
        return _all_subsets(experiment, graph) if every_subset else _everything(experiment, graph)

    return variants


def _lora_added(experiment: Experiment, seed: int) -> Variants:
    """A LoRA adapter for each skill, trained apart on a copy of the model, and their sum (peft's linear
    combination).
    """
    from peft import LoraConfig, get_peft_model

    model = copy.deepcopy(experiment.model)
    wrapped: Any = None
    for number, skill in enumerate(experiment.skills):
        config = LoraConfig(r=skill.rank, lora_alpha=2 * skill.rank, target_modules="all-linear", task_type="CAUSAL_LM")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "lora", skill.name))
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
        plain = cr.IntervenedModel(wrapped.eval(), cr.InterventionGraph(), experiment.tokenizer)
        yield subset_name(subset), plain


def _train_lora(model: Any, examples: Any, experiment: Experiment, seed: int) -> None:
    """The same number of steps and the same batches as the edits; LoRA's customary learning rate."""
    steps, size = experiment.settings.get("max_steps", 250), experiment.settings.get("batch_size", 48)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3)
    order = torch.Generator().manual_seed(derive(seed, "data order"))
    for _ in range(steps):
        batch = examples.rows(torch.randperm(len(examples), generator=order)[:size])
        inputs = {name: batch.runs["base"][name] for name in ("input_ids", "attention_mask")} | {"labels": batch.labels}
        model(**{name: value.to(model.device) for name, value in inputs.items()}).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


METHODS: dict[str, Method] = {
    "one rotation, mixed batches": _edits(learn_together, every_subset=True),
    "one rotation, last token only": _edits(learn_together, every_subset=True, positions="last"),
    "apart, in sequence": _edits(learn_apart, every_subset=True),
    "apart, reversed order": _edits(learn_apart, _reversed),
    "apart, added": _edits(learn_apart, added),
    "apart, orthogonalised": _edits(learn_apart, orthogonalised),
    "one joint edit": _edits(learn_jointly),
    "LoRA adapters, added": _lora_added,
}
