"""MEMORISATION: edits x lengths x kinds of text x seeds; one edit after many access ids (Wu et al. 2024)."""

from causal_reft.experiments.memorisation.grid import MemorisationGrid
from causal_reft.experiments.memorisation.ids import access_ids
from causal_reft.experiments.memorisation.result import MemorisationResult

__all__ = ["MemorisationGrid", "MemorisationResult", "access_ids"]
