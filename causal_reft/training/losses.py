"""What training minimises, for each logit that is read: logits (read, classes), targets (read,) -> (read,)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from causal_reft.errors import DataError
from causal_reft.tensors import Float, Num, Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Float[Tensor, "read classes"], targets: Num[Tensor, " read"]) -> Float[Tensor, " read"]:
    """-log p(target), in nats, computed in at least float32.

    Raises:
        DataError: targets that are numbers and no classes.
    """
    return nn.functional.cross_entropy(_of_classes(logits, targets), targets, reduction="none")


def logit_difference(logits: Float[Tensor, "read classes"], targets: Num[Tensor, " read"]) -> Float[Tensor, " read"]:
    """Minus (the target's logit - the largest other logit): negative where the target wins.

    Raises:
        DataError: targets that are numbers and no classes.
    """
    logits = _of_classes(logits, targets)
    target = logits.gather(1, targets[:, None])
    others = logits.scatter(1, targets[:, None], float("-inf"))
    return others.amax(1) - target[:, 0]


def squared_error(logits: Float[Tensor, "read 1"], targets: Num[Tensor, " read"]) -> Float[Tensor, " read"]:
    """(output - target)^2 of a model with one output, computed in at least float32: for regression."""
    return (_single(logits)[:, 0] - targets) ** 2


def _of_classes(logits: Tensor, targets: Tensor) -> Tensor:
    if targets.is_floating_point():
        raise DataError(
            "The labels are numbers, of which this loss knows no class. Write fit(..., loss=squared_error), from "
            "causal_reft.training."
        )
    return _single(logits)


def _single(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
