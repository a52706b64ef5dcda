"""A featurizer is a lens on a hidden state: it reads coordinates z = F.read(h), and writes them, h' = F.write(h, z).

The lens laws are its contract and its property tests:

    write(h, read(h)) == h        read(write(h, z)) == z        write(write(h, z1), z2) == write(h, z2)

Masters are kept in at least float32; all arithmetic happens in `promote_types(h.dtype, float32)`; coordinates stay in
that precision (so that nothing is rounded between a source run and the base), and `write` returns `h.dtype`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import nn

from causal_reft.display import treescope_repr
from causal_reft.errors import FeaturizerError
from causal_reft.tensors import Coordinates, Float, Hidden, Int, Rows, Tensor

Config = Mapping[str, object]


class Featurizer(nn.Module, ABC):
    """Abstract: in which coordinates a representation is read and written.

    Attributes:
        d_model: width of the hidden states that it reads.
        rank: number of coordinates.
        is_lens: whether the three lens laws hold exactly; a featurizer for which they do not says so here.
    """

    d_model: int
    rank: int
    is_lens: bool = True

    @abstractmethod
    def read(self, h: Hidden) -> Coordinates:
        """The coordinates of h: (..., d_model) -> (..., rank), in at least float32."""

    @abstractmethod
    def write(self, h: Hidden, z: Coordinates) -> Hidden:
        """h with its coordinates changed to z and the rest unchanged; same shape, dtype and device as h."""

    @abstractmethod
    def config(self) -> dict[str, object]:
        """What a JSON file needs, beside the tensors of `state_dict`, to build this again."""

    def of_rows(self, rows: Int[Tensor, " token"]) -> Featurizer:
        """The featurizer for tokens of these rows of a batch: itself, unless it differs by row (serving)."""
        return self

    def rows(self) -> Rows | None:
        """The matrix A with read(h) = A h, or `None` where reading is not linear."""
        return None

    def forward(self, h: Hidden) -> Coordinates:
        """`read`; so that a featurizer is also a module that one can call."""
        return self.read(h)

    def extra_repr(self) -> str:
        """`d_model=64, rank=4`."""
        return f"d_model={self.d_model}, rank={self.rank}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    __treescope_repr__ = treescope_repr


def computing(h: Tensor, *masters: Tensor) -> torch.dtype:
    """The precision to compute in: at least float32, and that of h and of every master."""
    dtype = torch.promote_types(h.dtype, torch.float32)
    for master in masters:
        dtype = torch.promote_types(dtype, master.dtype)
    return dtype


def check_rank(rank: int, d_model: int, owner: str) -> None:
    """Raise unless 1 <= rank <= d_model."""
    if not 1 <= rank <= d_model:
        raise FeaturizerError(
            f"{owner}(d_model={d_model}, rank={rank}): rank must be between 1 and d_model = {d_model}."
        )


def add_in(h: Hidden, delta: Float[Tensor, "... d_model"]) -> Hidden:
    """h + delta in the precision of delta, rounded once to h.dtype."""
    return (h.to(delta.dtype) + delta).to(h.dtype)
