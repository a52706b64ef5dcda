"""What is written into the coordinates: a source is a value, and the only thing in which DAS and LoReFT differ.

Collect("source")    z = F.read(s)        the state of another run           interchange, DAS
LearnedSource(...)   z = act(W h + b)     a function that training finds     LoReFT, ConsReFT, ...
LearnedScale(...)    z = s * F.read(h) + b                                   RED, (IA)^3
GatedScale(...)      z = (1 + g m) * F.read(h) + g' a    with learned gates  JoLA
TopLatents(k)        z = mean of the k largest ReLU(F.read(h)) of the text   ReFT-r1, under Shift
Constant, Noise      z = c,  z ~ N(0, std^2)                                 ablations
PerRow(values)       z = c_i for row i of the batch                          one call only
Shift(source)        z = F.read(h) + source                                  adds to the state: steering, DiReFT
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from causal_reft.display import treescope_repr
from causal_reft.errors import GraphError
from causal_reft.featurizers import Featurizer
from causal_reft.featurizers.featurizer import computing
from causal_reft.graph.collect import Collect, EditContext
from causal_reft.graph.learned import LearnedScale, LearnedSource
from causal_reft.graph.learned_with_penalty import GatedScale, TopLatents
from causal_reft.seeds import derive
from causal_reft.tensors import Coordinates, Hidden, Tensor


@dataclass(frozen=True)
class Constant:
    """A fixed value in the featurizer's coordinates, the same in every row of the batch.

    Args:
        value: a number, (rank,), or (n_positions, rank): one value for each token that a row names, in order.

    Raises:
        GraphError: another shape, or numbers that are not finite; in a call, a width that is not the rank, or a row
            that names more or fewer tokens than n_positions. For another value in each row use `PerRow`.
    """

    value: float | int | Sequence[float | int] | Tensor

    def __post_init__(self) -> None:
        value = _as_values(self.value)
        if value.ndim > 2 or 0 in value.shape or not value.is_floating_point():
            raise GraphError(
                f"Constant(value of shape {tuple(value.shape)}, {value.dtype}): give a float, (rank,) or (n_positions, "
                "rank). For another value in each row write PerRow(values)."
            )
        _check_finite("Constant", value)
        object.__setattr__(self, "value", value.detach().clone())

    @property
    def tensor(self) -> Tensor:
        """The value as a tensor."""
        assert isinstance(self.value, Tensor)
        return self.value

    def coordinates(self, h: Hidden, featurizer: Featurizer, context: EditContext) -> Coordinates:
        value = self.tensor.to(h.device)
        if value.ndim and value.shape[-1] != featurizer.rank:
            raise GraphError(f"{self!r} has width {value.shape[-1]}, but {featurizer!r} has rank {featurizer.rank}.")
        if value.ndim == 2:
            self._check_positions(context)
            value = value[context.ordinal].reshape(*h.shape[:-1], featurizer.rank)
        dtype = torch.promote_types(computing(h), value.dtype)
        return value.to(dtype).expand(*h.shape[:-1], featurizer.rank)

    def needs(self) -> tuple[Collect, ...]:
        return ()

    def _check_positions(self, context: EditContext) -> None:
        n, named = len(self.tensor), context.named
        wrong = (named > n) if context.unfinished else (named != n)
        if bool(wrong.any()):
            row, names = int(context.rows[wrong][0]), int(named[wrong][0])
            raise GraphError(
                f"{self!r} holds one value for each of {n} tokens, but row {row} names {names}. Give (rank,) for all "
                f"tokens, or ({names}, rank). If its first axis is the batch, write PerRow(values): row i of the batch "
                "gets values[i]."
            )

    def __repr__(self) -> str:
        return f"Constant({self.tensor.item():g})" if self.tensor.ndim == 0 else f"Constant({list(self.tensor.shape)})"

    __treescope_repr__ = treescope_repr


@dataclass(frozen=True)
class Noise:
    """Gaussian noise with a standard deviation in the units of the coordinates.

    One draw for each named position, the same in every row and at every call, so that batching changes nothing; for
    more draws use more seeds. `Noise` replaces; `Shift(Noise(...))` adds.
    """

    std: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.std) and self.std >= 0):
            raise GraphError(f"Noise(std={self.std}): a standard deviation is a finite number that is not negative.")

    def coordinates(self, h: Hidden, featurizer: Featurizer, context: EditContext) -> Coordinates:
        generator = torch.Generator().manual_seed(derive(self.seed, "noise"))
        count = int(context.ordinal.max()) + 1 if len(context.ordinal) else 0
        draws = [torch.randn(featurizer.rank, generator=generator, dtype=torch.float64) for _ in range(count)]
        table = torch.stack(draws) if draws else torch.zeros(0, featurizer.rank, dtype=torch.float64)
        values = (self.std * table).to(h.device, computing(h))
        return values[context.ordinal].reshape(*h.shape[:-1], featurizer.rank)

    def needs(self) -> tuple[Collect, ...]:
        return ()


@dataclass(frozen=True)
class Shift:
    """Adds the inner source to the coordinates: z = F.read(h) + source.

    After other edits at the same site it adds to their result, so several shifts are their sum in any order.
    """

    source: Collect | Constant | Noise | LearnedSource | TopLatents | PerRow

    def coordinates(self, h: Hidden, featurizer: Featurizer, context: EditContext) -> Coordinates:
        change = self.source.coordinates(h, featurizer, context)
        return featurizer.read(context.now).to(change.dtype) + change

    def needs(self) -> tuple[Collect, ...]:
        return self.source.needs()


@dataclass(frozen=True)
class PerRow:
    """A value of its own for each row of the batch, in the featurizer's coordinates.

    It belongs to calls with exactly these rows (`model(base)`, `generate`): datasets, plans and saved folders, which
    have no such rows, refuse it.

    Args:
        values: (batch, rank) for every named token of a row, or (batch, n_positions, rank) in the order of its tokens.

    Raises:
        GraphError: another shape, or numbers that are not finite; in a call, a batch of another size, a width that is
            not the rank, or a row that names more or fewer tokens than n_positions.
    """

    values: Tensor | Sequence[Sequence[float]]

    def __post_init__(self) -> None:
        values = _as_values(self.values)
        if values.ndim not in (2, 3) or 0 in values.shape or not values.is_floating_point():
            raise GraphError(
                f"PerRow(values of shape {tuple(values.shape)}, {values.dtype}): give (batch, rank) or (batch, "
                "n_positions, rank). For one value in all rows write Constant(value)."
            )
        _check_finite("PerRow", values)
        object.__setattr__(self, "values", values.detach().clone())

    @property
    def tensor(self) -> Tensor:
        """The values as a tensor."""
        assert isinstance(self.values, Tensor)
        return self.values

    def coordinates(self, h: Hidden, featurizer: Featurizer, context: EditContext) -> Coordinates:
        values = self.tensor.to(h.device)
        if values.shape[-1] != featurizer.rank:
            raise GraphError(f"{self!r} has width {values.shape[-1]}, but {featurizer!r} has rank {featurizer.rank}.")
        if len(values) != context.n_rows:
            raise GraphError(f"{self!r} holds {len(values)} rows, but this call has {context.n_rows}.")
        chosen = values[context.rows]
        if values.ndim == 3:
            n, named = values.shape[1], context.named
            wrong = (named > n) if context.unfinished else (named != n)
            if bool(wrong.any()):
                raise GraphError(
                    f"{self!r} holds one value for each of {n} tokens, but row {int(context.rows[wrong][0])} names "
                    f"{int(named[wrong][0])}. Give (batch, rank) for all tokens of a row."
                )
            chosen = chosen[torch.arange(len(chosen), device=h.device), context.ordinal]
        return chosen.to(torch.promote_types(computing(h), values.dtype)).reshape(*h.shape[:-1], featurizer.rank)

    def needs(self) -> tuple[Collect, ...]:
        return ()

    def __repr__(self) -> str:
        return f"PerRow({list(self.tensor.shape)})"

    __treescope_repr__ = treescope_repr


class RowSource(ABC):
    """Abstract: a source that differs by row of the batch, as graphs that are served together have it; never saved."""

    @abstractmethod
    def coordinates(self, h: Hidden, featurizer: Featurizer, context: EditContext) -> Coordinates:
        """The coordinates for the edited tokens, (token, rank)."""

    def needs(self) -> tuple[Collect, ...]:
        return ()


Learned = LearnedSource | LearnedScale | GatedScale | TopLatents
Source = Collect | Constant | Noise | Learned | Shift | PerRow | RowSource


def _as_values(value: object) -> Tensor:
    try:
        return value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise GraphError(f"{value!r} is not a table of numbers ({error}). Give a float, a list or a tensor.") from error


def _check_finite(owner: str, values: Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        raise GraphError(f"{owner}(...) holds NaN or infinity.")
