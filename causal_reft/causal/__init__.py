"""What should happen: causal models, counterfactuals, prompts. No torch in this folder."""

from causal_reft.causal.counterfactuals import CounterfactualDataset, Splits, concat, shared
from causal_reft.causal.mechanisms import rowwise
from causal_reft.causal.model import CausalModel
from causal_reft.causal.preview import Preview
from causal_reft.causal.solved import Solved, keep_solved
from causal_reft.causal.spans import token_offsets, token_spans
from causal_reft.causal.splits import split_settings
from causal_reft.causal.task import Task, next_word
from causal_reft.causal.template import Template

__all__ = [
    "CausalModel",
    "CounterfactualDataset",
    "Preview",
    "Solved",
    "Splits",
    "Task",
    "Template",
    "concat",
    "keep_solved",
    "next_word",
    "rowwise",
    "shared",
    "split_settings",
    "token_offsets",
    "token_spans",
]
