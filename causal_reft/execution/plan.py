"""From a graph, a model and data: what must be computed, and no more."""

from __future__ import annotations

from causal_reft.execution.examples import Examples
from causal_reft.execution.intervened_model import IntervenedModel
from causal_reft.execution.passes import FullPasses, Passes


def plan(model: IntervenedModel, examples: Examples) -> Passes:
    """The cheapest exact way to compute the logits that the labels read."""
    return FullPasses(model, examples)
