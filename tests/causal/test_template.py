"""Spans point at the right characters of every prompt, and at the right tokens of every tokenizer."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from causal_reft.causal import Template, token_offsets, token_spans
from causal_reft.errors import CausalModelError, PositionError

CORPUS = ["Once upon a time, there was a little girl named Lily. The boy named Tim ran to the store."] * 3
WORDS = st.text(alphabet="abcXYZ éß漢", min_size=1, max_size=8).filter(lambda word: word.strip() == word)


def byte_level(bos: bool) -> PreTrainedTokenizerFast:
    """A GPT-2 shaped tokenizer (bytes, the space belongs to the word), with or without a first special token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", pad_token="<s>")


TOKENIZERS = {"plain": byte_level(bos=False), "with a first special token": byte_level(bos=True)}


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5))
def test_spans_are_the_characters_of_the_values(rows: list[tuple[str, str]]) -> None:
    frame = pd.DataFrame(rows, columns=["a", "b"])
    template = Template("{{x}} {a} and {b}, again {second=a}!")
    prompts, spans = template.render(frame)
    assert template.spans == ("a", "b", "second") and template.fields == ("a", "b")
    for row, (a, b) in enumerate(rows):
        assert prompts[row] == f"{{x}} {a} and {b}, again {a}!"
        found = {name: prompts[row][spans[name][row].start : spans[name][row].stop] for name in template.spans}
        assert found == {"a": a, "b": b, "second": a}


@pytest.mark.parametrize("name", TOKENIZERS)
@given(rows=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4))
@settings(max_examples=30)
def test_token_spans_cover_their_characters_and_no_other_word(name: str, rows: list[tuple[str, str]]) -> None:
    tokenizer = TOKENIZERS[name]
    template = Template("Once {a} was; {b}.")
    prompts, spans = template.render(pd.DataFrame(rows, columns=["a", "b"]))
    for row, offsets in enumerate(token_offsets(tokenizer, prompts)):
        for span in template.spans:
            tokens, characters = token_spans(tokenizer, prompts, spans)[span][row], spans[span][row]
            covered = {c for i in tokens for c in range(*offsets[i])}
            assert set(characters) <= covered
            assert all(set(range(*offsets[i])) & set(characters) for i in tokens)
            outside = {c for i, pair in enumerate(offsets) if i not in tokens for c in range(*pair)}
            assert not outside & set(characters)


def test_a_first_special_token_moves_every_number_by_one() -> None:
    prompts, spans = Template("Once upon a {thing}").render(pd.DataFrame({"thing": ["time", "girl named Lily"]}))
    plain = token_spans(TOKENIZERS["plain"], prompts, spans)["thing"]
    special = token_spans(TOKENIZERS["with a first special token"], prompts, spans)["thing"]
    assert [range(r.start + 1, r.stop + 1) for r in plain] == special.tolist()
    assert all(isinstance(tokens, range) for tokens in special)


def test_numbers_do_not_depend_on_padding() -> None:
    prompts, spans = Template("{thing} was a little girl").render(
        pd.DataFrame({"thing": ["There", "Once upon a time"]})
    )
    left, right = byte_level(bos=True), byte_level(bos=True)
    left.padding_side, right.padding_side = "left", "right"
    alone = [token_spans(left, [prompts[i]], spans.iloc[[i]])["thing"].iloc[0] for i in range(2)]
    for tokenizer in (left, right):
        assert token_spans(tokenizer, prompts, spans)["thing"].tolist() == alone


def test_on_the_shared_tokenizer_by_hand(shared: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "stories260K-llama")
    template = Template("Once upon a time, there was a little {gender} named {name}.")
    frame = pd.DataFrame({"gender": ["girl", "boy"], "name": ["Anna", "Tim"]})
    prompts, spans = template.render(frame)
    found = token_spans(tokenizer, prompts, spans)
    # <s> Once upon a time , there was a little g ir l named _ A n n a .   (counted on the printed tokens)
    assert (found["gender"][0], found["name"][0]) == (range(10, 13), range(15, 19))
    ids = tokenizer(prompts[1])["input_ids"]
    assert tokenizer.decode([ids[i] for i in found["gender"][1]]).strip() == "boy"
    assert tokenizer.decode([ids[i] for i in found["name"][1]]).strip() == "Tim"


def test_several_texts_chosen_by_a_variable() -> None:
    template = Template({0: "In {city}", 1: "Near {city}, France"}, by="wording", show={"city": str.upper})
    prompts, spans = template.render(pd.DataFrame({"city": ["Lyon", "Nice"], "wording": [1, 0]}))
    assert prompts == ["Near LYON, France", "In NICE"]
    assert spans["city"].tolist() == [range(5, 9), range(3, 7)]


def test_preview_marks_spans_in_text_and_colours_them_in_html() -> None:
    frame = pd.DataFrame({"who": ["girl", "<b>"]})
    seen = Template("a little {who} ran").preview(frame, TOKENIZERS["with a first special token"])
    text, html = repr(seen), seen._repr_html_()
    assert text.splitlines()[0].startswith("|<s>|a| little| girl|") and "who: tokens 3 = " in text
    assert html.count("background:#ffd6a5") == 1 + len(seen.spans[1]["who"])
    assert "<b>" not in html and "&lt;s&gt;" in html


class SlowTokenizer:
    """A tokenizer without offsets, as old pure-Python ones are."""

    is_fast = False

    def __call__(self, prompts: list[str]) -> PreTrainedTokenizerBase:
        raise AssertionError("must be refused before it is called")


MISTAKES = {
    "repeated span": (lambda: Template("{a} {a}"), r"\{second_a=a\}"),
    "positional": (lambda: Template("{} x"), "neither {variable} nor"),
    "format": (lambda: Template("{a:>3}"), "neither {variable} nor"),
    "open brace": (lambda: Template("{a"), "Double literal braces"),
    "several texts": (lambda: Template({0: "{a}"}), "by='wording'"),
    "other spans": (lambda: Template({0: "{a}", 1: "{b}"}, by="k"), "name the same spans"),
    "unused words": (lambda: Template("{name}", show={"nme": str}), "Did you mean 'name'"),
    "missing column": (lambda: Template("{name}").render(pd.DataFrame({"nam": ["x"]})), "Did you mean 'nam'"),
    "missing word": (lambda: Template("{a}", show={"a": {1: "x"}}).render(pd.DataFrame({"a": [2]})), "no words for 2"),
    "missing text": (lambda: Template({0: "x"}, by="k").render(pd.DataFrame({"k": [3]})), "No text for k=3"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_in_templates_are_explained(name: str) -> None:
    make, message = MISTAKES[name]
    with pytest.raises(CausalModelError, match=message):
        make()


def test_spans_without_tokens_and_tokenizers_without_offsets_are_refused() -> None:
    prompts, spans = Template("a{thing}b").render(pd.DataFrame({"thing": [""]}))
    with pytest.raises(PositionError, match="No token holds the span 'thing'"):
        token_spans(TOKENIZERS["plain"], prompts, spans)
    with pytest.raises(PositionError, match="SlowTokenizer cannot say"):
        token_spans(SlowTokenizer(), prompts, spans)
