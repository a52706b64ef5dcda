"""One small loop that trains a graph: AdamW over the graph's parameters, the base model frozen and left as it was
found.

    history = fit(model, examples, epochs=3, lr=1e-3)

Data order and initialisation have separate seeds. Ctrl-C stops and keeps what was learned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from causal_reft.errors import DataError
from causal_reft.execution import Examples, IntervenedModel, Passes, plan
from causal_reft.training.history import History
from causal_reft.training.learner import Data, Learner, mean_loss, train
from causal_reft.training.losses import Loss, cross_entropy
from causal_reft.training.recipe import Recipe

__all__ = ["Recipe", "check", "fit", "fit_many", "frozen", "mean_loss"]


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
        settings: the fields of `Recipe` (epochs, batch_size, lr, schedule, warmup, weight_decay, accumulate, clip,
        penalty
            on masks, patience in epochs, max_steps, seed of the data order).

    Returns:
        The history; the graph's parameters are trained in place.

    Raises:
        DataError: nothing to train, no examples, an unknown setting, patience without validation.
    """
    recipe = _recipe(settings)
    if not list(model.trainable_parameters()):
        raise DataError(
            "The graph has nothing to train. Use a Subspace, a Mask or a LearnedSource, or evaluate it as it is."
        )
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
