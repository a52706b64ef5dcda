"""Prompts and completions as tokens: the same prompt in training and generation, and nothing stripped in silence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from causal_reft.errors import DataError
from causal_reft.texts import continuations, ended, prompt_tokens, text_tokens, whole_tokens
from tests.texts.small_tokenizers import characters, sentencepiece, words

MADE = {
    "characters": characters(),
    "with <s>": characters(front=True),
    "with </s>": characters(back=True),
    "with both": characters(front=True, back=True),
    "begin is end": characters(front=True, bos_token="</s>"),
    "sentencepiece": sentencepiece(),
    "sentencepiece with both": sentencepiece(back=True),
}
LETTERS = st.text("the king.", min_size=1, max_size=12)


@pytest.fixture(params=MADE)
def tokenizer(request):
    return MADE[request.param]


@given(LETTERS)
def test_an_end_token_that_the_tokenizer_appends_is_no_part_of_a_prompt(text):
    plain, both = (prompt_tokens([text], MADE[name])[0] for name in ("with <s>", "with both"))
    assert both == plain == [1, *text_tokens([text], MADE["characters"])[0]]
    assert whole_tokens([text], MADE["with both"])[0] == [*plain, 2]


def test_an_end_token_that_the_prompt_ends_in_stays_in_training_and_generation(tokenizer):
    alone = prompt_tokens(["the king</s>"], tokenizer)[0]
    pair = continuations(["the king</s>"], [" sang"], tokenizer)[0]
    assert alone[-1] == 2 and pair.prompt == alone and not pair.merged


def test_an_end_token_that_the_completion_ends_in_stays_once(tokenizer):
    pair = continuations(["the king"], [" sang</s>"], tokenizer)[0]
    assert pair.completion[-1] == 2 and pair.completion.count(2) == 1
    assert ended(pair.completion, tokenizer) == pair.completion
    open_ended = continuations(["the king"], [" sang"], tokenizer)[0].completion
    assert 2 not in open_ended and ended(open_ended, tokenizer) == pair.completion


@given(st.sampled_from(sorted(MADE)), LETTERS, LETTERS)
def test_the_tokens_of_a_pair_spell_its_text_and_keep_the_prompt(name, prompt, completion):
    """Also where prompt and completion merge ("t" + "he"), and where a lone completion would get a space of its own."""
    made = MADE[name]
    pair = continuations([prompt], [completion], made)[0]
    assert pair.prompt == prompt_tokens([prompt], made)[0]
    assert pair.completion
    text = made.decode(pair.prompt + pair.completion, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert text.removeprefix(" " if name.startswith("sentencepiece") else "") == prompt + completion


def test_merging_at_the_border_is_seen_and_the_prompt_stays_as_in_generation():
    pair = continuations(["t"], ["he king"], MADE["characters"])[0]
    assert pair.merged and MADE["characters"].convert_ids_to_tokens(pair.prompt) == ["t"]
    assert not continuations(["the"], [" king"], MADE["characters"])[0].merged


def test_a_completion_after_a_space_gets_no_second_space(stories):
    pair = continuations(["Say: "], ["cat"], stories)[0]
    assert stories.decode(pair.prompt + pair.completion, skip_special_tokens=True) == "Say: cat"


def test_real_tokenizers_continue_as_one_text(embedded, stories):
    for made, prompt, rest in ((stories, "Once upon a time", " there was"), (embedded.tokenizer, "The", " cat")):
        pair = continuations([prompt], [rest], made)[0]
        assert pair.prompt + pair.completion == made(prompt + rest)["input_ids"]


@pytest.mark.filterwarnings("ignore:This sequence already has")
def test_a_slow_tokenizer_does_as_a_fast_one(slow):
    assert prompt_tokens(["the king</s>", "no"], slow)[0][-1] == slow.eos_token_id
    pair = continuations(["the king"], [" said"], slow)[0]
    assert slow.convert_ids_to_tokens(pair.prompt + pair.completion) == list("the king said")


@pytest.fixture
def slow():
    from transformers import ByT5Tokenizer

    return ByT5Tokenizer()


def test_a_tokenizer_that_rewrites_a_framed_text_is_refused():
    class Rewriting(type(words())):
        def __call__(self, text, add_special_tokens=True, **options):
            rows = [[4 + i % 4 if add_special_tokens else 5 for i in range(3)] for _ in text]
            return {"input_ids": rows}

    inner = words()
    rewriting = Rewriting(tokenizer_object=inner.backend_tokenizer, eos_token="</s>")
    with pytest.raises(DataError, match="changes the tokens"):
        prompt_tokens(["the king"], rewriting)


@pytest.mark.parametrize("given", [None, "gpt2", object()])
def test_what_is_no_tokenizer_is_refused(given):
    with pytest.raises(DataError, match="AutoTokenizer"):
        prompt_tokens(["a"], given)
