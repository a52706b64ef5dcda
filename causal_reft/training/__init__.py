"""FITTING: one loop that trains one graph, or several at once."""

from causal_reft.training.fit import fit, fit_many, frozen
from causal_reft.training.history import History
from causal_reft.training.learner import mean_loss
from causal_reft.training.losses import Loss, cross_entropy, logit_difference, squared_error
from causal_reft.training.recipe import Recipe

__all__ = [
    "History",
    "Loss",
    "Recipe",
    "cross_entropy",
    "fit",
    "fit_many",
    "frozen",
    "logit_difference",
    "mean_loss",
    "squared_error",
]
