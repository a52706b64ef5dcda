"""Training until the text comes out: several edits side by side, each in rows of its own, each stopping by itself.

Every edit is active in its own rows of one batch, and the loss is the sum of the edits' losses, so each edit gets the
gradient that it would get alone, and Adam keeps its numbers apart. An edit whose rows are all predicted exactly is left
as it is from then on: teacher-forced argmax at every token is what greedy decoding will give. The gradient is always
that of all rows, in pieces of `batch_size`; so there is no order of the data and no seed for one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from causal_reft.errors import DataError, nearest
from causal_reft.execution import Examples, FullPasses, IntervenedModel, Passes
from causal_reft.featurizers import computed_once
from causal_reft.graph import InterventionGraph
from causal_reft.reft import as_examples
from causal_reft.tensors import Bool, Float, Int, Tensor
from causal_reft.training import cross_entropy, frozen
from causal_reft.training.losses import Loss, logit_difference
from causal_reft.training.schedules import learning_rate

Record = dict[str, Any]
MARGIN = 0.5


def margin(logits: Float[Tensor, "read classes"], targets: Int[Tensor, " read"]) -> Float[Tensor, " read"]:
    """max(0, 0.5 - (the target's logit - the largest other logit)): nothing to gain where the target wins by 0.5."""
    return torch.relu(logit_difference(logits, targets) + MARGIN)


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "margin": margin}


@dataclass(frozen=True)
class MemoryRecipe:
    """How an edit is trained.

    Args:
        steps: at most so many.
        lr: of Adam.
        schedule: "constant", "linear" or "cosine", over all `steps`.
        loss: "cross_entropy" (the paper's) or "margin", mean over the tokens. Cross entropy may give up one token to
            make others surer than recall needs them; the margin asks no more than that each token wins.
        stop_loss: stop also where the mean loss falls below this; by default only where recall is exact.
        batch_size: rows of a forward pass. It changes results by rounding only.

    Raises:
        DataError: an unknown loss.
    """

    steps: int = 1000
    lr: float = 1e-2
    schedule: str = "cosine"
    loss: str = "cross_entropy"
    stop_loss: float = 0.0
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise DataError(f"MemoryRecipe(loss={self.loss!r}). {nearest(self.loss, LOSSES)}")


@dataclass(frozen=True)
class Lesson:
    """A graph to train and the records (see `causal_reft.reft.completions`) that it shall remember."""

    graph: InterventionGraph
    records: Sequence[Record]


@dataclass(frozen=True)
class Outcome:
    """How the training of one edit ended: steps taken, its last loss (mean over tokens), and why it stopped."""

    steps: int
    loss: float
    stopped: str


def learn(
    model: nn.Module,
    tokenizer: Any,
    lessons: Sequence[Lesson],
    recipe: MemoryRecipe,
    passes: Callable[[IntervenedModel, Examples], Passes] = FullPasses,
    progress: bool = False,
) -> list[Outcome]:
    """Train the graphs of all lessons in place; the model is left as it was found. Ctrl-C goes through.

    A lesson without anything to train has taken no steps.
    """
    classroom = _Classroom(model, tokenizer, lessons, recipe, passes)
    with (
        frozen(model),
        classroom.loop,
        tqdm(total=recipe.steps, disable=not progress, desc="remember", leave=False) as bar,
    ):
        for _ in range(recipe.steps):
            if not classroom.step():
                break
            bar.update()
            bar.set_postfix(loss=f"{float(classroom.loss.max()):.3g}", exact=int(classroom.exact.sum()))
    return classroom.outcomes()


class _Classroom:
    """The state of one training."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        lessons: Sequence[Lesson],
        recipe: MemoryRecipe,
        passes: Callable[[IntervenedModel, Examples], Passes],
    ) -> None:
        self.recipe, self.lessons = recipe, lessons
        self.loop: AbstractContextManager[object] = nullcontext()
        graph, examples = side_by_side(lessons, tokenizer)
        self.owner = torch.tensor([i for i, lesson in enumerate(lessons) for _ in lesson.records])
        self.parameters = [[p for p in lesson.graph.parameters() if p.requires_grad] for lesson in lessons]
        self.learning = torch.tensor([bool(own) for own in self.parameters])
        self.taken = torch.zeros(len(lessons), dtype=torch.long)
        self.loss = torch.full((len(lessons),), float("nan"))
        self.exact = torch.zeros(len(lessons), dtype=torch.bool)
        if not bool(self.learning.any()):
            return
        self.passes = self.loop = passes(IntervenedModel(model, graph, tokenizer), examples)
        self.optimizer = torch.optim.Adam([p for own in self.parameters for p in own], lr=recipe.lr)
        self.scheduler = learning_rate(recipe.schedule, self.optimizer, 0.0, recipe.steps)

    def step(self) -> bool:
        """One step of all edits that still learn; False where none is left."""
        if not bool(self.learning.any()):
            return False
        loss, exact = self._backward()
        told = self.learning.clone()
        self.loss[told], self.exact[told] = loss[told], exact[told]
        self.learning &= ~(exact | (loss < self.recipe.stop_loss))
        for lesson in (told & ~self.learning).nonzero().flatten().tolist():
            for parameter in self.parameters[lesson]:
                parameter.grad = None  # Adam passes over what has no gradient
        self.taken += self.learning.long()
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        return bool(self.learning.any())

    def outcomes(self) -> list[Outcome]:
        """How every edit ended."""
        why = [
            "exact" if e else "steps" if running else "loss"
            for e, running in zip(self.exact, self.learning, strict=True)
        ]
        why = [reason if own else "nothing to learn" for reason, own in zip(why, self.parameters, strict=True)]
        return [
            Outcome(int(n), float(loss), reason) for n, loss, reason in zip(self.taken, self.loss, why, strict=True)
        ]

    def _backward(self) -> tuple[Float[Tensor, " edit"], Bool[Tensor, " edit"]]:
        """The loss of every edit (the mean over its rows), and whether all its tokens are predicted."""
        rows = self.learning[self.owner].nonzero().flatten()
        counts = torch.bincount(self.owner, minlength=len(self.lessons))
        losses, right = torch.zeros(len(self.lessons)), torch.zeros(len(self.lessons))
        for some in rows.split(self.recipe.batch_size):
            with computed_once():
                loss, exact = _by_row(self.passes, some, LOSSES[self.recipe.loss])
                share = loss / counts[self.owner[some]].to(loss)
                share.sum().backward()
            losses.index_add_(0, self.owner[some], share.detach().cpu().float())
            right.index_add_(0, self.owner[some], exact.cpu().float())
        return losses, right == counts


def _by_row(
    passes: Passes, rows: Int[Tensor, " row"], by_token: Loss
) -> tuple[Float[Tensor, " row"], Bool[Tensor, " row"]]:
    """Each row's mean loss, and whether every token that is read has the highest logit."""
    scored = passes.scored(rows)
    loss = scored.per_row(by_token(scored.logits, scored.targets), len(rows))
    wrong = (scored.logits.detach().argmax(-1) != scored.targets).to(loss.dtype)
    return loss, scored.per_row(wrong, len(rows)) == 0


def side_by_side(lessons: Sequence[Lesson], tokenizer: Any) -> tuple[InterventionGraph, Examples]:
    """All graphs in one, and all records in one batch in which each graph is active in its own rows."""
    owner = [i for i, lesson in enumerate(lessons) for _ in lesson.records]
    graphs = [
        lesson.graph.renamed({name: f"{name}_of_{i}" for name in lesson.graph}) for i, lesson in enumerate(lessons)
    ]
    examples = as_examples([record for lesson in lessons for record in lesson.records], tokenizer)
    active = {name: [o == i for o in owner] for i, graph in enumerate(graphs) for name in graph}
    base = {**examples.runs["base"], "active": active}  # type: ignore[dict-item]
    return reduce(add, graphs, InterventionGraph()), replace(examples, runs={"base": base})
