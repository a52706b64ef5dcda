"""Orthonormal rows from a plain (rank, d_model) parameter, in O(rank^2 d_model) time and O(rank d_model) memory.

Cholesky-QR: with M the parameter, G = M M^T its Gram matrix and L its Cholesky factor, R = L^-1 M has orthonormal rows
with the same span, row by row as Gram-Schmidt would give them. Done twice it is as orthonormal as Householder QR;
where the Gram matrix is too ill-conditioned for Cholesky, thin QR with positive diagonal gives the same rows.
Gradients flow through both. Compared with a Householder parametrisation there is no d_model x d_model buffer (Yamamoto
et al. 2015, CholeskyQR2).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from causal_reft.errors import FeaturizerError
from causal_reft.featurizers.block_value import BlockValue
from causal_reft.seeds import derive
from causal_reft.tensors import Float, Rows, Tensor

_WORST_PIVOT = 1e-2


_memo = BlockValue[dict[tuple[object, ...], Tensor]]("rotations computed in this step")


def orthonormal_rows(master: Float[Tensor, "*stack rank d_model"]) -> Float[Tensor, "*stack rank d_model"]:
    """Rows that span the same space as the master's rows, orthonormal, in Gram-Schmidt order. Stacks are allowed.

    Raises:
        FeaturizerError: the rows are linearly dependent or not finite.
    """
    scaled = master / master.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(master.dtype).tiny)
    first, pivots = _cholesky_rows(scaled)
    if first is None or not bool(pivots.amin() > _WORST_PIVOT):
        return _qr_rows(scaled)
    second, _ = _cholesky_rows(first)
    return first if second is None else second


def _cholesky_rows(rows: Tensor) -> tuple[Tensor | None, Tensor]:
    lower, info = torch.linalg.cholesky_ex(rows @ rows.mT)
    if bool((info != 0).any()):
        return None, lower
    return torch.linalg.solve_triangular(lower, rows, upper=False), lower.diagonal(dim1=-2, dim2=-1)


def _qr_rows(rows: Tensor) -> Tensor:
    q, r = torch.linalg.qr(rows.mT)
    pivots = r.diagonal(dim1=-2, dim2=-1)
    if not bool(torch.isfinite(pivots).all()) or bool((pivots.abs() < 8 * torch.finfo(rows.dtype).eps).any()):
        raise FeaturizerError(
            "The rows of a rotation are linearly dependent or not finite, so they span no subspace of this rank. "
            "If this came up in training, lower the learning rate; from from_rows, give independent rows."
        )
    return (q * pivots.sign()[..., None, :]).mT


class Rotation(nn.Module):
    """The trainable master M of one or several subspaces: a (rank, d_model) parameter whose orthonormal rows are used.

    Inside given rows B (k, d_model), which stay as they are, M is (rank, k) and the rows are those of M B.
    """

    def __init__(
        self, master: Float[Tensor, "rank width"], within: Float[Tensor, "width d_model"] | None = None
    ) -> None:
        super().__init__()
        self.master = nn.Parameter(_copied(master))
        self.within = None if within is None else nn.Parameter(_copied(within), requires_grad=False)

    @property
    def d_model(self) -> int:
        """The width of the rows."""
        return (self.master if self.within is None else self.within).shape[1]

    @staticmethod
    def random(rank: int, d_model: int, seed: int) -> Rotation:
        """Rows drawn uniformly (Haar) from the sphere's orthonormal frames."""
        return Rotation(random_frames(1, rank, d_model, seed)[0])

    def rows(self, dtype: torch.dtype) -> Rows:
        """The orthonormal rows (rank, d_model), computed in `dtype`; once per `computed_once` block."""
        memo = _memo.get()
        if memo is None:
            return self._rows(dtype)
        key = (self, dtype, self.master.device, self.master._version, torch.is_grad_enabled())
        if key not in memo:
            memo[key] = self._rows(dtype)
        return memo[key]

    def _rows(self, dtype: torch.dtype) -> Rows:
        master = self.master.to(dtype)
        return orthonormal_rows(master if self.within is None else master @ self.within.to(dtype))


def _copied(rows: Tensor) -> Tensor:
    """In the layout that a saved tensor has, as another one rounds otherwise."""
    return rows.detach().clone(memory_format=torch.contiguous_format)


def random_frames(count: int, rank: int, d_model: int, seed: int) -> Float[Tensor, "count rank d_model"]:
    """`count` independent random orthonormal frames (Haar distribution), float32, reproducible by seed."""
    generator = torch.Generator().manual_seed(derive(seed, "rotation"))
    return orthonormal_rows(torch.randn(count, rank, d_model, generator=generator))


@contextmanager
def computed_once() -> Iterator[None]:
    """Inside, every rotation is orthonormalised at most once (one training step; one whole evaluation).

    An inner block joins the outer one. Leave the block before parameters change by a path that hides it from autograd.
    """
    if _memo.get() is not None:
        yield
        return
    with _memo.during({}):
        yield


@contextmanager
def uncached() -> Iterator[None]:
    """Inside, rotations are computed anew, as a part of the forward that backward recomputes must do both times."""
    with _memo.during(None):
        yield
