"""Conversations: the generation prompt is the border, in training as in generation."""

from __future__ import annotations

import pytest

from causal_reft.errors import DataError
from causal_reft.texts import chat_prompt, chat_turns, continuations, ended, prompt_rows, prompt_tokens
from tests.texts.small_tokenizers import CHAT, characters

TALK = [
    {"role": "user", "content": "who?"},
    {"role": "assistant", "content": "the king"},
    {"role": "user", "content": "no?"},
    {"role": "assistant", "content": "no."},
]
TOKENIZER = characters(front=True, back=True, chat_template=CHAT)


@pytest.fixture(params=["made", "real"])
def tokenizer(request):
    return TOKENIZER if request.param == "made" else request.getfixturevalue("smollm2")


@pytest.mark.parametrize("turns", ["last", "every"])
def test_the_prompt_of_a_turn_is_the_prompt_that_generation_reads(tokenizer, turns):
    pairs = chat_turns(TALK, tokenizer, turns)
    assert len(pairs) == (1 if turns == "last" else 2)
    for (prompt, completion), turn in zip(pairs[::-1], (3, 1), strict=False):
        rows = prompt_rows(TALK[:turn], tokenizer)
        whole = tokenizer.apply_chat_template(TALK[: turn + 1], tokenize=True, return_dict=True)["input_ids"]
        pair = continuations([prompt], [completion], tokenizer, framed=True)[0]
        assert [pair.prompt] == rows
        assert pair.prompt + pair.completion == whole
        assert tokenizer.decode(pair.completion).startswith(TALK[turn]["content"])


def test_a_turn_ends_in_its_own_end_token_without_the_line_break_after_it(tokenizer):
    ((prompt, completion),) = chat_turns(TALK, tokenizer)
    pair = continuations([prompt], [completion], tokenizer, framed=True)[0]
    assert tokenizer.decode(ended(pair.completion, tokenizer, framed=True)) == "no." + tokenizer.eos_token


def test_a_template_without_an_end_token_gets_one():
    plain = characters(chat_template="{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}"
                       "{% if add_generation_prompt %}assistant:{% endif %}")  # fmt: skip
    ((prompt, completion),) = chat_turns(TALK, plain)
    ids = continuations([prompt], [completion], plain, framed=True)[0].completion
    assert plain.decode(ended(ids, plain, framed=True)) == "no.\n</s>"


def test_special_tokens_of_a_template_are_not_doubled():
    text = chat_prompt(TALK[:1], TOKENIZER)
    assert prompt_tokens([text], TOKENIZER, framed=True)[0].count(TOKENIZER.bos_token_id) == 2


@pytest.mark.parametrize(
    ("talk", "message"),
    [
        (TALK[:3], "does not end in an assistant turn"),
        ([TALK[0], {"role": "assistant", "content": " "}], "empty assistant turn"),
        ([TALK[0], {"role": "assistant", "content": None}], "empty assistant turn"),
    ],
)
def test_talks_without_an_answer_are_refused(talk, message):
    with pytest.raises(DataError, match=message):
        chat_turns(talk, TOKENIZER)


def test_a_template_whose_turns_do_not_follow_its_own_generation_prompt_is_refused():
    moody = characters(chat_template="{% for m in messages %}{{ m.content }}{% endfor %}"
                       "{% if add_generation_prompt %}now:{% endif %}")  # fmt: skip
    with pytest.raises(DataError, match="otherwise than after its own generation prompt"):
        chat_turns(TALK, moody)


def test_what_the_template_refuses_is_told_with_its_reason():
    strict = characters(chat_template="{{ raise_exception('roles must alternate') }}")
    with pytest.raises(DataError, match=r"Conversation 3.*roles must alternate"):
        chat_prompt(TALK, strict, "Conversation 3")


def test_an_unknown_choice_of_turns_is_refused():
    with pytest.raises(DataError, match="turns='first'"):
        chat_turns(TALK, TOKENIZER, "first")
