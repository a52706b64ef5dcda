"""The training loop over one or several graphs: all logits come from one call, all else is each graph's own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from causal_reft.errors import DataError
from causal_reft.execution import Examples, IntervenedModel, JointPlan, Passes, TargetLogits
from causal_reft.execution.finite import check_finite_loss
from causal_reft.featurizers import Mask, computed_once, noting, penalised, penalties
from causal_reft.seeds import derive
from causal_reft.tensors import Tensor
from causal_reft.training.batches import batches_of
from causal_reft.training.history import History
from causal_reft.training.losses import Loss
from causal_reft.training.recipe import ROLES, Recipe
from causal_reft.training.schedules import anneal, learning_rate

Parts = Callable[[Tensor], Iterable[Mapping[int, TargetLogits]]]
"""The logits that the loss reads for some rows, by number of the graph, one forward after the other."""


@dataclass(frozen=True)
class Data:
    """Examples, how the logits of all graphs are computed for some of their rows, and edits that cannot matter."""

    examples: Examples
    parts: Parts
    ineffective: Mapping[int, Mapping[str, str]]

    @staticmethod
    def of(examples: Examples, passes: Passes) -> Data:
        """For one graph."""
        return Data(examples, _of_one(passes), {0: passes.ineffective} if passes.ineffective else {})

    @staticmethod
    def jointly(examples: Examples, joint: JointPlan) -> Data:
        """For several."""
        return Data(examples, joint.parts, joint.ineffective)


class Learner:
    """One graph in training: its optimizer, schedules, history and best state."""

    def __init__(self, model: IntervenedModel, recipe: Recipe, n_rows: int, loss: Loss) -> None:
        self.model, self.recipe, self.loss = model, recipe, loss
        self.history = History({**vars(recipe), "rows": n_rows, "loss": getattr(loss, "__name__", repr(loss))})
        self.total = recipe.steps(n_rows)
        self.optimizer = torch.optim.AdamW(_groups(model, recipe.lr), weight_decay=recipe.weight_decay)
        self.scheduler = learning_rate(recipe.schedule, self.optimizer, recipe.warmup, self.total)
        self.masks = [module for module in model.interventions.modules() if isinstance(module, Mask)]
        self.penalised = bool(penalised(model.interventions))
        self.best, self.best_state, self.waited, self.value, self.penalty = float("inf"), None, 0, 0.0, 0.0

    @property
    def running(self) -> bool:
        """Whether there are steps to come."""
        return self.history.stopped == "finished" and len(self.history.steps) < self.total

    def begin(self) -> None:
        """Before the batches of a step."""
        anneal(self.masks, len(self.history.steps) / max(self.total - 1, 1))
        self.optimizer.zero_grad(set_to_none=True)
        self.value = self.penalty = 0.0

    def objective(self, scored: TargetLogits, share: float) -> Tensor:
        """What one batch, `share` of the step's reads, adds to what is minimised: its loss and the weighted penalty."""
        value = self.loss(scored.logits, scored.targets).mean()
        check_finite_loss(number := float(value.detach()), f"step {len(self.history.steps)}")
        self.value += number * share
        if not self.penalised:
            return value * share
        penalty = penalties(self.model.interventions, value)
        self.penalty += float(penalty.detach()) * share
        return (value + self.recipe.penalty * penalty) * share

    def end(self, epoch: int) -> None:
        """After the batches of a step."""
        if self.recipe.clip is not None:
            nn.utils.clip_grad_norm_(self.model.trainable_parameters(), self.recipe.clip)
        lr = self.scheduler.get_last_lr()[-1]
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        record: dict[str, Any] = {"step": len(self.history.steps), "epoch": epoch, "loss": self.value, "lr": lr}
        record |= {"penalty": self.penalty} if self.penalised else {}
        self.history.steps.append(record | ({"temperature": self.masks[0].temperature} if self.masks else {}))

    def measured(self, validation_loss: float) -> None:
        """After an epoch: keep the best state, stop when it is old."""
        self.history.steps[-1]["validation_loss"] = validation_loss
        if self.recipe.patience is None:
            return
        if validation_loss < self.best:
            self.best, self.waited = validation_loss, 0
            self.best_state = copy.deepcopy(self.model.interventions.state_dict())
        elif (waited := self.waited + 1) >= self.recipe.patience:
            self.history.stopped = "early"
        else:
            self.waited = waited

    def close(self) -> History:
        """Back to the best state, where one was kept."""
        if self.best_state is not None:
            self.model.interventions.load_state_dict(self.best_state)
        self.model.about.update(self.history.about())
        return self.history


def train(
    learners: Sequence[Learner],
    data: Data,
    validation: Data | None,
    progress: bool | Callable[[float], object],
    interruptible: bool,
) -> list[History]:
    """All epochs; Ctrl-C collects what was learned (the best state, where one is kept), or goes up.

    Raises:
        DataError: a graph none of whose edits can change what the loss reads.
    """
    _refuse_ineffective(learners, data)
    recipe = learners[0].recipe
    generator = torch.Generator().manual_seed(derive(recipe.seed, "data order"))
    try:
        with tqdm(total=learners[0].total, disable=progress is not True, desc="fit", leave=False) as bar:
            for epoch in range(recipe.epochs):
                running = [learner for learner in learners if learner.running]
                for _ in _epoch(learners, data, batches_of(data.examples, recipe, generator), epoch):
                    bar.update()
                    if callable(progress):
                        progress(len(learners[0].history.steps) / learners[0].total)
                    losses = [learner.value for learner in running]
                    bar.set_postfix(loss=f"{sum(losses) / max(len(losses), 1):.4g}")
                if validation is not None and running:
                    _validate(learners, running, validation)
    except KeyboardInterrupt:
        if not interruptible:
            raise
        for learner in learners:
            learner.history.stopped = "interrupted"
        tqdm.write(f"Interrupted after {len(learners[0].history.steps)} steps; what was learned is kept.")
    return [learner.close() for learner in learners]


def mean_loss(passes: Passes, examples: Examples, loss: Loss, batch_size: int) -> float:
    """The mean of a loss over all reads of some examples."""
    with passes:
        return _mean_losses(_of_one(passes), examples, [loss], batch_size)[0]


def _of_one(passes: Passes) -> Parts:
    return lambda rows: [{0: passes.scored(rows)}]


def _epoch(learners: Sequence[Learner], data: Data, batches: Sequence[Tensor], epoch: int) -> Iterator[None]:
    """One optimizer step after the other."""
    recipe = learners[0].recipe
    for start in range(0, len(batches), recipe.accumulate):
        running = {number: learner for number, learner in enumerate(learners) if learner.running}
        if not running:
            return
        _step(running, data, batches[start : start + recipe.accumulate])
        for learner in running.values():
            learner.end(epoch)
        yield


def _step(running: Mapping[int, Learner], data: Data, batches: Sequence[Tensor]) -> None:
    """The gradients of one optimizer step: of the mean loss over all reads of its batches, forward by forward."""
    for learner in running.values():
        learner.begin()
    counts = [data.examples.n_reads(rows) for rows in batches]
    for rows, count in zip(batches, counts, strict=True):
        with computed_once(), noting():
            for part in data.parts(rows):
                share, mine = count / sum(counts), [number for number in part if number in running]
                objectives = [running[number].objective(part[number], share) for number in mine]
                if objectives:
                    torch.stack(objectives).sum().backward()


def _validate(learners: Sequence[Learner], running: Sequence[Learner], validation: Data) -> None:
    for learner in learners:
        learner.model.train(False)
    losses = [learner.loss for learner in learners]
    found = _mean_losses(validation.parts, validation.examples, losses, learners[0].recipe.batch_size)
    for learner, value in zip(learners, found, strict=True):
        learner.model.train(True)
        if learner in running:
            learner.measured(value)


def _mean_losses(parts: Parts, examples: Examples, losses: Sequence[Loss], batch_size: int) -> list[float]:
    totals, count = [0.0] * len(losses), 0
    with torch.no_grad(), computed_once():
        for rows in examples.batches(batch_size):
            count += examples.n_reads(rows)
            for number, one in (item for part in parts(rows) for item in part.items()):
                totals[number] += float(losses[number](one.logits, one.targets).sum())
    return [total / count for total in totals]


def _refuse_ineffective(learners: Sequence[Learner], data: Data) -> None:
    for number, ineffective in data.ineffective.items():
        if set(ineffective) >= set(learners[number].model.graph.edits):
            name, reason = next(iter(ineffective.items()))
            raise DataError(
                f"Node {name!r} cannot be trained: {reason}, so its gradient is exactly zero. Name a position "
                f"that the loss reads ('last'), or an earlier layer."
            )


def _groups(model: IntervenedModel, lr: float | Mapping[str, float]) -> list[dict[str, object]]:
    """Parameter groups by role, each parameter once."""
    groups: dict[str, list[nn.Parameter]] = {role: [] for role in ROLES}
    seen: set[int] = set()
    for name, parameter in model.interventions.named_parameters(remove_duplicate=False):
        if parameter.requires_grad and id(parameter) not in seen:
            seen.add(id(parameter))
            groups["source" if name.split(".")[1] == "source" else "featurizer"].append(parameter)
    rates: Mapping[str, float] = lr if isinstance(lr, Mapping) else dict.fromkeys(ROLES, lr)
    return [{"params": params, "lr": rates[role]} for role, params in groups.items() if params]
