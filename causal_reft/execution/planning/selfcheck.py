"""Trust, but verify: on the first batch the fast logits and their gradient are compared with full passes.

The gradient is that of a fixed random projection of the logits, so it does not vanish where a loss happens to be flat.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from causal_reft.execution.intervened_model import IntervenedModel
from causal_reft.execution.passes import TargetLogits
from causal_reft.featurizers import computed_once
from causal_reft.tensors import Tensor

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 1e-1, torch.float16: 3e-2}


@dataclass(frozen=True)
class Check:
    """What one comparison found: relative differences of logits and gradient (`nan`: nothing to differentiate)."""

    rows: int
    seconds: float
    logits: float
    gradient: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether both agree."""
        return self.logits <= self.tolerance and not self.gradient > self.tolerance

    def __str__(self) -> str:
        gradient = "" if self.gradient != self.gradient else f", gradient {self.gradient:.1e}"
        found = f"logits {self.logits:.1e}{gradient} (allowed {self.tolerance:g})"
        return f"{self.rows} rows in {self.seconds:.2f} s; relative difference: {found}"


def compare(
    models: Sequence[IntervenedModel],
    fast: Callable[[], Sequence[TargetLogits]],
    full: Callable[[], Sequence[TargetLogits]],
    rows: int,
) -> list[Check]:
    """One check for each model; dropout on edits is off meanwhile."""
    began = time.perf_counter()
    with without_dropout(models), computed_once():
        mine, theirs = fast(), full()
        gradients = zip(_gradients(models, mine), _gradients(models, theirs), strict=True)
        found = [_difference(a, b, *g) for a, b, g in zip(mine, theirs, gradients, strict=True)]
    seconds = (time.perf_counter() - began) / max(len(models), 1)
    return [Check(rows, seconds, *differences) for differences in found]


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


def _difference(
    fast: TargetLogits, full: TargetLogits, mine: Tensor | None, theirs: Tensor | None
) -> tuple[float, float, float]:
    """Relative differences of logits and gradient, and how much is allowed; reads that the model itself leaves
    undefined aside."""
    a, b = fast.logits.detach(), full.logits.detach()
    defined = ~b.isnan().any(1)
    a, b = a[defined], b[defined]
    wide, tolerance = torch.promote_types(b.dtype, torch.float32), TOLERANCE.get(b.dtype, 1e-1)
    scale = float(b.to(wide).norm())
    logits = float((a.to(wide) - b.to(wide)).norm()) / (scale + 1e-30)
    if mine is None or theirs is None:
        return logits, float("nan"), tolerance
    noise = 1e3 * torch.finfo(b.dtype).eps * (1 + scale)
    return logits, float((mine - theirs).norm()) / (float(theirs.norm()) + noise / tolerance), tolerance


def _gradients(models: Sequence[IntervenedModel], scored: Sequence[TargetLogits]) -> list[Tensor | None]:
    """For each model, the gradient of all its trained numbers side by side; one backward pass for all models.

    Rotations of this step are shared with the step itself, so their graph is kept.
    """
    values = [_projection(s.logits) for s in scored if s.logits.requires_grad]
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
