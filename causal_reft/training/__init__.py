"""FITTING: one loop that trains a graph."""

from causal_reft.training.fit import Recipe, fit, fit_many, frozen, mean_loss
from causal_reft.training.history import History
from causal_reft.training.losses import Loss, cross_entropy, logit_difference

__all__ = ["History", "Loss", "Recipe", "cross_entropy", "fit", "fit_many", "frozen", "logit_difference", "mean_loss"]
