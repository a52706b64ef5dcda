"""Datasets of runs: rows, batches, what the loss reads, and where prompts end."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import causal_reft as cr
from causal_reft.errors import DataError, RunError
from causal_reft.execution import TargetPositions
from tests.models import D_MODEL as D
from tests.models import gpt2, prompts

LENGTHS, ANSWERS = [5, 7, 4, 6], [1, 3, 2, 2]


def answered(side: str = "right") -> cr.Examples:
    base = prompts(LENGTHS, side)
    labels = torch.full_like(base["input_ids"], -100)
    for row, (length, answer) in enumerate(zip(LENGTHS, ANSWERS, strict=True)):
        stop = labels.shape[1] if side == "left" else length
        labels[row, stop - answer : stop] = base["input_ids"][row, stop - answer : stop]
    spans = {"subject": [[0], [1, 2], [0], [2]]}
    return cr.Examples({"base": {**base, "spans": spans}}, labels, {"task": list("abcd")})


@pytest.mark.parametrize("side", ["left", "right"])
def test_token_labels_say_where_prompts_end(side: str) -> None:
    """So that "last" is the last prompt token here, as in a call with labels."""
    examples, model = answered(side), gpt2()
    assert examples.runs["base"]["prompt_lengths"].tolist() == [4, 4, 2, 4]
    under = cr.IntervenedModel(model, cr.patch(cr.Site(1, positions="last"), D).replace(
        edit=cr.Interchange(cr.Site(1, positions="last"), cr.Identity(D), cr.Constant(0.0))))  # fmt: skip
    scored = cr.FullPasses(under, examples).scored(torch.arange(4))
    base = {key: examples.runs["base"][key] for key in ("input_ids", "attention_mask")}
    in_call = TargetPositions.of(examples).take(under(**base, labels=examples.labels).logits)
    torch.testing.assert_close(scored.logits, in_call, rtol=0, atol=1e-12)


def test_prompt_lengths_that_are_given_stay() -> None:
    base = {**prompts([5, 5], "none"), "prompt_lengths": torch.tensor([2, 3])}
    labels = base["input_ids"].clone()
    labels[:, :4] = -100
    assert cr.Examples({"base": base}, labels).runs["base"]["prompt_lengths"].tolist() == [2, 3]


@given(index=st.lists(st.integers(0, 3), min_size=1, max_size=5), left=st.booleans())
def test_some_rows_are_those_rows_without_common_padding(index: list[int], left: bool) -> None:
    examples = answered("left" if left else "right")
    some = examples.rows(torch.tensor(index))
    assert len(some) == len(index) and some.info["task"] == ["abcd"[i] for i in index]
    base, whole = some.runs["base"], examples.runs["base"]
    assert base["input_ids"].shape == some.labels.shape == (len(index), max(LENGTHS[i] for i in index))
    assert base["spans"]["subject"] == [whole["spans"]["subject"][i] for i in index]
    for row, i in enumerate(index):
        for mine, theirs in ((base["input_ids"], whole["input_ids"]), (some.labels, examples.labels)):
            assert torch.equal(mine[row][base["attention_mask"][row] != 0], theirs[i][whole["attention_mask"][i] != 0])
    assert some.n_reads(torch.arange(len(index))) == sum(ANSWERS[i] for i in index)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_loss_reads_the_logits_before_each_labelled_token(side: str) -> None:
    examples, model = answered(side), gpt2()
    reads = TargetPositions.of(examples)
    assert reads.rows.tolist() == [row for row, n in enumerate(ANSWERS) for _ in range(n)]
    base = {key: examples.runs["base"][key] for key in ("input_ids", "attention_mask")}
    output = model(**base, labels=examples.labels)
    ours = torch.nn.functional.cross_entropy(reads.take(output.logits), reads.targets)
    torch.testing.assert_close(
        ours, output.loss.double(), rtol=0, atol=1e-6
    )  # the model's own loss is computed in float32


@pytest.mark.parametrize("side", ["left", "right"])
def test_one_class_a_row_is_read_at_the_last_prompt_token(side: str) -> None:
    base = prompts(LENGTHS, side)
    reads = TargetPositions.of(cr.Examples({"base": base}, torch.tensor([1, 2, 3, 4])))
    assert reads.columns.tolist() == ([6] * 4 if side == "left" else [length - 1 for length in LENGTHS])
    given_ = TargetPositions.of(
        cr.Examples({"base": {**base, "prompt_lengths": [1, 2, 3, 4]}}, torch.tensor([1, 2, 3, 4]))
    )
    starts = base["attention_mask"].argmax(1).tolist()
    assert given_.columns.tolist() == [start + n - 1 for start, n in zip(starts, [1, 2, 3, 4], strict=True)]


def test_a_plain_module_is_read_row_by_row() -> None:
    examples = cr.Examples({"base": torch.randn(3, 6)}, torch.tensor([2, 0, 1]))
    logits = torch.arange(9.0).reshape(3, 3)
    assert TargetPositions.of(examples).columns is None and torch.equal(
        TargetPositions.of(examples).take(logits), logits
    )


def test_batches_cover_the_order_once() -> None:
    examples = answered()
    assert [b.tolist() for b in examples.batches(3)] == [[0, 1, 2], [3]]
    assert [b.tolist() for b in examples.batches(2, torch.tensor([3, 1, 0, 2]))] == [[3, 1], [0, 2]]
    assert len(examples.rows(torch.tensor([], dtype=torch.long))) == 0


def test_the_callers_mapping_is_not_changed() -> None:
    base = prompts([4, 4], "none")
    runs, keys = {"base": base}, set(base)
    labels = base["input_ids"].clone()
    labels[:, :2] = -100
    cr.Examples(runs, labels).rows(torch.tensor([0]))
    assert set(base) == keys and runs == {"base": base}


def bad_examples() -> dict[str, tuple[type[Exception], str, tuple[dict, Tensor, dict]]]:
    base, one = prompts([4, 4], "none"), torch.tensor([1, 2])
    return {
        "no base": (DataError, "need a run named 'base'; given: source", ({"source": base}, one, {})),
        "unequal runs": (DataError, "source 3, labels 2", ({"base": base, "source": torch.zeros(3, 1)}, one, {})),
        "unequal info": (DataError, r"info\['task'\] 1", ({"base": base}, one, {"task": ["a"]})),
        "no prompt": (RunError, "score the very first token", ({"base": base}, base["input_ids"], {})),
    }  # fmt: skip


@pytest.mark.parametrize("name", bad_examples())
def test_examples_that_contradict_themselves_are_refused(name: str) -> None:
    kind, said, arguments = bad_examples()[name]
    with pytest.raises(kind, match=said):
        cr.Examples(*arguments).of_model(gpt2())


def test_labels_that_read_nothing_or_do_not_fit_are_refused() -> None:
    base, labels = prompts([4, 4], "none"), torch.full((2, 4), -100)
    labels[0, 3] = 1
    with pytest.raises(DataError, match="Row 1 has no label that is read"):
        TargetPositions.of(cr.Examples({"base": base}, labels))
    with pytest.raises(DataError, match=r"labels of shape \(2, 3\) need base tokens of the same shape"):
        TargetPositions.of(cr.Examples({"base": base}, labels[:, 1:]))
