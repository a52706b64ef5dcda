"""ANALYSIS: what one measures of subspaces and edits: geometry, behaviours, composition, memorisation."""

from causal_reft.analysis.memorisation import (
    Edit,
    Memory,
    MemoryRecipe,
    equal_prompt_embedding,
    layer_edits,
    memorise,
    prompt_embedding,
    read_text,
)

__all__ = [
    "Edit",
    "Memory",
    "MemoryRecipe",
    "equal_prompt_embedding",
    "layer_edits",
    "memorise",
    "prompt_embedding",
    "read_text",
]
