"""REFT: prompt-completion data and a drop-in trainer. The methods themselves are graphs: see
`causal_reft.graph.presets`.
"""

from causal_reft.reft.context import check_context, context_length
from causal_reft.reft.data import ReftCollator, as_examples, completions, preferences
from causal_reft.reft.fold import fold
from causal_reft.reft.formats import alpaca_prompt
from causal_reft.reft.generate import generate_texts
from causal_reft.reft.labels import classification, regression
from causal_reft.reft.losses import completion_losses
from causal_reft.reft.preference import DPO, RePS
from causal_reft.reft.trainer import ReftTrainer

__all__ = [
    "DPO",
    "RePS",
    "ReftCollator",
    "ReftTrainer",
    "alpaca_prompt",
    "as_examples",
    "check_context",
    "classification",
    "completion_losses",
    "completions",
    "context_length",
    "fold",
    "generate_texts",
    "preferences",
    "regression",
]
