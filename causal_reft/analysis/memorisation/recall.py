"""How much of a text came back: exact prefix in tokens and in characters, each over the *target's* length, and bits.

    recovery             = k / n              k tokens of the target come back before the first wrong one
    character_recovery   = common prefix of the decoded texts / characters of the target
    accuracy             = share of target tokens with the highest logit when all before them are given
    bits                 = sum over k0 < i <= k of -log2 p0(t_i | prompt, t_1 ... t_(i-1))
    bits_per_number      = bits / trainable parameters

k is from greedy decoding of n tokens, k0 the same for the unedited model, and p0 its probabilities: so `bits` is the
length of the message that one would have to send, besides the model, to spell out what the edit brings back. Dividing a
prefix by the length of what was retrieved instead (the paper's released metric) calls a short exact prefix 1.0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import nn

from causal_reft.analysis.memorisation.targets import UNREADABLE
from causal_reft.execution import Examples, FullPasses, IntervenedModel
from causal_reft.featurizers import computed_once
from causal_reft.graph import InterventionGraph
from causal_reft.reft import as_examples
from causal_reft.texts import pad_token_id, token_batch
from causal_reft.training import cross_entropy

Record = dict[str, Any]


@dataclass(frozen=True)
class Recall:
    """What came back for one record: token ids of the target and of what was generated, and the teacher-forced reading.

    `nats`: -log p of every target token under the edited model; `right`: whether it has the highest logit there.
    """

    target: tuple[int, ...]
    generated: tuple[int, ...]
    nats: tuple[float, ...]
    right: tuple[bool, ...]

    @property
    def tokens(self) -> int:
        """The length of the exact prefix."""
        return common_prefix(self.target, self.generated)

    @property
    def exact(self) -> bool:
        """Whether the whole target came back."""
        return self.tokens == len(self.target)


def recall(model: IntervenedModel, tokenizer: Any, records: Sequence[Record], batch_size: int = 64) -> list[Recall]:
    """Generate greedily from every record's prompt, and read every record teacher-forced."""
    found: list[Recall] = []
    for start in range(0, len(records), batch_size):
        some = records[start : start + batch_size]
        examples = as_examples(some, tokenizer)
        generated = greedy(model, tokenizer, some)
        nats, right = teacher_forced(model, examples)
        for row, record in enumerate(some):
            target = tuple(record["input_ids"][record["prompt_lengths"] :])
            found.append(Recall(target, generated[row][: len(target)], nats[row], right[row]))
    return found


def greedy(model: IntervenedModel, tokenizer: Any, records: Sequence[Record]) -> list[tuple[int, ...]]:
    """The tokens that greedy decoding adds to each prompt, as many as the longest target has."""
    prompts = [record["input_ids"][: record["prompt_lengths"]] for record in records]
    longest = max(len(record["input_ids"]) - record["prompt_lengths"] for record in records)
    fill = pad_token_id(tokenizer)
    batch = token_batch(prompts, fill, side="left")
    plain = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "pad_token_id": fill}
    out = model.generate({key: value.to(model.device) for key, value in batch.items()}, max_new_tokens=longest, **plain)
    return [tuple(row) for row in out[:, batch["input_ids"].shape[1] :].tolist()]


@torch.no_grad()
def teacher_forced(
    model: IntervenedModel, examples: Examples
) -> tuple[list[tuple[float, ...]], list[tuple[bool, ...]]]:
    """For each row: -log p in nats of every target token, and whether it has the highest logit."""
    with computed_once():
        scored = FullPasses(model, examples).scored(torch.arange(len(examples)))
    nats = cross_entropy(scored.logits, scored.targets)
    right = scored.logits.argmax(-1) == scored.targets
    rows = scored.reads.rows
    return (
        [tuple(nats[rows == row].tolist()) for row in range(len(examples))],
        [tuple(right[rows == row].tolist()) for row in range(len(examples))],
    )


def unedited(model: nn.Module, tokenizer: Any, records: Sequence[Record], batch_size: int = 64) -> list[Recall]:
    """The same for the model as it is."""
    return recall(IntervenedModel(model, InterventionGraph(), tokenizer), tokenizer, records, batch_size)


def scores(found: Recall, base: Recall, n_trainable_parameters: int, tokenizer: Any) -> dict[str, Any]:
    """The columns of a table: everything in the formulas above, counts beside shares."""
    characters, length = character_prefix(found, tokenizer)
    bits = stored_bits(found, base)
    return {
        "recovery": found.tokens / len(found.target),
        "tokens": found.tokens,
        "character_recovery": characters / length if length else math.nan,
        "characters": characters,
        "target_characters": length,
        "accuracy": sum(found.right) / len(found.right),
        "loss": sum(found.nats) / len(found.nats),
        "exact": found.exact,
        "bits": bits,
        "n_trainable_parameters": n_trainable_parameters,
        "bits_per_number": bits / n_trainable_parameters if n_trainable_parameters else math.nan,
    }


def stored_bits(found: Recall, base: Recall) -> float:
    """The bits that the unedited model lacks of the prefix that came back: see the top of this file."""
    return sum(base.nats[base.tokens : found.tokens]) / math.log(2)


def character_prefix(found: Recall, tokenizer: Any) -> tuple[int, int]:
    """Characters of the target that came back, and how many it has.

    Where parts of a character were retrieved alone they decode to a replacement mark, which never counts as recalled.
    """
    target, generated = (
        tokenizer.decode(list(ids), clean_up_tokenization_spaces=False) for ids in (found.target, found.generated)
    )
    if found.exact:
        return len(target), len(target)
    same = target[: common_prefix(target, generated)]
    return len(same.partition(UNREADABLE)[0]), len(target)


def common_prefix(one: Sequence[int] | str, two: Sequence[int] | str) -> int:
    """How many entries agree before the first that does not."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, two, strict=False)))
