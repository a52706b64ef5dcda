"""How strong an edit must be to move the output by a given amount: a strength for `scaled`, found by bisection."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from causal_reft.errors import DataError, RunError
from causal_reft.execution import IntervenedModel
from causal_reft.execution.passes import logits_of
from causal_reft.graph import InterventionGraph
from causal_reft.sites import Prompt
from causal_reft.tensors import Float, Tensor

DOUBLINGS = 12


@torch.no_grad()
def calibrate(
    model: IntervenedModel,
    prompts: Mapping[str, Tensor],
    kl: float = 0.5,
    tolerance: float = 1e-3,
    largest: float = 64.0,
) -> float:
    """The strength s at which `model.scaled(s)` differs from the plain model by a given KL divergence.

    The divergence is KL(plain || edited) of the next-token distribution after each prompt, in nats, averaged over the
    prompts. From 0 the strength is doubled until the divergence is reached, and then bisected, so the result is a
    crossing within the first doubling that reaches it.

    Args:
        model: with edits of the base run.
        prompts: a tokenizer's output: `input_ids` and `attention_mask`, (batch, pos), padded on either side.
        kl: the divergence, in nats.
        tolerance: of the divergence, relative to `kl`.
        largest: where the search stops.

    Raises:
        DataError: a divergence or tolerance that is not positive.
        RunError: no strength up to `largest` reaches it, or the divergence is not finite.
    """
    if not (math.isfinite(kl) and kl > 0 and tolerance > 0):
        raise DataError(f"calibrate(kl={kl}, tolerance={tolerance}): both are positive numbers.")
    plain = _next_tokens(model.with_graph(InterventionGraph()), prompts)

    def divergence(strength: float) -> float:
        edited = _next_tokens(model.scaled(strength), prompts)
        found = float((plain.exp() * (plain - edited)).sum(-1).mean())
        if not math.isfinite(found):
            raise RunError(f"At strength {strength:g} the divergence is {found}: the logits are not finite.")
        return found

    low, high, tried = 0.0, largest / 2**DOUBLINGS, dict[float, float]()
    while tried.setdefault(high, divergence(high)) < kl:
        low, high = high, 2 * high
        if high > largest:
            most = max(tried, key=lambda strength: tried[strength])
            raise RunError(
                f"No strength up to {largest:g} moves the output by KL {kl:g}: the most is {tried[most]:.3g}, at "
                f"strength {most:g}. Give a smaller kl, or largest=... where a stronger edit makes sense."
            )
    while abs(tried[high] - kl) > tolerance * kl and high - low > 1e-9 * high:
        middle = (low + high) / 2
        found = divergence(middle)
        low, high = (middle, high) if found < kl else (low, middle)
        tried[middle] = found
    return high


def _next_tokens(model: IntervenedModel, prompts: Mapping[str, Tensor]) -> Float[Tensor, "batch vocabulary"]:
    """The log-probabilities of the token after each prompt."""
    logits = logits_of(model(prompts))
    mask = prompts.get("attention_mask")
    last = Prompt.of(torch.ones(logits.shape[:2]) if mask is None else mask.cpu()).stop - 1
    rows = torch.arange(len(last))
    return logits[rows, last.to(logits.device)].double().log_softmax(-1)
