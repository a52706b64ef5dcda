"""What should happen: causal models, counterfactuals, prompts. No torch in this folder."""

from causal_reft.causal.counterfactuals import CounterfactualDataset, Splits, concat, shared
from causal_reft.causal.kinds import (
    CAUSE,
    ISOLATE,
    UNSCORED,
    mean_of_kind,
    row_kinds,
    row_weights,
    scored_rows,
    with_source_inputs,
)
from causal_reft.causal.mechanisms import rowwise
from causal_reft.causal.model import CausalModel
from causal_reft.causal.preview import Preview
from causal_reft.causal.solved import Solved, keep_solved
from causal_reft.causal.spans import token_offsets, token_spans
from causal_reft.causal.splits import split_settings
from causal_reft.causal.task import Task, next_word
from causal_reft.causal.template import Template

__all__ = [
    "CAUSE",
    "ISOLATE",
    "UNSCORED",
    "CausalModel",
    "CounterfactualDataset",
    "Preview",
    "Solved",
    "Splits",
    "Task",
    "Template",
    "concat",
    "keep_solved",
    "mean_of_kind",
    "next_word",
    "row_kinds",
    "row_weights",
    "rowwise",
    "scored_rows",
    "shared",
    "split_settings",
    "token_offsets",
    "token_spans",
    "with_source_inputs",
]
