"""The fast logits of the first batch, and their gradient, compared with those of full passes.

The gradient is that of a fixed random projection of the logits, so it does not vanish where a loss happens to be flat.
In half precision full passes differ among themselves when the same rows are batched otherwise; there as much is allowed
as a few times that difference.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from causal_reft.execution.intervened_model import IntervenedModel
from causal_reft.execution.passes import TargetLogits
from causal_reft.featurizers import computed_once
from causal_reft.tensors import Tensor

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
TIMES_THE_NOISE = 3.0


@dataclass(frozen=True)
class Check:
    """What one comparison found: relative differences of logits and gradient (`nan`: nothing to differentiate), and
    how much of each is allowed."""

    rows: int
    seconds: float
    logits: float
    gradient: float
    allowed_logits: float
    allowed_gradient: float

    @property
    def passed(self) -> bool:
        """Whether both agree."""
        return self.logits <= self.allowed_logits and not self.gradient > self.allowed_gradient

    def __str__(self) -> str:
        found = f"logits {self.logits:.1e} (allowed {self.allowed_logits:.2g})"
        if self.gradient == self.gradient:
            found += f", gradient {self.gradient:.1e} (allowed {self.allowed_gradient:.2g})"
        return f"{self.rows} rows in {self.seconds:.2f} s; relative difference: {found}"


def compare(
    models: Mapping[int, IntervenedModel],
    fast: Iterable[Mapping[int, TargetLogits]],
    full: Callable[[int], Tensor],
    batched_otherwise: Callable[[int], Tensor],
    rows: int,
) -> dict[int, Check]:
    """One check for each model; dropout on edits is off meanwhile.

    Args:
        models: by their numbers.
        fast: the logits to compare, (read, classes), by number of the model, one forward after the other.
        full: those of a model by full passes.
        batched_otherwise: those of full passes for the same rows in other batches, asked for in half precision only.
        rows: how many rows these are.
    """
    began, found = time.perf_counter(), {}
    with without_dropout(list(models.values())), computed_once():
        full_passes = {number: _measured([model], [full(number)])[0] for number, model in models.items()}
        for part in fast:  # after full passes, which ask the model where its rows lie
            some = [number for number in part if number in models]
            mine = _measured([models[number] for number in some], [part[number].logits for number in some])
            del part  # its graph is not held while full passes and the next part are computed
            for number, measured in zip(some, mine, strict=True):
                theirs = full_passes[number]
                dtype = _precision(theirs.logits)
                limits = [TOLERANCE.get(dtype, torch.finfo(dtype).eps)] * 2
                if dtype not in TOLERANCE:
                    [again] = _measured([models[number]], [batched_otherwise(number)])
                    noise = _differences(again, theirs)
                    limits = [max(least, TIMES_THE_NOISE * much) for least, much in zip(limits, noise, strict=True)]
                found[number] = *_differences(measured, theirs), *limits
    seconds = (time.perf_counter() - began) / max(len(models), 1)
    return {number: Check(rows, seconds, *found[number]) for number in models}


def _precision(logits: Tensor) -> torch.dtype:
    """The type that matrix products are computed in: that of autocast where it is on."""
    kind = logits.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else logits.dtype


@contextmanager
def without_dropout(models: Sequence[IntervenedModel]) -> Iterator[None]:
    """Edits are not dropped inside; masks stay as soft as they are."""
    modes = [(model, model.training) for model in models]
    try:
        for model, _ in modes:
            model.training = False
        yield
    finally:
        for model, mode in modes:
            model.training = mode


@dataclass(frozen=True)
class _Measured:
    logits: Tensor
    gradient: Tensor | None


def _measured(models: Sequence[IntervenedModel], logits: Sequence[Tensor]) -> list[_Measured]:
    gradients = _gradients(models, logits)
    return [_Measured(one.detach(), gradient) for one, gradient in zip(logits, gradients, strict=True)]


def _differences(fast: _Measured, full: _Measured) -> tuple[float, float]:
    """Relative differences of logits and gradient, without reads that the model itself leaves undefined."""
    defined = ~full.logits.isnan().any(1)
    a, b = (found.logits[defined].to(torch.promote_types(full.logits.dtype, torch.float32)) for found in (fast, full))
    scale = float(b.norm())
    logits = float((a - b).norm()) / (scale + 1e-30)
    if fast.gradient is None or full.gradient is None:
        return logits, float("nan")
    dtype = full.logits.dtype
    noise = 1e3 * torch.finfo(dtype).eps * (1 + scale) / TOLERANCE.get(dtype, 1e-1)
    return logits, float((fast.gradient - full.gradient).norm()) / (float(full.gradient.norm()) + noise)


def _gradients(models: Sequence[IntervenedModel], logits: Sequence[Tensor]) -> list[Tensor | None]:
    """For each model, the gradient of all its trained numbers side by side; one backward pass for all models.

    Rotations of this step are shared with the step itself, so their graph is kept.
    """
    values = [_projection(one) for one in logits if one.requires_grad]
    parameters = list(dict.fromkeys(p for model in models for p in model.trainable_parameters()))
    if not values or not parameters:
        return [None] * len(models)
    found = torch.autograd.grad(torch.stack(values).sum(), parameters, allow_unused=True, retain_graph=True)
    by_parameter = {p: torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)}
    return [_side_by_side([by_parameter[p] for p in model.trainable_parameters()]) for model in models]


def _side_by_side(parts: Sequence[Tensor]) -> Tensor | None:
    return torch.cat([part.flatten().double().cpu() for part in parts]) if parts else None


def _projection(logits: Tensor) -> Tensor:
    """A weighted sum of logits, the same weights at every call."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(logits.shape, generator=generator) / logits.shape[-1] ** 0.5
    return (logits.double() * weights.to(logits.device)).sum()
