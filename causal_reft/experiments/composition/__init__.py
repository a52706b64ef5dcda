"""COMPOSITION: ways of learning two skills and of putting them together, measured on held-out prompts."""

from causal_reft.experiments.composition.command import embedded_experiment
from causal_reft.experiments.composition.experiment import Experiment
from causal_reft.experiments.composition.methods import METHODS
from causal_reft.experiments.composition.sweep import run_composition

__all__ = ["METHODS", "Experiment", "embedded_experiment", "run_composition"]
