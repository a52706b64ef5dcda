"""DOING IT: the meaning of a node, the executors, the model under a graph, and what must be computed for a dataset."""

from causal_reft.execution.examples import Examples, Reads
from causal_reft.execution.inputs import Inputs, RunInputs, parse_inputs
from causal_reft.execution.intervened_model import IntervenedModel
from causal_reft.execution.passes import FullPasses, Passes, Scored
from causal_reft.execution.planning.plan import JointPlan, Plan, plan, plan_all
from causal_reft.execution.serving import Served

__all__ = [
    "Examples",
    "FullPasses",
    "Inputs",
    "IntervenedModel",
    "JointPlan",
    "Passes",
    "Plan",
    "Reads",
    "RunInputs",
    "Scored",
    "Served",
    "parse_inputs",
    "plan",
    "plan_all",
]
