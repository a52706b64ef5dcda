"""Where the prompts of a call lie, from masks, labels and prompt lengths; token numbers of left-padded rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import causal_reft as cr
from causal_reft.errors import RunError
from causal_reft.execution import parse_inputs
from tests.models import ToyMLP, gpt2, llama, prompts


def starts_and_stops(inputs: Any) -> tuple[list[int], list[int]]:
    prompt = inputs.prompt(inputs.width)
    return prompt.start.tolist(), prompt.stop.tolist()


rows = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=4)


@given(rows=rows, left=st.booleans())
def test_labels_say_where_prompts_end_as_prompt_lengths_do(rows: list[tuple[int, int]], left: bool) -> None:
    model, side = gpt2(), "left" if left else "right"
    batch = prompts([p + a for p, a in rows], side)
    labels = torch.full_like(batch["input_ids"], -100)
    width = labels.shape[1]
    for row, (prompt, answer) in enumerate(rows):
        start = width - prompt - answer if left else 0
        labels[row, start + prompt : start + prompt + answer] = 5
    by_labels = parse_inputs("base", {**batch, "labels": labels}, model)
    by_lengths = parse_inputs("base", {**batch, "prompt_lengths": [p for p, _ in rows]}, model)
    expected = [width - p - a if left else 0 for p, a in rows]
    stops = [start + p for start, (p, _) in zip(expected, rows, strict=True)]
    assert starts_and_stops(by_labels) == starts_and_stops(by_lengths) == (expected, stops)


def test_prompt_lengths_win_over_labels() -> None:
    batch = prompts([5, 5], "none")
    inputs = parse_inputs("base", {**batch, "labels": batch["input_ids"], "prompt_lengths": [2, 5]}, gpt2())
    assert starts_and_stops(inputs) == ([0, 0], [2, 5])


def test_labels_in_padding_do_not_end_a_prompt() -> None:
    batch = prompts([3, 5], "left")
    labels = torch.tensor([[7, 7, -100, -100, 5], [-100, -100, -100, 5, 5]])
    assert starts_and_stops(parse_inputs("base", {**batch, "labels": labels}, gpt2())) == ([2, 0], [4, 3])


def test_labels_that_leave_no_prompt_are_refused() -> None:
    batch = prompts([4, 4], "none")
    with pytest.raises(RunError, match=r"labels of row 0 score the very first token.*-100.*prompt_lengths"):
        parse_inputs("base", {**batch, "labels": batch["input_ids"]}, gpt2())


def test_labels_of_a_classifier_say_nothing_about_prompts() -> None:
    batch = prompts([4, 5], "right")
    assert parse_inputs("base", {**batch, "labels": torch.tensor([0, 1])}, gpt2()).prompt_lengths is None


def test_what_is_ours_never_reaches_the_model() -> None:
    batch = prompts([4, 5], "left")
    given_ = {**batch, "spans": {"s": [0, 1]}, "prompt_lengths": [2, 2], "active": {"edit": [True, False]}}
    inputs = parse_inputs("base", given_, gpt2())
    assert set(inputs.kwargs) == {"input_ids", "attention_mask", "position_ids"}
    assert inputs.batch == 2 and inputs.spans == {"s": [[0], [1]]} and inputs.active["edit"].tolist() == [True, False]


@pytest.mark.parametrize("make", [gpt2, llama])
def test_left_padded_rows_are_numbered_from_their_first_token(make: Any) -> None:
    left, right = (parse_inputs("base", prompts([2, 4], side), make()).kwargs for side in ("left", "right"))
    numbers = left["position_ids"]
    assert numbers[0, 2:].tolist() == [0, 1] and numbers[1].tolist() == [0, 1, 2, 3]
    assert "position_ids" not in right
    mine = torch.arange(4).expand(2, 4)
    assert (
        parse_inputs("base", {**prompts([2, 4], "left"), "position_ids": mine}, make()).kwargs["position_ids"] is mine
    )


def test_a_tensor_is_an_argument_of_a_plain_module_and_token_ids_of_a_language_model() -> None:
    x, ids = torch.zeros(3, 6).double(), torch.ones(2, 4, dtype=torch.long)
    assert parse_inputs("base", x, ToyMLP()).args[0] is x
    inputs = parse_inputs("base", ids, gpt2())
    assert inputs.kwargs["input_ids"] is ids and inputs.mask is not None and inputs.mask.shape == (2, 4)


def test_without_a_mask_every_token_is_real() -> None:
    model = cr.IntervenedModel(gpt2(), cr.InterventionGraph(seen=cr.Collect("base", cr.Site(1, positions="last"))))
    ids = prompts([4, 4], "none")["input_ids"]
    assert torch.equal(model(input_ids=ids).collected["seen"], model(ids).collected["seen"])
