"""The whole vector: read(h) = h, write(h, z) = z. With it an interchange is activation patching."""

from __future__ import annotations

import torch

from causal_reft.featurizers.featurizer import Featurizer, check_rank
from causal_reft.tensors import Coordinates, Hidden, Rows


class Identity(Featurizer):
    """All d_model coordinates as they are."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        check_rank(d_model, d_model, "Identity")
        self.d_model = self.rank = d_model

    def read(self, h: Hidden) -> Coordinates:
        return h

    def write(self, h: Hidden, z: Coordinates) -> Hidden:
        return z.to(h.dtype).expand_as(h).clone()

    def rows(self) -> Rows:
        return torch.eye(self.d_model)

    def config(self) -> dict[str, object]:
        return {"d_model": self.d_model}
