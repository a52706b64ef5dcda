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
from causal_reft.execution.passes import Scored
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
        return f"{self.rows} rows in {self.seconds:.2f} s; relative difference: logits {self.logits:.1e}{gradient} (allowed {self.tolerance:g})"


def compare(
    models: Sequence[IntervenedModel],
    fast: Callable[[], Sequence[Scored]],
    full: Callable[[], Sequence[Scored]],
    rows: int,
) -> list[Check]:
    """One check for each model; dropout on edits is off meanwhile."""
    began = time.perf_counter()
    with without_dropout(models), computed_once():
        mine, theirs = fast(), full()
        found = [_difference(model, a, b) for model, a, b in zip(models, mine, theirs, strict=True)]
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


def _difference(model: IntervenedModel, fast: Scored, full: Scored) -> tuple[float, float, float]:
    a, b = fast.logits, full.logits
    tolerance = TOLERANCE.get(b.dtype, 1e-1)
    wide = torch.promote_types(b.dtype, torch.float32)
    scale = float(b.detach().to(wide).norm())
    logits = float((a.detach().to(wide) - b.detach().to(wide)).norm()) / (scale + 1e-30)
    if not (b.requires_grad and a.requires_grad):
        return logits, float("nan"), tolerance
    weights = (
        torch.randn(b.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32).to(b.device, wide)
        / b.shape[-1] ** 0.5
    )
    mine, theirs = _gradient(model, (a.to(wide) * weights).sum()), _gradient(model, (b.to(wide) * weights).sum())
    noise = 1e3 * torch.finfo(b.dtype).eps * (1 + scale)
    gap, size = float((mine - theirs).norm()), float(theirs.norm())
    return logits, gap / (size + noise / tolerance), tolerance


def _gradient(model: IntervenedModel, value: Tensor) -> Tensor:
    """The gradient of every trained number, side by side."""
    parameters = list(model.trainable_parameters())
    found = torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=True)
    parts = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
    return torch.cat([part.flatten().double() for part in parts]) if parts else torch.zeros(1)
