"""Unconstrained rows A (NoReFT, NodiReFT): read(h) = A h, write(h, z) = h + A^T (z - A h). Not a lens, and says so.

Without A A^T = 1 the second law fails: reading back what was written gives A A^T z + (1 - A A^T) A h.
Wu et al. 2024 (arXiv 2404.03592), ablations.
"""

from __future__ import annotations

import torch
from torch import nn

from causal_reft.featurizers.featurizer import Featurizer, add_in, check_rank, computing
from causal_reft.seeds import derive
from causal_reft.tensors import Coordinates, Hidden, Rows


class Projection(Featurizer):
    """`rank` free rows of width d_model, initialised uniform in +-1/sqrt(d_model) as `nn.Linear` does."""

    is_lens = False

    def __init__(self, d_model: int, rank: int, seed: int = 0) -> None:
        super().__init__()
        check_rank(rank, d_model, "Projection")
        self.d_model, self.rank, self.seed = d_model, rank, seed
        generator = torch.Generator().manual_seed(derive(seed, "projection"))
        self.weight = nn.Parameter((torch.rand(rank, d_model, generator=generator) * 2 - 1) / d_model**0.5)

    def read(self, h: Hidden) -> Coordinates:
        dtype = computing(h, self.weight)
        return h.to(dtype) @ self.weight.to(dtype).mT

    def write(self, h: Hidden, z: Coordinates) -> Hidden:
        rows = self.weight.to(computing(h, self.weight, z))
        change = z.to(rows.dtype) - h.to(rows.dtype) @ rows.mT
        return add_in(h, change @ rows)

    def rows(self) -> Rows:
        return self.weight

    def config(self) -> dict[str, object]:
        return {"d_model": self.d_model, "rank": self.rank, "seed": self.seed}
