"""REFT: prompt-completion data and a drop-in trainer. The methods themselves are graphs: see
`causal_reft.graph.presets`.
"""

from causal_reft.reft.data import ReftCollator, as_examples, completions
from causal_reft.reft.generate import generate_texts
from causal_reft.reft.trainer import ReftTrainer

__all__ = ["ReftCollator", "ReftTrainer", "as_examples", "completions", "generate_texts"]
