"""DOING IT: the meaning of a node, the backends, the model under a graph, and what must be computed for a dataset."""

from causal_reft.execution.examples import Examples
from causal_reft.execution.inputs import Inputs, RunInputs, parse_inputs
from causal_reft.execution.intervened_model import IntervenedModel
from causal_reft.execution.passes import FullPasses, Passes, TargetLogits
from causal_reft.execution.planning.plan import JointPlan, Plan, plan, plan_all
from causal_reft.execution.serving import Served
from causal_reft.execution.target_positions import TargetPositions

__all__ = [
    "Examples",
    "FullPasses",
    "Inputs",
    "IntervenedModel",
    "JointPlan",
    "Passes",
    "Plan",
    "RunInputs",
    "Served",
    "TargetLogits",
    "TargetPositions",
    "parse_inputs",
    "plan",
    "plan_all",
]
