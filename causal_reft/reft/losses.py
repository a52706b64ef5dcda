"""The loss of each completion under an edited model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from causal_reft.execution import IntervenedModel
from causal_reft.reft.data import as_examples
from causal_reft.texts import Record


@torch.no_grad()
def completion_losses(model: IntervenedModel, records: Sequence[Record], batch_size: int = 128) -> list[float]:
    """The mean loss over the tokens of each record's completion, in nats a token.

    Args:
        model: a causal language model under a graph, which may be empty, with its tokenizer.
        records: of `completions`.
        batch_size: records of a forward pass.
    """
    examples = as_examples(records, model.tokenizer)
    losses: list[float] = []
    for index in examples.batches(batch_size):
        batch = examples.rows(index)
        base = batch.runs["base"]
        assert isinstance(base, Mapping)
        logits = model({name: value.to(model.device) for name, value in base.items()}).logits[:, :-1]
        labels = batch.labels[:, 1:].to(logits.device)
        values = nn.functional.cross_entropy(logits.transpose(1, 2).float(), labels, reduction="none")
        losses += (values.sum(1) / (labels != -100).sum(1)).tolist()
    return losses
