"""How the value at a port lies in memory, and its view as (batch, pos, width).

    (batch, pos, width)       as it is
    (batch * pos, width)      rows and positions in one axis (mixtures of experts, OPT's MLP)
    (batch, width)            one vector for each row, without positions (a pooled text, a plain network)
    (batch, heads, pos, size) and (batch, pos, heads, size), where the number of tokens says which axis holds them

The batch comes first. What has other numbers of rows or positions than the inputs is refused. Where numbers alone
cannot tell (as many rows as tokens, or no text at all), the layout is `doubtful`, and `execution/row_check.py` asks
the model itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from causal_reft.errors import PositionError, SiteError
from causal_reft.execution.frame import Frame
from causal_reft.sites import Location
from causal_reft.tensors import Float, Tensor

Rebuild = Callable[[Tensor], Any]


@dataclass(frozen=True)
class Laid:
    """A value as (batch, pos, width), the way back, whether it has positions at all, and whether the axes are a
    guess."""

    value: Float[Tensor, "batch pos width"]
    back: Rebuild
    has_positions: bool = True
    doubtful: bool = False


def lay_out(stream: Tensor, frame: Frame, location: Location) -> Laid:
    """The value at a port, read by its shape.

    Raises:
        SiteError: values that are no real numbers.
        PositionError: rows or positions that are not those of the inputs.
    """
    if not stream.is_floating_point():
        raise SiteError(
            f"{location.path!r} has {stream.dtype} values at its {location.port}; only real-valued states can be "
            "intervened on."
        )
    if stream.ndim == 3:
        return _by_token(stream, frame, location)
    if stream.ndim == 2:
        return _flat(stream, frame, location)
    if stream.ndim == 4 and not frame.decoding and frame.columns is not None and len(stream) == frame.rows:
        return _by_head(stream, frame, location)
    raise _misfit(stream, frame, location)


def _by_token(stream: Tensor, frame: Frame, location: Location) -> Laid:
    if len(stream) != frame.rows or frame.columns not in (None, stream.shape[1]):
        raise _misfit(stream, frame, location)
    alike = frame.columns is None or len(stream) == stream.shape[1]
    return Laid(stream, lambda new: new, doubtful=alike and len(stream) > 1 and not _in_table(location))


def _flat(stream: Tensor, frame: Frame, location: Location) -> Laid:
    rows, columns = frame.rows, frame.columns
    if len(stream) % rows or (columns is not None and len(stream) not in (rows, rows * columns)):
        raise _misfit(stream, frame, location)
    pooled = len(stream) == rows and columns not in (None, 1)
    return Laid(
        stream.reshape(rows, -1, stream.shape[-1]),
        lambda new: new.reshape(stream.shape),
        not pooled,
        doubtful=rows > 1 and not _in_table(location),
    )


def _by_head(stream: Tensor, frame: Frame, location: Location) -> Laid:
    axes = [axis for axis in (1, 2) if stream.shape[axis] == frame.columns]
    if len(axes) != 1:
        raise PositionError(
            f"{location.path!r} has a value of shape {tuple(stream.shape)} at {location.port}, in which "
            f"{'two axes' if axes else 'no axis'} could be the {frame.columns} positions. "
            f"{'Pad the texts to another width.' if axes else 'Name another value.'}"
        )
    by_token = stream if axes == [1] else stream.transpose(1, 2)
    shape = by_token.shape

    def back(new: Tensor) -> Tensor:
        return new.reshape(shape) if axes == [1] else new.reshape(shape).transpose(1, 2)

    doubtful = len(stream) in (1, stream.shape[axes[0]]) and len(stream) > 1
    return Laid(by_token.flatten(2), back, doubtful=doubtful)


def _in_table(location: Location) -> bool:
    """A block, or a component of the architecture table, whose layout is known."""
    return bool(location.part) or (location.block is not None and location.path.endswith(f".{location.block}"))


def _misfit(stream: Tensor, frame: Frame, location: Location) -> PositionError:
    columns = "positions" if frame.columns is None else f"{frame.columns} positions"
    return PositionError(
        f"{location.path!r} has a value of shape {tuple(stream.shape)} at its {location.port} for a batch of "
        f"{frame.rows} rows. A site needs (batch, positions, width) = ({frame.rows}, {columns}, width), or "
        f"({frame.rows}, width) without positions. Name a module whose values lie so."
    )
