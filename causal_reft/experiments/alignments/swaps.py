"""What of a state is swapped between two runs: a subspace, the whole vector, or whole heads that a mask chooses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

import causal_reft as cr

HEADS = "attention_head_output"


@dataclass(frozen=True)
class Swap:
    """One kind.

    Attributes:
        words: what it is, with the number of coordinates as `{rank}`.
        featurizer: from the number of coordinates and of heads to a study's recipe.
        figures: columns of the study's grid that are drawn, for states and for single heads.
        of_heads: whether it is made of all heads of a layer.
    """

    words: str
    featurizer: Callable[[int, int], Any]
    figures: Sequence[str] = ("iia",)
    of_heads: bool = False


def _mask_over_heads(n_heads: int, d_model: int, seed: int) -> cr.Mask:
    return cr.Mask(cr.Identity(d_model), groups=n_heads)


SWAPS = {
    "subspace": Swap("a subspace of rank {rank}", lambda rank, n_heads: cr.Subspace.of_rank(rank)),
    "whole": Swap("the whole vector", lambda rank, n_heads: cr.Identity, ("iia", "logit_difference")),
    "heads": Swap(
        "the heads that a learned mask takes", lambda rank, n_heads: partial(_mask_over_heads, n_heads), of_heads=True
    ),
}


def heads_taken(result: cr.StudyResult) -> pd.DataFrame:
    """One row per layer, positions and head: the share of seeds whose mask takes it (`taken`)."""
    rows = []
    for fit in result.table.to_dict("records"):
        graph = result.graph({name: fit[name] for name in ("site", "positions", "seed")})
        mask = graph.edits[fit["variable"]].featurizer
        assert isinstance(mask, cr.Mask)
        place = {name: fit[name] for name in ("layer", "positions", "seed")}
        rows += [{**place, "head": head, "taken": float(one)} for head, one in enumerate(mask.logits > 0)]
    return pd.DataFrame(rows).groupby(["layer", "positions", "head"], sort=False)["taken"].mean().reset_index()
