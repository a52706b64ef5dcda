"""MEMORISATION: what an edit of a frozen model's prompt can make it recall, token by token (Wu et al. 2024)."""

from causal_reft.analysis.memorisation.edits import (
    CONTROLS,
    NONE,
    PROMPT_EMBEDDING,
    REFT,
    Edit,
    causal_decoder,
    equal_prompt_embedding,
    layer_edits,
    prompt_embedding,
    reach,
)
from causal_reft.analysis.memorisation.memorise import (
    PROMPT,
    Memory,
    check_context,
    known_prompt,
    memories,
    memorise,
    started,
    warn_of_last_block,
)
from causal_reft.analysis.memorisation.recall import Recall, recall, scores, stored_bits, unedited
from causal_reft.analysis.memorisation.targets import KINDS, Ids, known, read_text, target_ids
from causal_reft.analysis.memorisation.training import LOSSES, Lesson, MemoryRecipe, learn

__all__ = [
    "CONTROLS",
    "KINDS",
    "LOSSES",
    "NONE",
    "PROMPT",
    "PROMPT_EMBEDDING",
    "REFT",
    "Edit",
    "Ids",
    "Lesson",
    "Memory",
    "MemoryRecipe",
    "Recall",
    "causal_decoder",
    "check_context",
    "equal_prompt_embedding",
    "known",
    "known_prompt",
    "layer_edits",
    "learn",
    "memories",
    "memorise",
    "prompt_embedding",
    "reach",
    "read_text",
    "recall",
    "scores",
    "started",
    "stored_bits",
    "target_ids",
    "unedited",
    "warn_of_last_block",
]
