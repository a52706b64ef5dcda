"""The capacity ladder: the same fit with maps of rising capacity, up to one that can align anything.

Ranks 1, 2, 4, ... below the study's own, and a `Flow` of the study's rank. What a low rank reaches is worth more than
what a high one does, and what the Flow reaches on a network with shuffled weights says what capacity alone buys.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from causal_reft.alignment.work import FeaturizerRecipe
from causal_reft.errors import CausalReftWarning
from causal_reft.featurizers import Featurizer, Subspace
from causal_reft.featurizers.flow import Flow


@dataclass(frozen=True)
class FlowOfRank:
    """Builds `Flow(d_model, rank, seed=seed)` without its warning: the ladder's words say it."""

    rank: int

    def __call__(self, d_model: int, seed: int = 0) -> Featurizer:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CausalReftWarning)
            return Flow(d_model, min(self.rank, d_model), seed=seed)


def ladder_recipes(
    recipes: Sequence[FeaturizerRecipe], labels: Sequence[str], width: int
) -> Mapping[str, FeaturizerRecipe]:
    """The steps that the study itself does not fit, by label; none unless it fits a subspace."""
    built = [build(width, 0) for build in recipes]
    ranks = [featurizer.rank for featurizer in built if isinstance(featurizer, Subspace)]
    if not ranks:
        return {}
    steps = {2**k for k in range(max(ranks).bit_length()) if 2**k < max(ranks)} - set(ranks)
    found: dict[str, FeaturizerRecipe] = {f"Subspace of rank {rank}": Subspace.of_rank(rank) for rank in sorted(steps)}
    found |= {f"Flow of rank {max(ranks)}": FlowOfRank(max(ranks))}
    return {label: build for label, build in found.items() if label not in labels}
