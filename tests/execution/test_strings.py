"""Strings wherever a batch goes: the same numbers as for the tokenizer's own output."""

from __future__ import annotations

import pytest
import torch
from tokenizers import processors

import causal_reft as cr
from causal_reft.errors import RunError
from tests import families, words

ENCODED = {"bert": cr.Site(1, positions="last"), "t5": cr.Site.at("encoder.block.1", positions="last")}
TEXTS = ["who is it", "the old grey cat sees", "a dog"]


@pytest.fixture
def das():
    graph = cr.InterventionGraph(
        swap=cr.Interchange(cr.Site(1, positions="last"), cr.Subspace(16, 4), cr.Collect("source")),
        seen=cr.Collect("base", cr.Site(2, positions="last")),
    )
    return cr.IntervenedModel(words.model(), graph, words.tokenizer())


def batch(texts, **options):
    return words.tokenizer()(texts, padding=True, return_tensors="pt", return_token_type_ids=False, **options)


@pytest.mark.parametrize("texts", [TEXTS[0], TEXTS[:1], TEXTS])
def test_strings_give_what_their_tokens_give(das, texts):
    several = [texts] if isinstance(texts, str) else texts
    base, source = batch(several), batch(several[::-1])
    other = texts if isinstance(texts, str) else texts[::-1]
    told, wanted = das(texts, source=other), das(base, source=source)
    assert torch.equal(told.logits, wanted.logits)
    assert torch.equal(told.collected["seen"], wanted.collected["seen"])
    assert torch.equal(das(texts, source=source).logits, wanted.logits)
    assert torch.equal(das.collect(texts, source=other)["seen"], das.collect(base, source=source)["seen"])
    options = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(das.generate(texts, source=other, **options), das.generate(base, source=source, **options))


def test_labels_and_switches_go_with_strings(das):
    active = {"swap": [True, False, True]}
    told = das(TEXTS, source=TEXTS[::-1], active=active).logits
    assert torch.equal(told, das(batch(TEXTS), source=batch(TEXTS[::-1]), active=active).logits)
    plain = das.base_model(**batch(TEXTS)).logits
    assert torch.equal(told[1], plain[1]) and not torch.equal(told[0], plain[0])


def ending():
    """The tokenizer with an end token after every text."""
    tokenizer = words.tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <end>", special_tokens=[("<end>", 1)]
    )
    return tokenizer


def test_an_appended_end_token_is_not_the_last_position(das):
    wanted = das(batch(TEXTS), source=batch(TEXTS)).logits
    das.tokenizer = ending()
    assert das.tokenizer(TEXTS[0])["input_ids"][-1] == 1
    assert torch.equal(das(TEXTS, source=TEXTS).logits, wanted)


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_a_model_that_reads_finished_texts_is_given_the_whole_of_them(family):
    """An encoder keeps the end token that its tokenizer writes; a decoder would not."""
    tokenizer, model = ending(), families.model_of(family)
    seen = cr.IntervenedModel(model, cr.InterventionGraph(seen=cr.Collect("base", ENCODED[family])), tokenizer)
    whole = tokenizer(TEXTS, padding=True, return_tensors="pt", return_token_type_ids=False)
    assert whole["input_ids"][0].tolist()[: len(TEXTS[0].split()) + 1][-1] == 1
    told, wanted = seen.collect(TEXTS)["seen"], seen.collect(whole)["seen"]
    assert torch.equal(told, wanted) and not torch.equal(told, seen.collect(batch(TEXTS))["seen"])


def test_text_without_a_tokenizer_is_refused_with_the_line_to_type():
    model = cr.IntervenedModel(words.model(), cr.InterventionGraph())
    for call in (model, model.generate):
        with pytest.raises(RunError, match=r"IntervenedModel\(model, graph, tokenizer\)"):
            call("who is it")


@pytest.mark.parametrize(
    ("given", "message"), [(["who", ""], "'base': Text 1 has no tokens"), (["who", 3], "'base': Text 1 is a int")]
)
def test_texts_that_are_none_name_the_run_and_the_row(das, given, message):
    with pytest.raises(RunError, match=message):
        das(given, source="who")


def test_a_list_of_numbers_is_still_no_text(das):
    with pytest.raises(RunError, match="list"):
        das([[1, 2]], source="who")
