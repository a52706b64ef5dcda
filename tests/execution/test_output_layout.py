"""Where logits live and which label they are compared with: for every kind of model, the model's own loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as t
from torch import Tensor, nn

import causal_reft as cr
from causal_reft.errors import DataError
from causal_reft.execution import Examples, FullPasses, IntervenedModel, plan
from causal_reft.execution.output_layout import DECODER_TOKEN, NEXT_TOKEN, ROW, SAME_TOKEN, output_layout
from tests.families import inputs_of, randomised

WIDE = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
PLAIN = {**WIDE, "pad_token_id": 0, "max_position_embeddings": 64}
GPT2 = {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "pad_token_id": 0, "eos_token_id": 1}
T5 = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "pad_token_id": 0}
BART = {
    "vocab_size": 40, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": None,
}  # fmt: skip
XLM = {"vocab_size": 40, "emb_dim": 16, "n_layers": 2, "n_heads": 2, "dropout": 0.0, "pad_index": 0}
MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "gpt2": (lambda: t.GPT2LMHeadModel(t.GPT2Config(**GPT2)), "transformer.h.0"),
    "llama": (lambda: t.LlamaForCausalLM(t.LlamaConfig(**PLAIN)), "model.layers.0"),
    "bert causal": (lambda: t.BertLMHeadModel(t.BertConfig(**PLAIN, is_decoder=True)), "bert.encoder.layer.0"),
    "bert masked": (lambda: t.BertForMaskedLM(t.BertConfig(**PLAIN)), "bert.encoder.layer.0"),
    "roberta masked": (lambda: t.RobertaForMaskedLM(t.RobertaConfig(**PLAIN)), "roberta.encoder.layer.0"),
    "bert tokens": (lambda: t.BertForTokenClassification(t.BertConfig(**PLAIN, num_labels=40)), "bert.encoder.layer.0"),
    "gpt2 tokens": (lambda: t.GPT2ForTokenClassification(t.GPT2Config(**GPT2, num_labels=40)), "transformer.h.0"),
    "xlm": (lambda: t.XLMWithLMHeadModel(t.XLMConfig(**XLM)), "transformer.ffns.0"),
    "t5": (lambda: t.T5ForConditionalGeneration(t.T5Config(**T5, decoder_start_token_id=0)), "encoder.block.0"),
    "bart": (lambda: t.BartForConditionalGeneration(t.BartConfig(**BART)), "model.encoder.layers.0"),
    "gpt2 rows": (lambda: t.GPT2ForSequenceClassification(t.GPT2Config(**GPT2, num_labels=5)), "transformer.h.0"),
    "llama rows": (lambda: t.LlamaForSequenceClassification(t.LlamaConfig(**PLAIN, num_labels=5)), "model.layers.0"),
    "bert rows": (lambda: t.BertForSequenceClassification(t.BertConfig(**PLAIN, num_labels=5)), "bert.encoder.layer.0"),
}  # fmt: skip
LAYOUTS = dict.fromkeys(["t5", "bart"], DECODER_TOKEN) | dict.fromkeys(["gpt2", "llama", "bert causal"], NEXT_TOKEN)
LENGTHS = (6, 4, 5)


def built(name: str) -> tuple[nn.Module, cr.IntervenedModel]:
    make, path = MODELS[name]
    torch.manual_seed(0)
    model = randomised(make()).double().eval().requires_grad_(False)
    edit = cr.Interchange(
        cr.Site.at(path, positions="first"), cr.Subspace(16, 2), cr.LearnedSource(2, 16, init="random", seed=3)
    )
    return model, IntervenedModel(model, cr.InterventionGraph(edit=edit))


def labelled(name: str) -> tuple[dict[str, Tensor], Tensor]:
    """Texts of unequal length, and labels at some of their tokens; of another width for a decoder."""
    draw = torch.Generator().manual_seed(2)
    inputs = inputs_of("gpt2", lengths=LENGTHS)
    if name.endswith("rows"):
        return inputs, torch.tensor([0, 3, 4])
    width = 4 if LAYOUTS.get(name) is DECODER_TOKEN else max(LENGTHS)
    labels = torch.randint(3, 40, (3, width), generator=draw)
    first = 0 if LAYOUTS.get(name) is not NEXT_TOKEN else 2
    labels[:, :first] = -100
    if width == max(LENGTHS):
        labels[inputs["attention_mask"] == 0] = -100
    labels[1, -1] = -100
    return inputs, labels


@pytest.mark.parametrize("passes", [FullPasses, plan])
@pytest.mark.parametrize("name", MODELS)
def test_the_loss_over_what_is_read_is_the_models_own(name: str, passes: Any) -> None:
    model, reft = built(name)
    inputs, labels = labelled(name)
    scored = passes(reft, Examples({"base": inputs}, labels)).scored(torch.arange(3))
    own = reft({**inputs, "labels": labels}).loss
    mine = nn.functional.cross_entropy(scored.logits, scored.targets)
    torch.testing.assert_close(mine, own.double(), rtol=0, atol=1e-5 if own.dtype == torch.float32 else 1e-9)
    assert (own - model(**inputs, labels=labels).loss).abs() > 1e-4, "the edit is in it"


@pytest.mark.parametrize("name", MODELS)
def test_some_rows_are_read_as_all_rows_are(name: str) -> None:
    _, reft = built(name)
    inputs, labels = labelled(name)
    passes = FullPasses(reft, Examples({"base": inputs}, labels))
    whole, some = passes.scored(torch.arange(3)), passes.scored(torch.tensor([1, 2]))
    kept = whole.reads.rows > 0
    torch.testing.assert_close(some.logits, whole.logits[kept], rtol=0, atol=1e-10)
    assert torch.equal(some.targets, whole.targets[kept])


@pytest.mark.parametrize("name", MODELS)
def test_the_table_knows_the_class(name: str) -> None:
    wanted = ROW if name.endswith("rows") else LAYOUTS.get(name, SAME_TOKEN)
    assert output_layout(built(name)[0]) == wanted


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_one_class_a_row_is_read_in_the_decoder_not_at_a_column_of_the_encoder(name: str) -> None:
    model, reft = built(name)
    inputs, classes = inputs_of("gpt2", lengths=LENGTHS), torch.tensor([7, 8, 9])
    scored = FullPasses(reft, Examples({"base": inputs}, classes)).scored(torch.arange(3))
    start = torch.full((3, 1), model.config.decoder_start_token_id)
    torch.testing.assert_close(scored.logits, reft({**inputs, "decoder_input_ids": start}).logits[:, 0])
    begun = torch.cat([start, torch.tensor([[5, 6], [5, 6], [5, 6]])], 1)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1]])
    base = {**inputs, "decoder_input_ids": begun, "decoder_attention_mask": mask}
    scored = FullPasses(reft, Examples({"base": base}, classes)).scored(torch.arange(3))
    torch.testing.assert_close(scored.logits, reft(base).logits[torch.arange(3), torch.tensor([2, 1, 2])])


@pytest.mark.parametrize("name", ["bert masked", "bert tokens"])
def test_one_class_a_row_of_a_model_that_labels_tokens_is_refused(name: str) -> None:
    _, reft = built(name)
    with pytest.raises(DataError, match=r"does not say which token"):
        FullPasses(reft, Examples({"base": inputs_of("gpt2")}, torch.tensor([7, 8, 9]))).scored(torch.arange(3))


@pytest.mark.parametrize("name", ["gpt2 rows", "bert rows"])
def test_labels_of_tokens_for_a_classifier_of_rows_are_refused(name: str) -> None:
    _, reft = built(name)
    inputs = inputs_of("gpt2")
    with pytest.raises(DataError, match=r"give one class for each row"):
        FullPasses(reft, Examples({"base": inputs}, inputs["input_ids"].clone())).scored(torch.arange(3))


def test_positions_of_a_masked_language_model_count_the_whole_text() -> None:
    _, reft = built("bert masked")
    site = cr.Site.at("bert.encoder.layer.0", positions="last")
    last = reft.with_graph(cr.InterventionGraph(edit=cr.Interchange(site, cr.Identity(16), cr.Constant(0.0))))
    inputs = inputs_of("gpt2", lengths=LENGTHS)
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, 2] = 7
    scored = FullPasses(last, Examples({"base": inputs}, labels)).scored(torch.arange(3))
    torch.testing.assert_close(scored.logits, last(inputs).logits[:, 2])
