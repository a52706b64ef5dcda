"""Losses of labelled tokens from one plan over a whole dataset, so that later epochs reuse what earlier ones recorded.

A plan works on numbered rows; a `Trainer` hands over padded batches. A row of a batch is recognised by its content (its
real tokens, labels and prompt length), so any sampler, number of workers or order works, and a record that changes from
one epoch to the next is noticed: it is computed from its batch alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from causal_reft.execution import Examples, IntervenedModel, TargetLogits, plan
from causal_reft.execution.inputs import IGNORED_LABEL
from causal_reft.tensors import Float, Int, Tensor
from causal_reft.training import cross_entropy

KNOWN = frozenset({"input_ids", "attention_mask", "labels", "prompt_lengths"})
MOST_TOKENS = 1 << 27  # a larger dataset is planned batch by batch

Batch = Mapping[str, Any]


class PlannedDataset:
    """The plan of one dataset; inside a `with` it caches what later epochs use again.

    Args:
        model: the model under its graph.
        batch: all records as one padded batch, or `None`: every batch is planned on its own.
        memory: bytes that the plan may keep.
    """

    def __init__(self, model: IntervenedModel, batch: Batch | None, memory: int) -> None:
        self.model, self.memory = model, memory
        self._agreed: set[bool] = set()  # with and without gradients, as a plan of a dataset compares its first batch
        self.examples = None if batch is None else as_examples(batch)
        self.numbers: dict[bytes, int] = {}
        if batch is not None and self.examples is not None:
            self.numbers = {key: number for number, key in enumerate(row_keys(batch))}
            self.plan = plan(model, self.examples, memory=memory)

    def __enter__(self) -> PlannedDataset:
        if self.numbers:
            self.plan.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.numbers:
            self.plan.__exit__(*exception)

    def target_logits(self, batch: Batch, check: bool = True) -> TargetLogits:
        """The logits that the labels of a batch read, by the cheapest exact passes."""
        rows = self._rows(batch)
        if rows is not None:
            return self.plan.scored(rows)
        examples, graded = as_examples(batch), torch.is_grad_enabled()
        assert examples is not None
        with plan(self.model, examples, memory=self.memory, check=check and graded not in self._agreed) as passes:
            found = passes.scored(torch.arange(len(examples)))
            if (checks := passes.joint.chosen.checks) and all(one.passed for one in checks.values()):
                self._agreed.add(graded)
        return found

    def _rows(self, batch: Batch) -> Int[Tensor, " row"] | None:
        """The rows' numbers in the dataset, where every row is one of its records."""
        if not self.numbers or not set(batch) <= KNOWN:
            return None
        found = [self.numbers.get(key, -1) for key in row_keys(batch)]
        return torch.tensor(found) if min(found) >= 0 else None


def as_examples(batch: Batch) -> Examples | None:
    """A batch of a causal language model as examples; `None` where its labels are not tokens, or a row has none."""
    labels = batch.get("labels")
    if not isinstance(labels, Tensor) or labels.ndim != 2 or not {"input_ids", "attention_mask"} <= set(batch):
        return None
    if batch["input_ids"].shape != labels.shape or not bool((labels[:, 1:] != IGNORED_LABEL).any(1).all()):
        return None
    return Examples({"base": {key: value for key, value in batch.items() if key != "labels"}}, labels)


def row_keys(batch: Batch) -> list[bytes]:
    """For each row of a batch bytes that determine it: real tokens, their labels and the prompt length."""
    mask, ids, labels = (batch[name].cpu() for name in ("attention_mask", "input_ids", "labels"))
    lengths = batch.get("prompt_lengths")
    prompts: Sequence[Any] = [None] * len(ids) if lengths is None else torch.as_tensor(lengths).tolist()
    keys = []
    for row, prompt in enumerate(prompts):
        real = mask[row] != 0
        content = torch.cat([ids[row][real], labels[row][real]]).to(torch.int64)
        keys.append(content.numpy().tobytes() + repr(prompt).encode())
    return keys


def token_losses(
    logits: Float[Tensor, "read classes"], targets: Int[Tensor, " read"], smoothing: float
) -> Float[Tensor, " read"]:
    """One loss for each read: cross entropy, mixed with the mean over all classes as label smoothing does."""
    losses = cross_entropy(logits, targets)
    if not smoothing:
        return losses
    uniform = -logits.to(losses.dtype).log_softmax(-1).mean(-1)
    return (1 - smoothing) * losses + smoothing * uniform
