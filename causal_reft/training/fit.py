"""One small loop that trains a graph: AdamW over the graph's parameters, the base model frozen and left as it was found.

    history = fit(model, examples, epochs=3, lr=1e-3)

Data order and initialisation have separate seeds. Ctrl-C stops and keeps what was learned.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from tqdm.auto import tqdm

from causal_reft.errors import DataError, nearest
from causal_reft.execution import Examples, IntervenedModel, Passes, plan
from causal_reft.featurizers import Mask, computed_once
from causal_reft.seeds import derive
from causal_reft.tensors import Tensor
from causal_reft.training.history import History
from causal_reft.training.losses import Loss, cross_entropy
from causal_reft.training.schedules import anneal, learning_rate

ROLES = ("featurizer", "source")


@dataclass(frozen=True)
class Recipe:
    """Every setting of a fit. `lr` is one number, or one for each role: {"featurizer": 1e-3, "source": 4e-3}."""

    epochs: int = 1
    batch_size: int = 32
    lr: float | Mapping[str, float] = 1e-3
    schedule: str = "linear"
    warmup: float = 0.1
    weight_decay: float = 0.0
    accumulate: int = 1
    clip: float | None = None
    penalty: float = 0.0
    patience: int | None = None
    max_steps: int | None = None
    seed: int = 0

    def steps(self, n_rows: int) -> int:
        """Optimizer steps for this many rows."""
        batches = -(-n_rows // self.batch_size)
        steps = self.epochs * -(-batches // self.accumulate)
        return steps if self.max_steps is None else min(steps, self.max_steps)


def fit(
    model: IntervenedModel,
    examples: Examples,
    *,
    loss: Loss = cross_entropy,
    validation: Examples | None = None,
    progress: bool = True,
    passes: Callable[[IntervenedModel, Examples], Passes] = plan,
    **settings: object,
) -> History:
    """Train the graph's parameters.

    Args:
        model: a model under a graph with something to train.
        examples: what to train on.
        loss: (logits, targets) -> one value for each logit that is read; the mean over reads is minimised.
        validation: rows whose loss is measured after each epoch; with `patience` the best epoch is kept.
        progress: whether to show a bar.
        passes: how logits are computed; `plan` computes only what must be, `FullPasses` everything.
        settings: the fields of `Recipe` (epochs, batch_size, lr, schedule, warmup, weight_decay, accumulate, clip, penalty
            on masks, patience in epochs, max_steps, seed of the data order).

    Returns:
        The history; the graph's parameters are trained in place.

    Raises:
        DataError: nothing to train, no examples, an unknown setting, patience without validation.
    """
    recipe = _recipe(settings)
    if not list(model.trainable_parameters()):
        raise DataError("The graph has nothing to train. Use a Subspace, a Mask or a LearnedSource, or evaluate it as it is.")
    if not len(examples):
        raise DataError("There are no examples to fit to.")
    if recipe.patience is not None and validation is None:
        raise DataError("patience needs validation=...: rows that training does not see.")
    history = History({**vars(recipe), "rows": len(examples), "loss": getattr(loss, "__name__", repr(loss))})
    with frozen(model.base_model), _training(model):
        try:
            _Loop(model, examples, loss, recipe, passes).run(history, validation, progress)
        except KeyboardInterrupt:
            history.stopped = "interrupted"
            tqdm.write(f"Interrupted after {len(history.steps)} steps; what was learned is kept.")
    return history


def mean_loss(passes: Passes, examples: Examples, loss: Loss, batch_size: int) -> float:
    """The mean of a loss over all reads of some examples."""
    total, count = 0.0, 0
    with torch.no_grad(), computed_once():
        for rows in examples.batches(batch_size):
            scored = passes.scored(rows)
            values = loss(scored.logits, scored.targets)
            total, count = total + float(values.sum()), count + len(values)
    return total / count


@contextmanager
def frozen(model: nn.Module, training: bool = False) -> Iterator[None]:
    """The model's weights ask for no gradient and its dropout is off inside; afterwards everything is as it was.

    `training` keeps the model in training mode instead (gradient checkpointing works in no other).
    """
    asked = [(p, p.requires_grad) for p in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.requires_grad_(False)
        model.train(training)
        yield
    finally:
        for parameter, was in asked:
            parameter.requires_grad_(was)
        for module, was in modes:
            module.training = was


@contextmanager
def _training(model: IntervenedModel) -> Iterator[None]:
    was = model.training
    model.train()
    try:
        yield
    finally:
        model.train(was)


def _recipe(settings: Mapping[str, object]) -> Recipe:
    known = Recipe.__dataclass_fields__
    for name in settings:
        if name not in known:
            raise DataError(f"fit has no setting {name!r}. {nearest(name, known)}")
    recipe = Recipe(**settings)  # type: ignore[arg-type]
    if isinstance(recipe.lr, Mapping) and set(recipe.lr) != set(ROLES):
        raise DataError(f"lr={dict(recipe.lr)} must name exactly {' and '.join(ROLES)}.")
    return recipe


class _Loop:
    """The state of one training run."""

    def __init__(self, model: IntervenedModel, examples: Examples, loss: Loss, recipe: Recipe, passes: Callable[..., Passes]) -> None:
        self.model, self.examples, self.loss, self.recipe, self.make_passes = model, examples, loss, recipe, passes
        self.passes = passes(model, examples)
        self.optimizer = torch.optim.AdamW(_groups(model, recipe.lr), weight_decay=recipe.weight_decay)
        self.total = recipe.steps(len(examples))
        self.scheduler = learning_rate(recipe.schedule, self.optimizer, recipe.warmup, self.total)
        self.masks = [module for module in model.interventions.modules() if isinstance(module, Mask)]
        self.order = torch.Generator().manual_seed(derive(recipe.seed, "data order"))

    def run(self, history: History, validation: Examples | None, progress: bool) -> None:
        checker = None if validation is None else self.make_passes(self.model, validation)
        best, best_state, waited = float("inf"), None, 0
        with tqdm(total=self.total, disable=not progress, desc="fit", leave=False) as bar:
            for epoch in range(self.recipe.epochs):
                if len(history.steps) >= self.total:
                    break
                for record in self._epoch(epoch, len(history.steps)):
                    history.steps.append(record)
                    bar.update()
                    bar.set_postfix(loss=f"{record['loss']:.4g}")
                if checker is None or validation is None:
                    continue
                self.model.train(False)
                measured = mean_loss(checker, validation, self.loss, self.recipe.batch_size)
                self.model.train(True)
                history.steps[-1]["validation_loss"] = measured
                if self.recipe.patience is None:
                    continue
                if measured < best:
                    best, best_state, waited = measured, copy.deepcopy(self.model.interventions.state_dict()), 0
                elif (waited := waited + 1) >= self.recipe.patience:
                    history.stopped = "early"
                    break
        if best_state is not None:
            self.model.interventions.load_state_dict(best_state)

    def _epoch(self, epoch: int, done: int) -> Iterator[dict[str, float | int]]:
        order = torch.randperm(len(self.examples), generator=self.order)
        batches = list(self.examples.batches(self.recipe.batch_size, order))
        for start in range(0, len(batches), self.recipe.accumulate):
            if done >= self.total:
                return
            yield self._step(batches[start : start + self.recipe.accumulate], epoch, done)
            done += 1

    def _step(self, batches: list[Tensor], epoch: int, done: int) -> dict[str, float | int]:
        """One optimizer step: the mean loss over all reads of its batches."""
        anneal(self.masks, done / max(self.total - 1, 1))
        self.optimizer.zero_grad(set_to_none=True)
        counts = [self.examples.n_reads(rows) for rows in batches]
        losses = [self._backward(rows, share=count / sum(counts)) for rows, count in zip(batches, counts, strict=True)]
        if self.recipe.clip is not None:
            nn.utils.clip_grad_norm_(self.model.trainable_parameters(), self.recipe.clip)
        lr = self.scheduler.get_last_lr()[-1]
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        record = {"step": done, "epoch": epoch, "loss": sum(losses), "lr": lr}
        return record | ({"temperature": self.masks[0].temperature} if self.masks else {})

    def _backward(self, rows: Tensor, share: float) -> float:
        with computed_once():
            scored = self.passes.scored(rows)
            value = self.loss(scored.logits, scored.targets).mean()
            total = value + self.recipe.penalty * sum(mask.penalty() for mask in self.masks) if self.masks else value
            (total * share).backward()
        return float(value.detach()) * share


def _groups(model: IntervenedModel, lr: float | Mapping[str, float]) -> list[dict[str, object]]:
    """Parameter groups by role, each parameter once."""
    groups: dict[str, list[nn.Parameter]] = {role: [] for role in ROLES}
    seen: set[int] = set()
    for name, parameter in model.interventions.named_parameters(remove_duplicate=False):
        if parameter.requires_grad and id(parameter) not in seen:
            seen.add(id(parameter))
            groups["source" if name.split(".")[1] == "source" else "featurizer"].append(parameter)
    rates = lr if isinstance(lr, Mapping) else dict.fromkeys(ROLES, lr)
    return [{"params": params, "lr": rates[role]} for role, params in groups.items() if params]
