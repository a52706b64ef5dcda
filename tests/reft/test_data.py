"""Prompt-completion data: the training prompt is the generation prompt, and only the completion is scored."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import causal_reft as cr
from causal_reft.errors import DataError
from causal_reft.execution import TargetPositions

PAIRS = [("who is it", "the cat"), ("a dog sees", "the old grey owl"), ("what", "it is a dog")]


def test_records_score_the_completion_alone_and_end_it(tokenizer):
    records = cr.completions(PAIRS, tokenizer)
    for (prompt, completion), record in zip(PAIRS, records, strict=True):
        n = record["prompt_lengths"]
        assert record["input_ids"][:n] == tokenizer(prompt)["input_ids"]
        assert record["labels"][:n] == [-100] * n
        assert record["labels"][n:] == [*tokenizer(completion)["input_ids"], tokenizer.eos_token_id]


def test_training_positions_are_generation_positions(tokenizer, model):
    """The edit of f1+l2 is seen at the same tokens in a padded training batch and while the prompts are read to
    generate.
    """
    graph = cr.InterventionGraph(seen=cr.Collect("base", cr.Site(1, positions="f1+l2")))
    reft = cr.IntervenedModel(model, graph, tokenizer)
    records = cr.completions(PAIRS[:2], tokenizer)
    batch = cr.ReftCollator(0)(records)
    trained = reft(**batch).collected["seen"]
    for row, (prompt, _) in enumerate(PAIRS[:2]):
        alone = reft(**tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)).collected["seen"]
        torch.testing.assert_close(trained[row], alone[0])


def test_the_reads_of_examples_are_the_completion_tokens(tokenizer):
    examples = cr.as_examples(cr.completions(PAIRS, tokenizer), tokenizer)
    reads = TargetPositions.of(examples)
    ids = examples.runs["base"]["input_ids"]
    assert torch.equal(ids[reads.rows, reads.columns + 1], reads.targets)
    assert torch.equal(torch.bincount(reads.rows), torch.tensor([3, 5, 5]))


@given(st.permutations(range(3)), st.integers(1, 3))
def test_rows_and_padding_do_not_change_a_record(order, size):

    records = [
        {"input_ids": list(range(2, 4 + i)), "labels": [-100] * (i + 1) + [3], "prompt_lengths": i + 1}
        for i in range(3)
    ]
    examples = cr.Examples({"base": cr.ReftCollator(0)(records)}, cr.ReftCollator(0)(records)["labels"])
    picked = examples.rows(torch.tensor(order[:size]))
    base = picked.runs["base"]
    for place, row in enumerate(order[:size]):
        kept = base["attention_mask"][place] == 1
        assert base["input_ids"][place][kept].tolist() == records[row]["input_ids"]
        assert int(base["prompt_lengths"][place]) == records[row]["prompt_lengths"]


@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize(("pairs", "message"), [([("", "cat")], "empty prompt"), ([("cat", "")], "empty completion")])
def test_empty_texts_are_refused(tokenizer, pairs, message, end):
    with pytest.raises(DataError, match=message):
        cr.completions(pairs, tokenizer, end=end)


def test_long_records_are_refused_not_cut(tokenizer):
    with pytest.raises(DataError, match="more than max_length=4"):
        cr.completions(PAIRS, tokenizer, max_length=4)


def test_an_end_needs_an_end_token(tokenizer):
    tokenizer.eos_token = None
    with pytest.raises(DataError, match="end=False"):
        cr.completions(PAIRS, tokenizer)
