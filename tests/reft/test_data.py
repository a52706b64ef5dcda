"""Prompt-completion data: the training prompt is the generation prompt, and only the completion is scored."""

from __future__ import annotations

import csv
import json

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import causal_reft as cr
from causal_reft.errors import CausalReftWarning, DataError
from causal_reft.execution import FullPasses, TargetPositions
from causal_reft.training import squared_error
from tests import words
from tests.texts.small_tokenizers import CHAT, characters

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


# Where data comes from ----------------------------------------------------------------------------------------------

ROWS = [{"prompt": prompt, "completion": completion} for prompt, completion in PAIRS]


def written_as(kind, rows, folder):
    """The same rows as another kind of data."""
    import datasets

    file = folder / f"data.{kind}"
    if kind == "json":
        file.write_text(json.dumps(rows, indent=2))
    elif kind == "jsonl":
        file.write_text("\n".join(map(json.dumps, rows)))
    elif kind == "csv":
        with file.open("w", newline="") as out:
            writer = csv.DictWriter(out, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    made = {"datasets": datasets.Dataset.from_list, "pandas": pd.DataFrame, "list": list, "iterator": iter}
    return made[kind](rows) if kind in made else file


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "datasets", "pandas", "list", "iterator"])
def test_every_kind_of_data_gives_the_records_of_its_pairs(kind, tokenizer, tmp_path):
    """Rows with names were once trained on their names: the text was "promptcompletion"."""
    assert cr.completions(written_as(kind, ROWS, tmp_path), tokenizer) == cr.completions(PAIRS, tokenizer)


@pytest.mark.parametrize("kind", ["json", "csv", "datasets", "pandas"])
def test_instructions_are_written_in_alpacas_frame(kind, tmp_path):
    tokenizer = words.tokenizer()
    rows = [
        {"instruction": "who sees", "input": "the cat", "output": "a dog"},
        {"instruction": "what is it", "input": "", "output": "an\nowl, old"},
    ]
    prompts = [cr.alpaca_prompt("who sees", "the cat"), cr.alpaca_prompt("what is it")]
    assert "### Input:\nthe cat\n\n### Response:\n" in prompts[0] and "### Input" not in prompts[1]
    wanted = cr.completions(list(zip(prompts, [row["output"] for row in rows], strict=True)), tokenizer)
    assert cr.completions(written_as(kind, rows, tmp_path), tokenizer) == wanted
    raw = cr.completions(rows, tokenizer, fields=("instruction", "output"))
    assert raw == cr.completions([(row["instruction"], row["output"]) for row in rows], tokenizer)


def test_real_instruction_files_are_read(shared):
    tokenizer = characters()
    folder = shared / "data" / "instruct"
    rows = json.loads((folder / "instruction-data.json").read_text())
    found = cr.completions(folder / "instruction-data.json", tokenizer)
    assert len(found) == len(rows)
    prompt = found[0]["input_ids"][: found[0]["prompt_lengths"]]
    assert prompt == tokenizer(cr.alpaca_prompt(rows[0]["instruction"], rows[0]["input"]))["input_ids"]
    table = pd.read_csv(folder / "InstructGermanDPR_v1_test.csv")
    german = cr.completions(folder / "InstructGermanDPR_v1_test.csv", tokenizer, fields=("input", "output"))
    assert len(german) == len(table)


@pytest.mark.parametrize("fields", [("question", "answer"), ("prompt", "response"), ("q", "a")])
def test_fields_of_other_names(fields, tokenizer):
    rows = [dict(zip(fields, pair, strict=True)) for pair in PAIRS]
    named = {"fields": fields} if fields == ("q", "a") else {}
    assert cr.completions(rows, tokenizer, **named) == cr.completions(PAIRS, tokenizer)


# Conversations ------------------------------------------------------------------------------------------------------

CHATTING = characters(front=True, back=True, chat_template=CHAT)
TALK = [
    {"role": "user", "content": "who?"},
    {"role": "assistant", "content": "the king"},
    {"role": "user", "content": "no?"},
    {"role": "assistant", "content": "no."},
]


def parts(record):
    n = record["prompt_lengths"]
    assert record["labels"] == [-100] * n + record["input_ids"][n:]
    return CHATTING.decode(record["input_ids"][:n]), CHATTING.decode(record["input_ids"][n:])


def test_the_last_turn_or_every_one_is_learned_each_after_its_own_border():
    last, every = (cr.completions([{"messages": TALK}], CHATTING, turns=turns) for turns in ("last", "every"))
    first = "<s>user\nwho?</s>\n<s>assistant\n"
    second = first + "the king</s>\n<s>user\nno?</s>\n<s>assistant\n"
    assert [parts(record) for record in every] == [(first, "the king</s>"), (second, "no.</s>")]
    assert last == every[1:]


def test_pairs_and_instructions_under_a_chat_template():
    wanted = ("<s>user\nwho?</s>\n<s>assistant\n", "the king</s>")
    assert parts(cr.completions([("who?", "the king")], CHATTING, chat=True)[0]) == wanted
    row = {"instruction": "who", "input": "no", "output": "the king"}
    assert parts(cr.completions([row], CHATTING, chat=True)[0])[0] == "<s>user\nwho\n\nno</s>\n<s>assistant\n"


def test_a_conversation_is_trained_on_the_prompt_that_it_is_generated_from(model):
    """The edit at the last prompt token sees the same state in training and in generation."""
    chatting = words.tokenizer()
    chatting.chat_template = (
        "{% for m in messages %}{{ m.role + ' ' + m.content + ' <end> ' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant {% endif %}"
    )
    graph = cr.InterventionGraph(seen=cr.Collect("base", cr.Site(1, positions="last")))
    reft = cr.IntervenedModel(model, graph, chatting)
    talk = [{"role": "user", "content": "who is it"}, {"role": "assistant", "content": "the cat"}]
    batch = cr.ReftCollator(0)(cr.completions([{"messages": talk}], chatting))
    torch.testing.assert_close(reft.collect(batch)["seen"], reft.collect(talk[:1])["seen"])
    assert isinstance(cr.generate_texts(reft, talk[:1], max_new_tokens=2), str)
    assert len(cr.generate_texts(reft, [talk[:1]], max_new_tokens=2)) == 1


# Classes, scores, preferences ---------------------------------------------------------------------------------------


def test_classes_by_number_by_name_and_as_a_file_holds_them(tokenizer):
    texts = ["the cat", "a dog"]
    wanted = cr.classification([(text, i) for i, text in enumerate(texts)], tokenizer, 2)
    assert [record["labels"] for record in wanted] == [0, 1]
    assert wanted[0]["input_ids"] == tokenizer("the cat")["input_ids"]
    named = [{"sentence": text, "class": name} for text, name in zip(texts, ["bad", "good"], strict=True)]
    assert cr.classification(named, tokenizer, ["bad", "good"], fields=("sentence", "class")) == wanted
    assert cr.classification([(text, str(i)) for i, text in enumerate(texts)], tokenizer, 2) == wanted
    scores = cr.regression([(text, i / 2) for i, text in enumerate(texts)], tokenizer)
    assert [record["labels"] for record in scores] == [0.0, 0.5]


def test_pairs_of_texts_are_encoded_as_the_tokenizer_does(tokenizer):
    rows = [{"premise": "the cat sees", "hypothesis": "a cat", "label": 1}]
    found = cr.classification(rows, tokenizer, 2, fields=("premise", "hypothesis", "label"))[0]
    assert found["input_ids"] == tokenizer("the cat sees", "a cat")["input_ids"]
    assert found.get("token_type_ids") == tokenizer("the cat sees", "a cat").get("token_type_ids")


def test_a_classifier_is_fitted_to_one_class_a_row(tokenizer):
    """`fit` on a set of classes once read its logits as if there were one for each token."""
    from transformers import LlamaForSequenceClassification

    torch.manual_seed(0)
    head = LlamaForSequenceClassification(words.model().config).eval()
    graph = cr.loreft(cr.Site(1, positions="last"), 16, 2)
    reft = cr.IntervenedModel(head, graph, tokenizer)
    records = cr.classification([("the cat", 0), ("a grey dog", 1)], tokenizer, model=head)
    examples = cr.as_examples(records, tokenizer)
    scored = FullPasses(reft.eval(), examples).scored(torch.tensor([1, 0]))
    plain = head(**tokenizer("a grey dog", return_tensors="pt", return_token_type_ids=False)).logits
    torch.testing.assert_close(scored.logits[:1], plain)
    assert scored.targets.tolist() == [1, 0]
    history = cr.fit(reft, examples, epochs=30, batch_size=2, lr=2e-2, progress=False)
    assert history.final_loss < history.steps[0]["loss"] / 2


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_head_with_one_output_is_fitted_to_numbers(side, tokenizer):
    """The squared error of `fit` is that of plain lines in float64, and the loss that the model itself takes."""
    from transformers import LlamaForSequenceClassification

    config = words.model().config
    config.num_labels = 1
    head = LlamaForSequenceClassification(config).double().eval()
    reft = cr.IntervenedModel(head, cr.loreft(cr.Site(1, positions="last"), 16, 2), tokenizer)
    reft.graph.modules.double()
    tokenizer.padding_side = side
    records = cr.regression([("the cat", 0.5), ("a grey dog", -2.0), ("it", 1)], tokenizer, model=head)
    examples = cr.as_examples(records, tokenizer)
    scored = FullPasses(reft.with_graph(cr.InterventionGraph()), examples).scored(torch.tensor([1, 0, 2]))
    values = [head(torch.tensor([record["input_ids"]])).logits[0, 0] for record in records]
    by_hand = [(value - record["labels"]) ** 2 for value, record in zip(values, records, strict=True)]
    expected = torch.stack(by_hand)[[1, 0, 2]]
    torch.testing.assert_close(squared_error(scored.logits, scored.targets), expected, rtol=1e-12, atol=0)
    own = head(**examples.runs["base"], labels=examples.labels.double()).loss
    torch.testing.assert_close(own, expected.mean(), rtol=1e-12, atol=0)
    history = cr.fit(reft, examples, loss=squared_error, epochs=30, batch_size=2, lr=2e-2, progress=False)
    assert history.final_loss < history.steps[0]["loss"] / 2
    with pytest.raises(DataError, match="loss=squared_error"):
        cr.fit(reft, examples, epochs=1, progress=False)
    two = LlamaForSequenceClassification(words.model().config).eval()
    with pytest.raises(DataError, match=r"numbers .* 2 classes"):
        FullPasses(cr.IntervenedModel(two, cr.InterventionGraph()), examples).scored(torch.tensor([0]))
    with pytest.raises(DataError, match="numbers, and this is a causal language model"):
        FullPasses(cr.IntervenedModel(words.model(), cr.InterventionGraph()), examples).scored(torch.tensor([0]))
    with pytest.raises(DataError, match=r"labels\[1\] is no number"):
        examples.with_labels(torch.tensor([0.0, float("nan"), 1.0]))


def test_labels_of_tokens_for_a_classifier_are_refused(tokenizer):
    from transformers import LlamaForSequenceClassification

    reft = cr.IntervenedModel(
        LlamaForSequenceClassification(words.model().config).eval(), cr.loreft(cr.Site(1), 16, 2), tokenizer
    )
    with pytest.raises(DataError, match="a classifier of whole inputs: give one class for each row"):
        FullPasses(reft, cr.as_examples(cr.completions(PAIRS, tokenizer), tokenizer)).scored(torch.tensor([0]))


def test_preferences_share_a_prompt_and_become_two_batches(tokenizer):
    rows = [("who is it", "the cat", "a dog"), ("a dog sees", "the old grey owl", "it")]
    pairs = cr.preferences(rows, tokenizer)
    for side in (1, 2):
        name = ("prompt", "chosen", "rejected")[side]
        assert [pair[name] for pair in pairs] == cr.completions([(row[0], row[side]) for row in rows], tokenizer)
    batch = cr.ReftCollator(0)(pairs)
    assert torch.equal(batch["chosen"]["prompt_lengths"], batch["rejected"]["prompt_lengths"])
    assert batch["chosen"]["input_ids"].shape[0] == 2


# The end-of-text token ----------------------------------------------------------------------------------------------


def test_a_prompt_that_ends_in_the_end_token_keeps_it_in_training_and_generation(tokenizer, model):
    graph = cr.InterventionGraph(seen=cr.Collect("base", cr.Site(1, positions="last")))
    reft = cr.IntervenedModel(model, graph, tokenizer)
    prompt = "who is it <end>"
    record = cr.completions([(prompt, "the cat")], tokenizer)[0]
    assert record["input_ids"][: record["prompt_lengths"]][-1] == tokenizer.eos_token_id
    trained = reft.collect(cr.ReftCollator(0)([record]))["seen"]
    torch.testing.assert_close(trained, reft.collect(prompt)["seen"])
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    new = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False)[0, ids.shape[1] :]
    assert cr.generate_texts(reft, prompt, max_new_tokens=3) == tokenizer.decode(new, skip_special_tokens=True)


def test_an_end_token_in_the_completion_is_kept_without_end_and_not_doubled_with_it(tokenizer):
    for end in (False, True):
        ids = cr.completions([("who is it", "the cat <end>")], tokenizer, end=end)[0]["input_ids"]
        assert ids[-1] == tokenizer.eos_token_id and ids.count(tokenizer.eos_token_id) == 1


# Generation ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_texts_come_back_in_order_whatever_the_batches(tokenizer, model, batch_size):
    reft = cr.IntervenedModel(model, cr.loreft(cr.Site(1, positions="last"), 16, 2), tokenizer).eval()
    prompts = ["a dog sees the old grey cat", "who", "what is it", "the owl hears a cat", "it is"]
    alone = [cr.generate_texts(reft, [prompt], max_new_tokens=4)[0] for prompt in prompts]
    assert cr.generate_texts(reft, prompts, batch_size, max_new_tokens=4) == alone
    assert len(set(alone)) > 1


def test_one_string_is_answered_by_one_string(tokenizer, model):
    """Every character of a plain string was once taken for a prompt."""
    reft = cr.IntervenedModel(model, cr.InterventionGraph(), tokenizer)
    text = cr.generate_texts(reft, "who is it", max_new_tokens=4)
    assert isinstance(text, str) and [text] == cr.generate_texts(reft, ["who is it"], max_new_tokens=4)
    assert cr.generate_texts(reft, []) == []


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        (["who", "cat " * 65], {}, r"Prompt 1 has 65 tokens.*made for 64"),
        (["who", ""], {}, "Text 1 has no tokens"),
        (["who", None], {}, "Text 1 is a NoneType"),
        (["who"], {"batch_size": 0}, "batch_size=0"),
        (["who"], {"num_return_sequences": 2, "num_beams": 2}, "one text for each prompt"),
    ],
)
def test_prompts_that_cannot_be_continued_are_refused(tokenizer, model, prompts, options, message):
    with pytest.raises(DataError, match=message):
        cr.generate_texts(cr.IntervenedModel(model, cr.InterventionGraph(), tokenizer), prompts, **options)


def test_generation_of_texts_needs_a_tokenizer(model):
    with pytest.raises(DataError, match="tokenizer"):
        cr.generate_texts(cr.IntervenedModel(model, cr.InterventionGraph()), "who")


# Lengths ------------------------------------------------------------------------------------------------------------


def test_only_completions_are_cut_and_only_when_asked(tokenizer):
    whole = cr.completions(PAIRS, tokenizer)
    with pytest.warns(CausalReftWarning, match="1 of 3 completions are cut at max_length=6"):
        cut = cr.completions(PAIRS, tokenizer, max_length=6, truncate=True)
    for one, other in zip(cut, whole, strict=True):
        assert one["input_ids"] == other["input_ids"][:6] and one["labels"] == other["labels"][:6]
        assert one["prompt_lengths"] == other["prompt_lengths"]
    with pytest.raises(DataError, match="Record 0 has a prompt of 3 tokens"):
        cr.completions(PAIRS, tokenizer, max_length=3, truncate=True)
    with pytest.raises(DataError, match="truncate=True needs"):
        cr.completions(PAIRS, tokenizer, truncate=True)


def test_a_record_beyond_the_models_context_is_refused(tokenizer, model):
    pairs = [("who", "cat"), ("cat " * 60, "dog " * 10)]
    assert len(cr.completions(pairs, tokenizer)) == 2
    for trained in (model, cr.IntervenedModel(model, cr.InterventionGraph(), tokenizer)):
        with pytest.raises(DataError, match=r"Record 1 has 71 tokens \(60 of them its prompt\).*context of 64"):
            cr.completions(pairs, tokenizer, model=trained)


def test_training_refuses_records_beyond_the_models_context(tokenizer, model, tmp_path):
    """Such prompts once trained without a word."""
    from transformers import TrainingArguments

    records = cr.completions([("who", "cat"), ("cat " * 60, "dog " * 10)], tokenizer)
    reft = cr.IntervenedModel(model, cr.loreft(cr.Site(1, positions="last"), 16, 2), tokenizer)
    with pytest.raises(DataError, match="Record 1 has 71 tokens, and LlamaForCausalLM was made for 64"):
        cr.ReftTrainer(reft, TrainingArguments(str(tmp_path), report_to="none"), train_dataset=records)


def test_packing_is_refused_with_its_reason(tokenizer):
    with pytest.raises(DataError, match="trained without its edit"):
        cr.completions(PAIRS, tokenizer, packing=True)
    packed = [{**record, "position_ids": [0, 1, 0]} for record in cr.completions(PAIRS, tokenizer)]
    with pytest.raises(DataError, match=r"position_ids.*trained without its edit"):
        cr.ReftCollator(0)(packed)


# Mistakes in the data -----------------------------------------------------------------------------------------------

GOOD = {"prompt": "who is it", "completion": "the cat"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([GOOD, {"prompt": "who"}], "Record 1 has no field 'completion'"),
        ([GOOD, {**GOOD, "completion": None}], "Record 1: its field 'completion' is None"),
        ([GOOD, {**GOOD, "completion": 3}], "Record 1: its field 'completion' is a int"),
        ([GOOD, {**GOOD, "completion": ""}], "Record 1 has an empty completion"),
        ([GOOD, {**GOOD, "prompt": ""}], "Record 1 has an empty prompt"),
        ([GOOD, ("who", None)], "Record 1: its field 'completion' is None"),
        ([GOOD, "who is it"], "Record 1 is a str"),
        ([GOOD, ("who", "is", "it")], "Record 1 has 3 entries"),
        ([{"text": "who"}], "Record 0 has the fields text"),
        (
            [{"instruction": "who", "output": "it"}, {"instruction": " ", "output": "it"}],
            "Record 1.*'instruction' is empty",
        ),
        ([{"instruction": "who", "input": 3, "output": "it"}], "Record 0: its field 'input' is a int"),
        ([{"messages": "who"}], "Record 0: its field 'messages' is no conversation"),
        ([{"messages": TALK}], "Record 0 needs a chat template"),
        ([], "no records"),
        ({"train": [GOOD]}, "one mapping with the keys train"),
        (3, "A int holds no rows"),
        ("missing.json", "missing.json does not exist"),
    ],
)
def test_mistakes_in_the_data_name_the_record_and_the_field(tokenizer, data, message):
    with pytest.raises(DataError, match=message):
        cr.completions(data, tokenizer)


def test_conversations_that_cannot_be_learned_name_their_record():
    for talk, message in (
        (TALK[:3], "Record 1 does not end"),
        ([TALK[0], {"role": "assistant"}], "Record 1 has an empty"),
    ):
        with pytest.raises(DataError, match=message):
            cr.completions([{"messages": TALK}, {"messages": talk}], CHATTING)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ('{"prompt": "a"}\nnot json', "data.jsonl", "line 2 is not JSON"),
        ("[{", "data.json", "is not JSON"),
        ("prompt,completion\nwho,the cat\nwho", "data.csv", "record 1 has another number of columns"),
        ("", "data.txt", "ends in .txt"),
    ],
)
def test_files_that_cannot_be_read_are_named(tokenizer, tmp_path, content, name, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        cr.completions(tmp_path / name, tokenizer)


@pytest.mark.parametrize(
    ("data", "classes", "message"),
    [
        ([("the cat", 0), ("a dog", 2)], 2, "Record 1 has the label 2, outside 0 to 1"),
        ([("the cat", 0), ("a dog", -1)], 2, "Record 1 has the label -1"),
        ([("the cat", 0), ("a dog", "good")], 2, "Record 1 has the label 'good', a str"),
        ([("the cat", 0), ("a dog", 0.5)], 2, "Record 1 has the label 0.5"),
        ([("the cat", 0), ("a dog", None)], 2, "Record 1 has the label None"),
        ([("the cat", 0), ("a dog", float("nan"))], 2, "Record 1 has the label nan"),
        ([("the cat", 0), ("a dog", float("-inf"))], 2, "Record 1 has the label -inf"),
        ([("the cat", 0), ("a dog", 10**400)], 2, "Record 1 has the label 1000"),
        ([("the cat", "bad"), ("a dog", "god")], ["bad", "good"], "Record 1 has the label 'god', which is none"),
        ([("the cat", 0), (" ", 1)], 2, "Record 1 has an empty text"),
        ([("the cat", 0), (None, 1)], 2, "Record 1: its field 'text' is None"),
        ([("the cat", 0)], None, "How many classes"),
    ],
)
def test_mistakes_in_classes_name_the_record(tokenizer, data, classes, message):
    with pytest.raises(DataError, match=message):
        cr.classification(data, tokenizer, classes)


def test_scores_must_be_finite_and_classifiers_need_a_pad_token(tokenizer):
    with pytest.raises(DataError, match="Record 0 has the label nan"):
        cr.regression([("the cat", float("nan"))], tokenizer)
    tokenizer.pad_token = None
    with pytest.raises(DataError, match="pad_token"):
        cr.classification([("the cat", 0)], tokenizer, 2)


def test_equal_completions_are_no_preference(tokenizer):
    with pytest.raises(DataError, match="Record 1: 'chosen' and 'rejected' are the same"):
        cr.preferences([("who", "the cat", "a dog"), ("who", "it", "it")], tokenizer)


def test_records_without_labels_are_refused_by_their_number(tokenizer):
    """They once raised KeyError: 'labels'."""
    with pytest.raises(DataError, match="Record 1 has no labels"):
        cr.as_examples([cr.completions(PAIRS, tokenizer)[0], {"input_ids": [4]}], tokenizer)
    with pytest.raises(DataError, match="preferences are for ReftTrainer"):
        cr.as_examples(cr.preferences([("who", "the cat", "a dog")], tokenizer), tokenizer)
