"""Batches by length: every row once, little padding, an order that the seed decides, losses still means over reads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import causal_reft as cr
from causal_reft.training import Recipe
from causal_reft.training.batches import batches_of
from tests.models import prompts
from tests.training.test_fit import full, reft, text_examples

LENGTHS = [4, 9, 5, 12, 4, 9, 7, 5, 12, 7, 4, 6]
BY_LENGTH = Recipe(batch_size=3, batches="by length")


def ragged() -> cr.Examples:
    base = prompts(LENGTHS, "right")
    return cr.Examples({"base": base}, torch.zeros(len(LENGTHS), dtype=torch.long))


def epochs(recipe: Recipe, seed: int = 0, n: int = 3) -> list[list[list[int]]]:
    generator = torch.Generator().manual_seed(seed)
    return [[rows.tolist() for rows in batches_of(ragged(), recipe, generator)] for _ in range(n)]


def padded(batches: list[list[int]]) -> int:
    return sum(len(rows) * max(LENGTHS[row] for row in rows) for rows in batches)


def test_every_row_comes_once_with_others_of_its_length_in_a_seeded_order() -> None:
    found = epochs(BY_LENGTH)
    for batches in found:
        assert sorted(row for rows in batches for row in rows) == list(range(12))
        assert padded(batches) == sum(3 * longest for longest in (4, 6, 9, 12))
    assert found[0] != found[1] and found == epochs(BY_LENGTH)
    assert {tuple(LENGTHS[row] for row in batches[0]) for batches in epochs(BY_LENGTH, n=20)} > {(4, 4, 4), (9, 12, 12)}
    assert all(padded(batches) > padded(found[0]) for batches in epochs(Recipe(batch_size=3)))


def test_rows_without_tokens_are_shuffled() -> None:
    examples = cr.Examples({"base": torch.zeros(7, 2)}, torch.zeros(7, dtype=torch.long))
    orders = [
        torch.cat(batches_of(examples, BY_LENGTH, torch.Generator().manual_seed(seed))).tolist() for seed in range(3)
    ]
    assert all(sorted(order) == list(range(7)) for order in orders) and orders[0] != orders[1]


@pytest.mark.parametrize("passes", [cr.FullPasses, cr.plan])
def test_a_fit_by_length_minimises_the_mean_over_the_reads_of_each_batch(passes: type) -> None:
    model, examples = reft(init="random"), text_examples()
    seen: list[Tensor] = []

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        seen.append(nn.functional.cross_entropy(logits.detach(), targets))
        return nn.functional.cross_entropy(logits, targets, reduction="none")

    history = cr.fit(
        model, examples, loss=loss, batches="by length", batch_size=3, lr=0.0, passes=passes, progress=False
    )
    assert [step["loss"] for step in history.steps] == pytest.approx([float(value) for value in seen[-3:]], rel=1e-6)
    whole = full(reft(init="random"), examples, batches="by length", batch_size=8, lr=0.0)
    assert whole.steps[0]["loss"] == pytest.approx(
        full(model, examples, batch_size=8, lr=0.0).steps[0]["loss"], rel=1e-6
    )
