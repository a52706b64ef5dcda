"""One small loop that trains a graph: AdamW over its parameters, the base model frozen and left as it was found.

    history = fit(model, examples, epochs=3, lr=1e-3)
    histories = fit_many(models, examples, epochs=3, lr=1e-3)

Data order and initialisation have separate seeds. Ctrl-C stops and keeps what was learned; where training is one step
of something larger, that passes `interruptible=False` and the interrupt goes up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from torch import nn

from causal_reft.errors import DataError
from causal_reft.execution import Examples, IntervenedModel, JointPlan, Passes, plan, plan_all
from causal_reft.training.history import History
from causal_reft.training.learner import Data, Learner, train
from causal_reft.training.losses import Loss, cross_entropy
from causal_reft.training.recipe import FIT_RECIPE, Recipe


def fit(
    model: IntervenedModel,
    examples: Examples,
    *,
    loss: Loss = cross_entropy,
    validation: Examples | None = None,
    recipe: Recipe = FIT_RECIPE,
    progress: bool | Callable[[float], object] = True,
    passes: Callable[[IntervenedModel, Examples], Passes] = plan,
    interruptible: bool = True,
    **settings: object,
) -> History:
    """Train the graph's parameters.

    Args:
        model: a model under a graph with something to train.
        examples: what to train on.
        loss: (logits, targets) -> one value for each logit that is read; the mean over reads is minimised.
        validation: rows whose loss is measured after each epoch; with `patience` the best epoch is kept.
        recipe: settings as one value.
        progress: whether to show a bar; or a function that is given the share of steps that are done.
        passes: how logits are computed; `plan` computes only what must be, `FullPasses` everything.
        interruptible: whether Ctrl-C ends the training early and returns what was learned; False lets it go up.
        settings: what differs from the recipe: its fields (epochs, batch_size, lr, schedule, warmup, weight_decay,
            accumulate, clip, penalty, patience in epochs, max_steps, batches at random or by length, seed of
            the data order).

    Returns:
        The history; the graph's parameters are trained in place.

    Raises:
        DataError: nothing to train, no examples, an unknown setting, patience without validation, edits that cannot
            change anything that the loss reads.
    """
    recipe = Recipe.of(settings, Recipe.of(recipe, FIT_RECIPE))
    _check(recipe, [model], examples, validation)
    with frozen(model.base_model), _training([model]), ExitStack() as loops:
        data = Data.of(examples, loops.enter_context(passes(model, examples)))
        held_out = None if validation is None else Data.of(validation, loops.enter_context(passes(model, validation)))
        return train([Learner(model, recipe, len(examples), loss)], data, held_out, progress, interruptible)[0]


def fit_many(
    models: Sequence[IntervenedModel],
    examples: Examples,
    *,
    loss: Loss = cross_entropy,
    validation: Examples | None = None,
    recipe: Recipe = FIT_RECIPE,
    progress: bool | Callable[[float], object] = True,
    passes: Callable[[Sequence[IntervenedModel], Examples], JointPlan] = plan_all,
    interruptible: bool = True,
    **settings: object,
) -> list[History]:
    """Train several independent graphs on one base model at once: the same numbers as one `fit` after the other.

    What they share is computed once, and graphs that edit the same tokens share their forward passes: all layers of
    one position cost little more than the lowest of them. Every graph sees the same batches, keeps its own optimizer,
    and stops on its own.

    Args:
        models: one model object under several graphs that share no parameter.
        examples, loss, validation, recipe, progress, interruptible, settings: as `fit` takes them.
        passes: how the logits of all graphs are computed; `partial(plan_all, memory=...)` sets a budget.

    Raises:
        DataError: as `fit`; graphs that share parameters, whose trainings would not be independent.
    """
    recipe = Recipe.of(settings, Recipe.of(recipe, FIT_RECIPE))
    _check(recipe, models, examples, validation)
    with frozen(models[0].base_model), _training(models), ExitStack() as loops:
        data = Data.jointly(examples, loops.enter_context(passes(models, examples)))
        held_out = None
        if validation is not None:
            held_out = Data.jointly(validation, loops.enter_context(passes(models, validation)))
        learners = [Learner(model, recipe, len(examples), loss) for model in models]
        return train(learners, data, held_out, progress, interruptible)


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
def _training(models: Sequence[IntervenedModel]) -> Iterator[None]:
    modes = [(model, model.training) for model in models]
    try:
        for model in models:
            model.train()
        yield
    finally:
        for model, was in modes:
            model.train(was)


def _check(recipe: Recipe, models: Sequence[IntervenedModel], examples: Examples, validation: Examples | None) -> None:
    seen: set[nn.Parameter] = set()
    for model in models:
        own = set(model.trainable_parameters())
        if not own:
            raise DataError(
                "The graph has nothing to train. Use a Subspace, a Mask or a LearnedSource, or evaluate it as it is."
            )
        if own & seen:
            raise DataError(
                "Two of the graphs share parameters, so they cannot be trained apart. Join them into one graph: a + b."
            )
        seen |= own
    if not models:
        raise DataError("There are no graphs to fit.")
    if not len(examples):
        raise DataError("There are no examples to fit to.")
    if recipe.patience is not None and validation is None:
        raise DataError("patience needs validation=...: rows that training does not see.")
