"""MEMORISATION: what an edit of a frozen model's prompt can make it recall, token by token (Wu et al. 2024)."""

from causal_reft.analysis.memorisation.edits import Edit, equal_prompt_embedding, layer_edits, prompt_embedding
from causal_reft.analysis.memorisation.memorise import Memory, memorise
from causal_reft.analysis.memorisation.targets import read_text
from causal_reft.analysis.memorisation.training import MemoryRecipe

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
