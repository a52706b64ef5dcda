"""ANALYSIS: experiments on top of everything else. Memorisation, the geometry of subspaces, composing subspaces."""

from causal_reft.analysis.memorisation import Memory, memorise
from causal_reft.analysis.memorisation_edits import Edit, equal_prompt_embedding, layer_edits, prompt_embedding
from causal_reft.analysis.memorisation_grid import MemorisationGrid
from causal_reft.analysis.memorisation_result import MemorisationResult
from causal_reft.analysis.memorisation_texts import read_text
from causal_reft.analysis.memorisation_training import MemoryRecipe

__all__ = [
    "Edit",
    "MemorisationGrid",
    "MemorisationResult",
    "Memory",
    "MemoryRecipe",
    "equal_prompt_embedding",
    "layer_edits",
    "memorise",
    "prompt_embedding",
    "read_text",
]
