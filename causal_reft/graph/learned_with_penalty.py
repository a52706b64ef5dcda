"""Trained sources that add a term to the loss while they are trained: see `featurizers/penalty.py`."""

from __future__ import annotations

import math
import warnings

import torch
from torch import nn

from causal_reft.display import treescope_repr
from causal_reft.errors import CausalReftWarning, GraphError
from causal_reft.featurizers import Featurizer, Penalised, note, noted
from causal_reft.featurizers.featurizer import computing
from causal_reft.graph.collect import Collect, EditContext
from causal_reft.tensors import Coordinates, Float, Hidden, Tensor

TEMPERATURE, LOW, HIGH = 0.33, -0.1, 1.1  # of the gates, as in JoLA's code
FURTHEST = 1e-6  # draws stay as far from 0 and 1
SILENT = 3  # forwards in training without a latent above zero, after which a direction is taken to learn nothing


class GatedScale(nn.Module, Penalised):
    """z = (1 + g_m m) * F.read(h) + g_a a, elementwise, with two gates in [0, 1] that training opens or closes.

    At the output of an attention head it is JoLA's edit (Lai et al. 2025, arXiv 2502.01179). The gates are hard
    concrete (Louizos et al. 2018, arXiv 1712.01312): with a logit l and u uniform in (0, 1), which torch draws once a
    forward, as it does for dropout,

        g = clamp(1.2 s - 0.1, 0, 1)     s = sigmoid((log u - log(1 - u) + l) / 0.33) in training, sigmoid(l) otherwise

    and the penalty is the expected number of open gates, the sum of sigmoid(l - 0.33 log(0.1 / 1.1)). It starts at m =
    a = 0, which is no edit, with both logits at 0.

    Args:
        rank: coordinates that it scales.
    """

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.weight, self.bias, self.logits = (nn.Parameter(torch.zeros(n)) for n in (rank, rank, 2))

    def gates(self, training: bool) -> Float[Tensor, "2"]:
        """(g_m, g_a)."""
        logits = self.logits
        if training:
            u = torch.rand_like(logits) * (1 - 2 * FURTHEST) + FURTHEST
            logits = (u.log() - (1 - u).log() + logits) / TEMPERATURE
        return (torch.sigmoid(logits) * (HIGH - LOW) + LOW).clamp(0, 1)

    def penalty(self) -> Float[Tensor, ""]:
        """The expected number of open gates, in [0, 2]."""
        return torch.sigmoid(self.logits - TEMPERATURE * math.log(-LOW / HIGH)).sum()

    def coordinates(self, h: Hidden, featurizer: Featurizer, context: EditContext) -> Coordinates:
        dtype = computing(h, self.weight)
        of_weight, of_bias = self.gates(context.training).to(dtype)
        z = featurizer.read(h).to(dtype)
        return z + of_weight * self.weight.to(dtype) * z + of_bias * self.bias.to(dtype)

    def needs(self) -> tuple[Collect, ...]:
        return ()

    def config(self) -> dict[str, object]:
        return {"rank": self.rank}

    def __repr__(self) -> str:
        return f"GatedScale(rank={self.rank})"

    __treescope_repr__ = treescope_repr


class TopLatents(nn.Module, Penalised):
    """z = the mean of the k largest latents ReLU(F.read(h)) among the named tokens of a row, the same at all of them.

    Under `Shift` in one direction v it is the training edit of ReFT-r1, h + mean(top-k ReLU(h v)) v (Wu et al. 2025,
    arXiv 2501.17148). A row that names fewer than k tokens has the mean of all. The penalty is the L1 norm of the
    other latents, divided by the row's tokens and averaged over rows. A direction whose latents are all zero has no
    gradient; where those of the first forwards in training are, a warning says so.

    Since every token's edit depends on all of them, also on later ones, it is for training: `steer_latents` makes the
    edit that generates.

    Args:
        k: how many latents of a row are averaged.

    Raises:
        GraphError: k is no positive whole number; in a call, rows of which the forward computes only a part (decoding,
            beams).
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise GraphError(f"TopLatents(k={k!r}): a whole number from 1 on.")
        self.k, self._silent = k, 0

    def penalty(self) -> Float[Tensor, ""]:
        """That of the forwards of this step, summed."""
        return noted(self)

    def coordinates(self, h: Hidden, featurizer: Featurizer, context: EditContext) -> Coordinates:
        latents, rows = torch.relu(featurizer.read(h)), context.rows
        n = torch.bincount(rows, minlength=context.n_rows)
        if context.unfinished or bool((n[rows] != context.named).any()):
            raise GraphError(
                f"{self!r} compares all tokens of a row, and this forward computes some of them (decoding, or beams). "
                "To generate, add a fixed multiple of the direction: steer_latents(model, texts, alpha)."
            )
        table = latents.new_full((len(n), int(n.max()), latents.shape[-1]), -1)  # below every latent
        ordered = table.index_put((rows, context.ordinal), latents).sort(1, descending=True).values
        top, others = (part.clamp_min(0).sum(1) for part in (ordered[:, : self.k], ordered[:, self.k :]))
        if context.training:
            self._watch(top)
            used = n > 0
            term = (others[used] / n[used, None]).sum(1).mean()
            note(self, term, trained=any(p.requires_grad for p in featurizer.parameters()))
        return (top / n.clamp(1, self.k)[:, None])[rows]

    def _watch(self, top: Tensor) -> None:
        """Warn where the first forwards in training see no latent above zero."""
        if self._silent >= SILENT:
            return
        self._silent = SILENT + 1 if bool((top > 0).any()) else self._silent + 1
        if self._silent == SILENT:
            warnings.warn(
                f"{self!r}: every latent of the first {SILENT} batches is zero, and so is the gradient of the "
                "direction: it learns nothing. Start from another one, as with reft_r1(..., seed=1).",
                CausalReftWarning,
                stacklevel=2,
            )

    def needs(self) -> tuple[Collect, ...]:
        return ()

    def config(self) -> dict[str, object]:
        return {"k": self.k}

    def __repr__(self) -> str:
        return f"TopLatents(k={self.k})"

    __treescope_repr__ = treescope_repr
