"""What training minimises, for each logit that is read: logits (read, classes), targets (read,) -> (read,)."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from causal_reft.tensors import Float, Int, Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Float[Tensor, "read classes"], targets: Int[Tensor, " read"]) -> Float[Tensor, " read"]:
    """-log p(target), in nats, computed in at least float32."""
    return nn.functional.cross_entropy(logits.to(_at_least_single(logits)), targets, reduction="none")


def logit_difference(logits: Float[Tensor, "read classes"], targets: Int[Tensor, " read"]) -> Float[Tensor, " read"]:
    """Minus (the target's logit - the largest other logit): negative where the target wins."""
    logits = logits.to(_at_least_single(logits))
    target = logits.gather(1, targets[:, None])
    others = logits.scatter(1, targets[:, None], float("-inf"))
    return others.amax(1) - target[:, 0]


def _at_least_single(logits: Tensor):
    import torch

    return torch.promote_types(logits.dtype, torch.float32)
