"""A learned choice of coordinates: write(h, z) = inner.write(h, (1 - m) z_h + m z), m in [0, 1]^rank.

Two parametrisations of m. `boundary` keeps the first b * rank coordinates of a full rotation, m_i = sigmoid((b rank -
i)/T) (Boundless DAS, Wu et al. 2023, arXiv 2305.08809; T 50 -> 0.1). `coordinates` has one logit each, m_i =
sigmoid(l_i / T) (desiderata-based masking, DBM; T 1 -> 0.01); `groups` of coordinates, such as heads, may share one.
Training uses the soft mask; evaluation its limit T -> 0, a hard 0/1 mask. The soft mask is not a lens (reading back
gives a mixture), and says so.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn

from causal_reft.errors import FeaturizerError
from causal_reft.featurizers.featurizer import Featurizer
from causal_reft.featurizers.penalty import Penalised
from causal_reft.featurizers.subspace import Subspace
from causal_reft.tensors import Coordinates, Float, Hidden, Rows, Tensor

Kind = Literal["boundary", "coordinates"]
START_TEMPERATURE = {"boundary": 50.0, "coordinates": 1.0}
END_TEMPERATURE = {"boundary": 0.1, "coordinates": 0.01}


class Mask(Featurizer, Penalised):
    """A mask over the coordinates of another featurizer.

    Args:
        inner: the coordinates to choose from: `Subspace(d, d)`, `Identity(d)`, `Autoencoder(...)`.
        kind: "boundary" or "coordinates"; by default boundary over a `Subspace`, coordinates elsewhere.
        temperature: of the soft mask, a positive number; `fit` anneals it from `START_TEMPERATURE` to
            `END_TEMPERATURE` of the kind.
        groups: of coordinates, equally many side by side, that share one logit; by default each has its own. With the
            number of heads, over `Identity(d)` at "attention_head_output", a mask over heads.

    Raises:
        FeaturizerError: another kind; a temperature that is not positive; groups of a boundary, or not equally many.
    """

    is_lens = False

    def __init__(
        self,
        inner: Featurizer,
        kind: Kind | None = None,
        temperature: float | None = None,
        groups: int | None = None,
    ) -> None:
        super().__init__()
        self.inner, self.d_model, self.rank = inner, inner.d_model, inner.rank
        self.kind: Kind = kind or ("boundary" if isinstance(inner, Subspace) else "coordinates")
        if self.kind not in START_TEMPERATURE:
            raise FeaturizerError(f"Mask(kind={kind!r}): allowed are 'boundary' and 'coordinates'.")
        self.temperature = START_TEMPERATURE[self.kind] if temperature is None else temperature
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise FeaturizerError(f"Mask(temperature={temperature}): a positive number, small for a sharp mask.")
        self.groups = groups
        if groups is not None and (self.kind == "boundary" or groups not in range(1, self.rank + 1)):
            raise FeaturizerError(
                f"Mask(groups={groups}): a number of groups from 1 to {self.rank}, of kind='coordinates'. For heads: "
                "Mask(Identity(n_heads * head_width), groups=n_heads)."
            )
        if self.rank % (groups or 1):
            raise FeaturizerError(f"Mask(groups={groups}): {self.rank} coordinates cannot be cut into equal groups.")
        start = torch.tensor([0.5]) if self.kind == "boundary" else torch.zeros(groups or self.rank)
        self.logits = nn.Parameter(start)

    def mask(self) -> Float[Tensor, " rank"]:
        """m: soft while training, hard in evaluation."""
        distance = self._distance()
        return torch.sigmoid(distance / self.temperature) if self.training else (distance > 0).to(distance.dtype)

    def penalty(self) -> Float[Tensor, ""]:
        """How much of the space the mask takes, in [0, 1]: the boundary itself, or the mean of the mask."""
        return self.logits.clamp(1e-3, 1)[0] if self.kind == "boundary" else torch.sigmoid(self.logits).mean()

    def read(self, h: Hidden) -> Coordinates:
        return self.inner.read(h)

    def write(self, h: Hidden, z: Coordinates) -> Hidden:
        m, here = self.mask(), self.inner.read(h)
        m = m.to(torch.promote_types(here.dtype, m.dtype))
        return self.inner.write(h, (1 - m) * here.to(m.dtype) + m * z.to(m.dtype))

    def rows(self) -> Rows | None:
        return self.inner.rows()

    def config(self) -> dict[str, object]:
        grouped = {} if self.groups is None else {"groups": self.groups}
        return {"kind": self.kind, "temperature": self.temperature, **grouped}

    def extra_repr(self) -> str:
        return f"{self.inner!r}, kind={self.kind!r}, temperature={self.temperature:g}" + (
            f", groups={self.groups}" if self.groups else ""
        )

    def _distance(self) -> Float[Tensor, " rank"]:
        """Positive where a coordinate is inside the mask."""
        if self.kind == "coordinates":
            return self.logits.repeat_interleave(self.rank // (self.groups or self.rank))
        boundary = self.logits.clamp(1e-3, 1)
        return boundary * self.rank - torch.arange(self.rank, device=boundary.device, dtype=boundary.dtype)
