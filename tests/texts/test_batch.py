"""Token rows as tensors: padding on either side holds the same rows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from causal_reft.errors import DataError
from causal_reft.texts import encode, labelled_batch, pad_token_id, record, token_batch
from tests.texts.small_tokenizers import characters, words

IDS = st.lists(st.integers(4, 9), min_size=1, max_size=5)


@given(st.lists(st.tuples(IDS, IDS), min_size=1, max_size=4), st.sampled_from(["left", "right"]))
def test_either_side_holds_the_same_rows_labels_and_borders(pairs, side):
    batch = labelled_batch([record(*pair) for pair in pairs], pad=0, side=side)
    for row, (prompt, completion) in enumerate(pairs):
        kept = batch["attention_mask"][row] == 1
        assert batch["input_ids"][row][kept].tolist() == prompt + completion
        assert batch["labels"][row][kept].tolist() == [-100] * len(prompt) + completion
        assert int(batch["prompt_lengths"][row]) == len(prompt)
        assert bool((batch["labels"][row][~kept] == -100).all())
        assert bool(kept[0 if side == "right" else -1])


def test_spans_go_along_and_count_from_the_first_token():
    longer, shorter = record([4, 5], [6]), record([4], [6])
    rows = [{**longer, "spans": {"subject": range(1, 2)}}, {**shorter, "spans": {"subject": range(1)}}]
    assert labelled_batch(rows, 0, "left")["spans"] == {"subject": [range(1, 2), range(1)]}


def test_one_label_a_record_is_a_class_or_a_score():
    classes = labelled_batch([{"input_ids": [4], "labels": 1}, {"input_ids": [4, 5], "labels": 0}], 0)
    assert classes["labels"].tolist() == [1, 0] and classes["labels"].dtype == torch.long
    scores = labelled_batch([{"input_ids": [4], "labels": 0.5}], 0)
    assert scores["labels"].is_floating_point()


def test_a_string_a_list_and_a_conversation_become_batches():
    template = "{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}"
    tokenizer = characters(front=True, back=True, chat_template=template)
    assert encode("the", tokenizer)["input_ids"].tolist() == [[1, tokenizer.convert_tokens_to_ids("the")]]
    assert encode("the", tokenizer, continued=False)["input_ids"].tolist()[0][-1] == 2
    assert encode(["the", "the king"], tokenizer)["attention_mask"].sum(1).tolist() == [2, 7]
    chat = [{"role": "user", "content": "the"}]
    assert encode(chat, tokenizer)["input_ids"].tolist() == [[1, tokenizer.convert_tokens_to_ids("the"), 2]]
    assert encode([chat, chat], tokenizer)["input_ids"].shape == (2, 3)


def test_padding_without_a_pad_token_takes_the_end_token_and_hides_it():
    tokenizer = characters(pad_token=None)
    assert pad_token_id(tokenizer) == 2
    assert pad_token_id(words().__class__(tokenizer_object=words().backend_tokenizer)) == 0
    batch = encode(["the", "the king"], tokenizer)
    assert batch["input_ids"][0, 1:].tolist() == [2] * 5 and batch["attention_mask"][0].tolist() == [1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "list is empty"),
        (["the", ""], "Text 1 has no tokens"),
        (["the", 3], "Text 1 is a int"),
        (["the", [{"role": "user", "content": "the"}]], "Strings and conversations"),
        ([{"role": "user", "content": "the"}], "needs a chat template"),
    ],
)
def test_texts_that_are_none_are_refused_by_their_number(given, message):
    with pytest.raises(DataError, match=message):
        encode(given, characters())


def test_records_of_different_kinds_are_refused_by_their_number():
    with pytest.raises(DataError, match="Record 1 has the fields"):
        labelled_batch([record([4], [5]), {"input_ids": [4], "labels": [5]}], 0)
    with pytest.raises(DataError, match="Record 0 has no input_ids"):
        labelled_batch([{"prompt": "the", "completion": "king"}], 0)
    with pytest.raises(DataError, match="no records"):
        labelled_batch([], 0)
    with pytest.raises(DataError, match="padding_side='up'"):
        token_batch([[1]], 0, "up")
