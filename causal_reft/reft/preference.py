"""Losses of preference pairs, with the un-edited model as the reference: the same weights, once more without the edits.

L = log p(completion | prompt)            summed over the n tokens of the completion; L0 of the un-edited model
DPO     -log sigmoid(beta ((L_chosen - L0_chosen) - (L_rejected - L0_rejected)))
RePS    -log sigmoid(max(L0_rejected - L0_chosen, 1) L_chosen / n_chosen - L_rejected / n_rejected)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from causal_reft.errors import DataError
from causal_reft.execution import IntervenedModel
from causal_reft.execution.block_shortcuts import replaced_forward
from causal_reft.execution.inputs import IGNORED_LABEL
from causal_reft.graph import InterventionGraph
from causal_reft.tensors import Float, Int, Tensor

SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class PairLogProbs:
    """The log probabilities of both completions of each pair, in nats, and their numbers of tokens."""

    chosen: Float[Tensor, " pair"]
    rejected: Float[Tensor, " pair"]
    n_chosen: Int[Tensor, " pair"]
    n_rejected: Int[Tensor, " pair"]


PreferenceLoss = Callable[[PairLogProbs, PairLogProbs], Tensor]


@dataclass(frozen=True)
class DPO:
    """Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290, equation 7).

    Args:
        beta: how strongly the edited model is held to the un-edited one; larger is closer.
    """

    beta: float = 0.1

    def __call__(self, edited: PairLogProbs, plain: PairLogProbs) -> Float[Tensor, " pair"]:
        margin = (edited.chosen - plain.chosen) - (edited.rejected - plain.rejected)
        return -nn.functional.logsigmoid(self.beta * margin)


@dataclass(frozen=True)
class RePS:
    """Representation steering by preferences: the term for steering towards the chosen completions (Wu et al. 2025,
    arXiv 2505.20809); a pair that the un-edited model gets wrong weighs more. The term for suppression, under an edit
    that takes the concept away, is left out.
    """

    def __call__(self, edited: PairLogProbs, plain: PairLogProbs) -> Float[Tensor, " pair"]:
        weight = (plain.rejected - plain.chosen).clamp_min(1)
        margin = weight * edited.chosen / edited.n_chosen - edited.rejected / edited.n_rejected
        return -nn.functional.logsigmoid(margin)


def is_preference(batch: Mapping[str, Any]) -> bool:
    """Whether a batch, or a record, is one of preferences."""
    return set(batch) == set(SIDES)


def pair_losses(
    called: nn.Module, model: IntervenedModel, batch: Mapping[str, Mapping[str, Any]], loss: PreferenceLoss
) -> Float[Tensor, " pair"]:
    """One loss for each pair. The edited passes run inside the call of `called`, the model or a wrapper around it that
    averages gradients over processes; those of the un-edited model ask for no gradient."""
    own = model.forward

    def edited() -> PairLogProbs:
        with replaced_forward(model, own):
            return pair_log_probs(model, batch)

    with torch.no_grad():
        plain = pair_log_probs(model.with_graph(InterventionGraph()), batch)
    with replaced_forward(model, edited):
        return loss(called(), plain)


def pair_log_probs(model: IntervenedModel, batch: Mapping[str, Mapping[str, Any]]) -> PairLogProbs:
    """Those of a model under its graph, for a batch of preferences.

    Raises:
        DataError: batches without token labels.
    """
    found = [_log_probs(model, batch[side]) for side in SIDES]
    (chosen, n_chosen), (rejected, n_rejected) = found
    return PairLogProbs(chosen, rejected, n_chosen, n_rejected)


def _log_probs(model: IntervenedModel, batch: Mapping[str, Any]) -> tuple[Float[Tensor, " row"], Int[Tensor, " row"]]:
    labels = batch.get("labels")
    if not isinstance(labels, Tensor) or labels.ndim != 2:
        raise DataError("Preferences are compared by their tokens, and a batch holds no labels. See cr.preferences.")
    logits = model({key: value for key, value in batch.items() if key != "labels"}).logits[:, :-1]
    targets, scored = labels[:, 1:], labels[:, 1:] != IGNORED_LABEL
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    each = logits.log_softmax(-1).gather(-1, targets.clamp_min(0)[..., None])[..., 0]
    return (each * scored).sum(1), scored.sum(1)
