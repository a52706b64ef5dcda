"""A linear subspace, the coordinates of DAS and LoReFT: read(h) = R h, write(h, z) = h + R^T (z - R h), R R^T = 1.

Geiger, Wu, Potts, Icard, Goodman 2023 (arXiv 2303.02536); Wu et al. 2024 (arXiv 2404.03592).
"""

from __future__ import annotations

import torch

from causal_reft.errors import FeaturizerError
from causal_reft.featurizers.featurizer import Featurizer, add_in, check_rank, computing
from causal_reft.featurizers.orthonormal import Rotation, orthonormal_rows
from causal_reft.tensors import Coordinates, Float, Hidden, Rows, Tensor


class Subspace(Featurizer):
    """The subspace spanned by `rank` trainable orthonormal rows.

    Args:
        d_model: width of the hidden states.
        rank: dimension of the subspace.
        seed: of the random initial rows.
    """

    def __init__(
        self,
        d_model: int,
        rank: int,
        seed: int = 0,
        *,
        _basis: Rotation | None = None,
        _slice: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        check_rank(rank, d_model, "Subspace")
        self.d_model, self.rank, self.seed = d_model, rank, seed
        self.basis = _basis if _basis is not None else Rotation.random(rank, d_model, seed)
        self.slice = _slice or (0, rank)

    @property
    def rotation(self) -> Rows:
        """The orthonormal rows R, (rank, d_model), in the precision of the master."""
        return self._rows(self.basis.master.dtype)

    def read(self, h: Hidden) -> Coordinates:
        dtype = computing(h, self.basis.master)
        return h.to(dtype) @ self._rows(dtype).mT

    def write(self, h: Hidden, z: Coordinates) -> Hidden:
        rows = self._rows(computing(h, self.basis.master, z))
        change = z.to(rows.dtype) - h.to(rows.dtype) @ rows.mT
        return add_in(h, change @ rows)

    def rows(self) -> Rows:
        return self.rotation

    def split(self, **ranks: int) -> dict[str, Subspace]:
        """Orthogonal slices of this one rotation, by name, in order: `R.split(german=4, instruct=4)`.

        The slices share the master: training one moves the frame of all, so train them in mixed batches.

        Raises:
            FeaturizerError: the ranks do not add up to this rank.
        """
        if sum(ranks.values()) != self.rank:
            raise FeaturizerError(
                f"split({', '.join(f'{n}={r}' for n, r in ranks.items())}) takes {sum(ranks.values())} of {self.rank} "
                f"rows. Name every row; rows for later use are a slice too: rest={self.rank - sum(ranks.values())}."
            )
        parts, start = {}, self.slice[0]
        for name, rank in ranks.items():
            parts[name] = Subspace(self.d_model, rank, self.seed, _basis=self.basis, _slice=(start, start + rank))
            start += rank
        return parts

    @staticmethod
    def from_rows(rows: Float[Tensor, "rank d_model"]) -> Subspace:
        """The subspace spanned by given rows (orthonormalised in Gram-Schmidt order), (rank, d_model).

        Raises:
            FeaturizerError: the rows are linearly dependent.
        """
        master = rows.detach().to(torch.promote_types(rows.dtype, torch.float32))
        subspace = Subspace(rows.shape[1], rows.shape[0], _basis=Rotation(master))
        _ = subspace.rotation
        return subspace

    @staticmethod
    def within(basis: Float[Tensor, "width d_model"], rank: int, seed: int = 0) -> Subspace:
        """A trainable subspace inside the span of given rows, (width, d_model): R = Q B, with B their orthonormal rows
        and Q the orthonormal rows (rank, width) that are learned. B stays as it is.

        Args:
            basis: independent rows, e.g. of `varied_directions` or `read_directions`.
            rank: dimension of the subspace, at most the number of rows.
            seed: of the random initial Q.

        Raises:
            FeaturizerError: no matrix of finite rows; rank > width; rows that are linearly dependent.
        """
        if basis.ndim != 2 or not bool(torch.isfinite(basis).all()):
            raise FeaturizerError(
                f"Subspace.within(rank={rank}): the basis is a matrix of finite numbers, (rows, d_model); this one has "
                f"the shape {tuple(basis.shape)}" + (" and NaN or infinity in it." if basis.ndim == 2 else ".")
            )
        width, d_model = basis.shape
        if not 1 <= rank <= width:
            raise FeaturizerError(
                f"Subspace.within(rank={rank}): the basis has {width} rows, so the rank is from 1 to {width}. Take a "
                "lower rank, or give it more rows."
            )
        if width > d_model:
            raise FeaturizerError(
                f"Subspace.within: {width} rows of width {d_model} depend on each other. Give independent ones, e.g. "
                "torch.linalg.svd(basis, full_matrices=False).Vh[:k]."
            )
        rows = orthonormal_rows(basis.detach().to(torch.float64))
        within = rows.to(torch.promote_types(basis.dtype, torch.float32))
        return Subspace(d_model, rank, seed, _basis=Rotation(Rotation.random(rank, width, seed).master, within))

    @staticmethod
    def pca(states: Float[Tensor, "... d_model"], rank: int) -> Subspace:
        """The top `rank` principal directions of states (..., d_model); the complement stays untouched by `write`.

        Raises:
            FeaturizerError: fewer than `rank` independent directions in the states.
        """
        flat = states.detach().reshape(-1, states.shape[-1]).to(torch.float64)
        _, values, directions = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
        rounding = torch.finfo(values.dtype).eps * max(float(values[0]) * max(flat.shape), 8 * float(flat.norm()))
        there = int((values > rounding).sum())
        if not 1 <= rank <= there:
            raise FeaturizerError(
                f"Subspace.pca(rank={rank}): {len(flat)} states of width {flat.shape[1]} vary in {there} directions "
                f"around their mean. Give more states, or a rank from 1 to {there}."
            )
        return Subspace.from_rows(directions[:rank].to(torch.promote_types(states.dtype, torch.float32)))

    @staticmethod
    def of_rank(rank: int) -> SubspaceOfRank:
        """A recipe for studies, where the width is known only at each site: `of_rank(4)(d_model, seed) -> Subspace`."""
        return SubspaceOfRank(rank)

    def config(self) -> dict[str, object]:
        return {"d_model": self.d_model, "rank": self.rank, "seed": self.seed, "slice": list(self.slice)}

    def extra_repr(self) -> str:
        total = self.basis.master.shape[0]
        part = "" if total == self.rank else f", rows {self.slice[0]}-{self.slice[1] - 1} of {total}"
        inside = "" if self.basis.within is None else f", within {len(self.basis.within)} rows"
        return f"d_model={self.d_model}, rank={self.rank}{part}{inside}"

    def _rows(self, dtype: torch.dtype) -> Rows:
        start, stop = self.slice
        return self.basis.rows(dtype)[start:stop]


class SubspaceOfRank:
    """Calls to `Subspace(d_model, rank, seed)` with the rank decided beforehand; a value that prints and pickles."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def __call__(self, d_model: int, seed: int = 0) -> Subspace:
        return Subspace(d_model, self.rank, seed)

    def __repr__(self) -> str:
        return f"Subspace.of_rank({self.rank})"


def principal_angles(
    one: Float[Tensor, "rank_one d_model"], two: Float[Tensor, "rank_two d_model"]
) -> Float[Tensor, " smaller"]:
    """The principal angles between two row spans, in degrees, ascending (Bjorck and Golub 1973).

    Small angles come from sines and large ones from cosines, so both ends are exact to rounding.
    """
    a, b = (Subspace.from_rows(rows.to(torch.float64)).rotation for rows in (one, two))
    if len(a) < len(b):
        a, b = b, a
    cosines = torch.linalg.svdvals(a @ b.mT).clamp(max=1)
    sines = torch.linalg.svdvals(b - (b @ a.mT) @ a).clamp(max=1).flip(0)
    return torch.rad2deg(torch.where(cosines**2 > 0.5, sines.arcsin(), cosines.arccos())).detach()
