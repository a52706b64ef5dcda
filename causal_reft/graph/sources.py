"""What is written into the coordinates: a source is a value, and the only thing in which DAS and LoReFT differ.

Collect("source")    z = F.read(s)        the state of another run           interchange, DAS
LearnedSource(...)   z = act(W h + b)     a function that training finds     LoReFT, ConsReFT, ...
LearnedScale(...)    z = s * F.read(h) + b                                   RED, (IA)^3
Constant, Noise      z = c,  z ~ N(0, std^2)                                 ablations
PerRow(values)       z = c_i for row i of the batch                          one call only
Shift(source)        z = F.read(h) + source                                  adds to the state: steering, DiReFT
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from causal_reft.errors import GraphError, nearest
from causal_reft.featurizers import Featurizer
from causal_reft.featurizers.featurizer import computing
from causal_reft.seeds import derive
from causal_reft.sites import Site
from causal_reft.tensors import Coordinates, Hidden, Int, Tensor

ACTIVATIONS = {
    "relu": torch.relu,
    "gelu": nn.functional.gelu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "silu": nn.functional.silu,
}


@dataclass(frozen=True)
class Collect:
    """The state at a site of a run, read through a featurizer.

    As a node of its own it ends up in `.collected[name]`; as the source of an `Interchange` it feeds the edit.

    Args:
        run: the name of the run that it is taken from.
        site: where; by default the site of the interchange that it feeds.
        featurizer: how it is read; by default that of the interchange it feeds, or the whole vector.
    """

    run: str = "source"
    site: Site | None = None
    featurizer: Featurizer | None = None

    def __post_init__(self) -> None:
        if not self.run.isidentifier():
            raise GraphError(
                f"Collect(run={self.run!r}): a run is a keyword of the call, so its name must be an identifier."
            )

    def at(self, site: Site) -> Collect:
        """This collect with its site filled in where it was left open."""
        return self if self.site is not None else replace(self, site=site)

    def coordinates(self, h: Hidden, featurizer: Featurizer, context: EditContext) -> Coordinates:
        reader, state = self.featurizer or featurizer, context.state(self)
        if state.shape[-1] != reader.d_model:
            raise GraphError(
                f"{self!r} gives states of width {state.shape[-1]}, but they are read by {reader!r}. "
                f"Name a site of that width, or give Collect a featurizer of its own."
            )
        return reader.read(state)

    def needs(self) -> tuple[Collect, ...]:
        return (self,)

    def __repr__(self) -> str:
        parts = [repr(self.run)]
        if self.site is not None:
            parts.append(f"site={self.site!r}")
        if self.featurizer is not None:
            parts.append(f"featurizer={self.featurizer!r}")
        return f"Collect({', '.join(parts)})"


class EditContext(ABC):
    """What a source may know about the tokens of one edit."""

    @abstractmethod
    def state(self, collect: Collect) -> Hidden:
        """The collected states, one for each edited token, (token, d_model of the collected site)."""

    @property
    @abstractmethod
    def ordinal(self) -> Int[Tensor, " token"]:
        """The number of each edited token among the named tokens of its row."""

    @property
    @abstractmethod
    def named(self) -> Int[Tensor, " token"]:
        """How many tokens the row of each edited token names."""

    @property
    @abstractmethod
    def unfinished(self) -> bool:
        """Whether decoding may add named tokens."""

    @property
    @abstractmethod
    def rows(self) -> Int[Tensor, " token"]:
        """The row of the inputs of each edited token."""

    @property
    @abstractmethod
    def n_rows(self) -> int:
        """How many rows the inputs have."""

    @property
    @abstractmethod
    def now(self) -> Hidden:
        """The edited tokens' states after the earlier edits at the same site, (token, d_model)."""


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


class LearnedSource(nn.Module):
    """z = act(W h + b), found by training (Wu et al. 2024, arXiv 2404.03592: the learned projected source of LoReFT).

    Args:
        rank: coordinates that it writes.
        d_model: width of what it reads.
        reads_input: False leaves z = b (ConsReFT, LobiReFT).
        bias: whether there is a b; the attribute `bias` is the parameter, (rank,), or None.
        activation: None (linear), "relu", "gelu", "tanh", "sigmoid" or "silu".
        reads: read another site of the same run instead: `Collect("base", site)` (schematic ReFT).
        init: "identity" starts W at the featurizer's rows (at 0 under `Shift`) and b at 0 when the node is built,
            so that training starts from no edit; "random" as `nn.Linear` does.
        seed: of the random start.
    """

    def __init__(
        self,
        rank: int,
        d_model: int,
        reads_input: bool = True,
        bias: bool = True,
        activation: str | None = None,
        reads: Collect | None = None,
        init: str = "identity",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if activation is not None and activation not in ACTIVATIONS:
            raise GraphError(f"LearnedSource(activation={activation!r}). {nearest(activation, ACTIVATIONS)}")
        if init not in ("identity", "random"):
            raise GraphError(f"LearnedSource(init={init!r}). {nearest(init, ['identity', 'random'])}")
        if not reads_input and (reads is not None or not bias):
            raise GraphError("LearnedSource(reads_input=False) is only its bias: it takes bias=True and no reads=.")
        if reads is not None and (reads.site is None or reads.featurizer is not None):
            raise GraphError(
                "LearnedSource(reads=Collect(...)) needs the site whose whole vector it reads: Collect('base', "
                "Site(3))."
            )
        self.rank, self.d_model, self.reads_input = rank, d_model, reads_input
        self.activation, self.reads, self.init, self.seed = activation, reads, init, seed
        self.started = init == "random"
        generator = torch.Generator().manual_seed(derive(seed, "learned source"))
        bound = d_model**-0.5
        start, start_bias = (
            (torch.rand(*shape, generator=generator) * 2 - 1) * bound for shape in ((rank, d_model), (rank,))
        )
        self.weight = nn.Parameter(start) if reads_input else None
        self.bias = nn.Parameter(start_bias) if bias else None

    @torch.no_grad()
    def start_from(self, featurizer: Featurizer, shifted: bool) -> None:
        """Called when a node is built: with init="identity", start from no edit. Later nodes that share this source
        leave it as it is.

        Raises:
            GraphError: no W and b exist for which the edit does nothing.
        """
        if self.started:
            return
        if self.bias is not None:
            self.bias.zero_()
        if self.weight is not None:
            rows = featurizer.rows()
            if shifted and self.activation in ("relu", "sigmoid"):
                raise GraphError(
                    f"LearnedSource(init='identity', activation={self.activation!r}) under Shift cannot start from no "
                    "edit: at 0 the activation is "
                    f"{'flat, so nothing would be learned' if self.activation == 'relu' else 'not 0'}. Pass "
                    "init='random'."
                )
            if shifted:
                self.weight.zero_()
            elif self.reads is not None or self.activation is not None or rows is None:
                reason = (
                    "another site is read"
                    if self.reads
                    else "the activation is not linear"
                    if self.activation
                    else f"{featurizer!r} is not linear"
                )
                raise GraphError(
                    f"LearnedSource(init='identity') cannot start from no edit here: {reason}. Pass init='random'."
                )
            else:
                self.weight.copy_(rows)
        self.started = True

    def coordinates(self, h: Hidden, featurizer: Featurizer, context: EditContext) -> Coordinates:
        read = h if self.reads is None else context.state(self.reads)
        if read.shape[-1] != self.d_model:
            raise GraphError(
                f"{self!r} reads states of width {read.shape[-1]}. Build it with d_model={read.shape[-1]}."
            )
        masters = [master for master in (self.weight, self.bias) if master is not None]
        dtype = computing(h, *masters)
        z = torch.zeros(*h.shape[:-1], self.rank, dtype=dtype, device=h.device)
        if self.weight is not None:
            z = read.to(dtype) @ self.weight.to(dtype).mT
        if self.bias is not None:
            z = z + self.bias.to(dtype)
        return z if self.activation is None else ACTIVATIONS[self.activation](z)

    def needs(self) -> tuple[Collect, ...]:
        return () if self.reads is None else (self.reads,)

    def config(self) -> dict[str, object]:
        names = ("rank", "d_model", "reads_input", "activation", "init", "seed")
        return {**{name: getattr(self, name) for name in names}, "bias": self.bias is not None}

    def extra_repr(self) -> str:
        options = [] if self.reads_input else ["reads_input=False"]
        options += ["bias=False"] if self.bias is None else []
        options += [f"activation={self.activation!r}"] if self.activation else []
        options += [f"reads={self.reads!r}"] if self.reads else []
        return ", ".join([f"rank={self.rank}", f"d_model={self.d_model}", *options])

    def __repr__(self) -> str:
        return f"LearnedSource({self.extra_repr()})"


class LearnedScale(nn.Module):
    """z = s * F.read(h) + b, elementwise and trained; starts at s = 1 and b = 0, which is no edit.

    With the whole vector it is RED (Wu et al. 2024, arXiv 2402.15179), without b (IA)^3 (Liu et al. 2022, arXiv
    2205.05638).

    Args:
        rank: coordinates that it scales.
        bias: whether there is a b; the attribute `bias` is the parameter, (rank,), or None.
    """

    def __init__(self, rank: int, bias: bool = True) -> None:
        super().__init__()
        self.rank = rank
        self.weight = nn.Parameter(torch.ones(rank))
        self.bias = nn.Parameter(torch.zeros(rank)) if bias else None

    def coordinates(self, h: Hidden, featurizer: Featurizer, context: EditContext) -> Coordinates:
        dtype = computing(h, self.weight)
        z = featurizer.read(h).to(dtype) * self.weight.to(dtype)
        return z if self.bias is None else z + self.bias.to(dtype)

    def needs(self) -> tuple[Collect, ...]:
        return ()

    def config(self) -> dict[str, object]:
        return {"rank": self.rank, "bias": self.bias is not None}

    def __repr__(self) -> str:
        return f"LearnedScale(rank={self.rank}{'' if self.bias is not None else ', bias=False'})"


@dataclass(frozen=True)
class Shift:
    """Adds the inner source to the coordinates: z = F.read(h) + source.

    After other edits at the same site it adds to their result, so several shifts are their sum in any order.
    """

    source: Collect | Constant | Noise | LearnedSource | PerRow

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


class RowSource(ABC):
    """Abstract: a source that differs by row of the batch, as graphs that are served together have it; never saved."""

    @abstractmethod
    def coordinates(self, h: Hidden, featurizer: Featurizer, context: EditContext) -> Coordinates:
        """The coordinates for the edited tokens, (token, rank)."""

    def needs(self) -> tuple[Collect, ...]:
        return ()


Source = Collect | Constant | Noise | LearnedSource | LearnedScale | Shift | PerRow | RowSource


def _as_values(value: object) -> Tensor:
    try:
        return value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise GraphError(f"{value!r} is not a table of numbers ({error}). Give a float, a list or a tensor.") from error


def _check_finite(owner: str, values: Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        raise GraphError(f"{owner}(...) holds NaN or infinity.")
