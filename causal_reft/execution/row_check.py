"""Whether the first axis of a value is the batch, asked of the model itself.

The rows of the inputs are drawn again, x' = x[pi] with a row twice and a row left out, and the value must follow,
f(x') = f(x)[pi]. So modules whose first axis is time (`nn.GRU`, `nn.TransformerEncoderLayer` with `batch_first=False`),
rows and positions flattened in the other order, and values that belong to no row are found whatever their shapes are.
It is asked once for each port of a model, without gradients and in evaluation mode, and only where the shape does not
say it (`execution/layout.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from causal_reft.errors import PositionError
from causal_reft.execution.input_checks import KEYS_AND_VALUES
from causal_reft.execution.inputs import Inputs
from causal_reft.execution.probing import probing
from causal_reft.execution.transform import in_batch_shape
from causal_reft.execution.visit import PortWork, Visit
from causal_reft.sites import Location, Site
from causal_reft.tensors import Tensor

MOVED = 0.05  # of the difference between rows; rounding is far below, another axis far above
_KNOWN: WeakKeyDictionary[nn.Module, set[tuple[object, ...]]] = WeakKeyDictionary()


def check_row_axis(model: nn.Module, visit: Visit, forward: Callable[[Visit], object]) -> None:
    """After a visit: every value whose axes were a guess has the batch first.

    Args:
        model: the model that was visited; what is found out is remembered for it.
        visit: the visit.
        forward: runs the model once under a visit that only collects.

    Raises:
        PositionError: a value whose first axis is not the batch.
    """
    known = _KNOWN.setdefault(model, set())
    for location in visit.doubted.values():
        key = (location.key, visit.frame.inputs.mask is None, *_ranks(visit.frame.inputs))
        if key not in known and _has_rows_first(model, visit, location, forward):
            known.add(key)


def _has_rows_first(model: nn.Module, visit: Visit, location: Location, forward: Callable[[Visit], object]) -> bool:
    """Whether the axis is known from now on; not where all rows are alike."""
    inputs = _whole(visit.frame.inputs, model)

    def value(of: Inputs, seed: int = 0) -> Tensor:
        site = Site.at(location.path, port=location.port)
        look = Visit(visit.run, (PortWork(location, collects=((site, location),)),), of, {}, False)
        with probing(model, seed):
            forward(look)
        state = look.states[visit.run, site]
        return in_batch_shape(state.h, state.tokens).nan_to_num()

    order = torch.arange(inputs.batch - 1, -1, -1)
    order[-1] = order[0]
    asis, drawn = value(inputs), value(_drawn(inputs, order, location))
    wanted = asis[order.to(asis.device)]
    spread, rounding = float((asis - wanted).norm()), torch.finfo(asis.dtype).eps ** 0.5 * float(asis.norm())
    allowed = MOVED * spread + rounding
    if asis.shape == drawn.shape and float((wanted - drawn).norm()) <= allowed:
        return spread > rounding
    if float((asis - value(inputs, seed=1)).norm()) > allowed:
        return True  # the forward draws random numbers, so nothing can be told from them
    raise PositionError(
        f"{location.path!r} has a value of shape {tuple(asis.shape)} at its {location.port}, whose first axis is not "
        f"the batch of {inputs.batch} rows: in another order of rows, what lies at a row is not what that row gave "
        "before. Sites need the batch first: batch_first=True, or name a module whose values lie so."
    )


def _ranks(inputs: Inputs) -> tuple[int, ...]:
    return tuple(value.ndim for value in (*inputs.args, *inputs.kwargs.values()) if isinstance(value, Tensor))


def _whole(inputs: Inputs, model: nn.Module) -> Inputs:
    """The inputs of a forward without answers; with a first decoder token where the model needs one."""
    kwargs = {key: value for key, value in inputs.kwargs.items() if key not in KEYS_AND_VALUES}
    if inputs.decoder is not None and not {"decoder_input_ids", "labels"} & set(kwargs):
        config: Any = model.config
        start = torch.full((inputs.batch, 1), config.decoder_start_token_id, device=next(model.parameters()).device)
        kwargs["decoder_input_ids"] = start
    return replace(inputs, kwargs=kwargs, prompt_lengths=None, active={})


def _drawn(inputs: Inputs, order: Tensor, location: Location) -> Inputs:
    """Rows of the inputs in another order."""

    def draw(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.ndim:
            return value
        if len(value) != inputs.batch:
            raise PositionError(
                f"{location.path!r}: the batch has as many rows as the texts have tokens, so its first axis could be "
                "either. Pad the texts to another width."
            )
        return value[order.to(value.device)]

    def draw_all(values: Mapping[str, Any]) -> dict[str, Any]:
        return {key: draw(value) for key, value in values.items()}

    decoder = None if inputs.decoder is None else replace(inputs.decoder, mask=draw(inputs.decoder.mask))
    return replace(
        inputs, args=tuple(map(draw, inputs.args)), kwargs=draw_all(inputs.kwargs), mask=draw(inputs.mask),
        decoder=decoder,
    )  # fmt: skip
