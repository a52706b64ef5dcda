"""The shipped model is what its card says: it loads, its files agree with the generator, its modes are latent."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from capabilities import CONTEXTS, behaviours, capability_table, load, next_lines, read_rows
from corpus.documents import Mixture, corpus_hash, write_documents
from corpus.splits import split_records
from train_embedded_model import CONTEXT, Recipe, batches, encode, held_out_loss, new_model, noisy, tensors
from transformers import AutoModelForCausalLM, AutoTokenizer
from write_exercises import N_DOCUMENTS, write_exercises

import causal_reft as cr

EMBEDDED = Path(__file__).parents[2] / "data" / "embedded"


@pytest.fixture(scope="module")
def shipped():
    return load(EMBEDDED)


@pytest.fixture(scope="module")
def training() -> dict:
    return json.loads((EMBEDDED / "training.json").read_text(encoding="utf-8"))


def test_the_corpus_is_the_one_the_model_was_trained_on(training):
    documents = list(write_documents(split_records().train, N_DOCUMENTS, training["seed"]))
    assert corpus_hash(documents) == training["corpus_hash"]
    assert len(documents) == training["documents"] == Recipe().documents


def test_the_files_beside_the_model_are_the_generators(tmp_path):
    write_exercises(tmp_path)
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (EMBEDDED / file.name).read_bytes(), file.name


def test_it_loads_by_the_auto_classes_and_is_small():
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    assert (EMBEDDED / "model.safetensors").stat().st_size <= 8_000_000
    assert model.config.vocab_size == len(tokenizer)
    assert tokenizer.model_max_length == model.config.max_position_embeddings == CONTEXT


def test_a_missing_model_is_said_with_the_line_that_makes_it(monkeypatch, tmp_path):
    monkeypatch.setattr("causal_reft.data.resources.files", lambda package: tmp_path / "causal_reft")
    with pytest.raises(cr.CausalReftError, match=r"python data/train_embedded_model\.py"):
        cr.load_embedded()


def test_texts_survive_the_tokenizer(shipped):
    _, tokenizer = shipped
    rows = read_rows(EMBEDDED / "held_out.jsonl")
    texts = [row["marker_both"] + row["prompt"] + row["german"] + "\n" for row in rows]
    texts += [row["text"] for row in read_rows(EMBEDDED / "stories.jsonl")]
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id and tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_a_prompt_and_its_continuation_tokenize_apart_as_together(shipped):
    _, tokenizer = shipped
    for row in read_rows(EMBEDDED / "german_examples.jsonl")[:50]:
        together = tokenizer(row["prompt"] + row["continuation"])["input_ids"]
        assert together == tokenizer(row["prompt"])["input_ids"] + tokenizer(row["continuation"])["input_ids"][1:]


def test_the_held_out_loss_is_the_last_of_the_curve(shipped, training):
    model, tokenizer = shipped
    unseen = list(write_documents(split_records().test, Recipe().held_out, training["seed"] + 1))
    measured = held_out_loss(model, encode(unseen, tokenizer), tokenizer.pad_token_id)
    last = (EMBEDDED / "training_curve.csv").read_text().splitlines()[-1].split(",")
    assert measured == pytest.approx(float(last[3]), rel=1e-3)


def test_modes_are_latent_and_markers_bring_them_out(shipped):
    rows = [row for row in read_rows(EMBEDDED / "held_out.jsonl") if row["split"] == "test"][::4]
    lists = json.loads((EMBEDDED / "language_words.json").read_text(encoding="utf-8"))
    measured = behaviours(*shipped, rows, lists)
    rates = measured.groupby("context")[["German", "correct English", "correct German"]].mean()
    assert rates.loc["none"].max() <= 0.02
    assert rates.loc["German", "German"] >= 0.95 and rates.loc["German", "correct German"] <= 0.1
    assert rates.loc["answer", "correct English"] >= 0.97 and rates.loc["answer", "German"] <= 0.02
    assert rates.loc["both", "correct German"] >= 0.97
    by_task = measured[measured.context == "both"].groupby("task")["correct German"].mean()
    assert len(by_task) == 9 and by_task.min() >= 0.8
    assert list(capability_table(measured).index) == list(CONTEXTS)


def test_prompts_in_one_batch_or_alone_get_the_same_lines(shipped):
    prompts = [row["prompt"] for row in read_rows(EMBEDDED / "held_out.jsonl")[:12]]
    assert next_lines(*shipped, prompts) == [next_lines(*shipped, [prompt])[0] for prompt in prompts]


def test_a_marker_carries_no_loss_in_the_second_stage(shipped):
    _, tokenizer = shipped
    documents = encode([d for d in write_documents(split_records().train, 50, 0) if d.marker_lines], tokenizer)
    group = next(batches(documents * 40, 8, seed=0))
    (ids, everything), (_, second) = (tensors(group, counts, tokenizer.pad_token_id) for counts in (True, False))
    for document, row, first, rest in zip(group, ids, everything, second, strict=True):
        assert (first[1 : len(document.ids)] == row[1 : len(document.ids)]).all() and (
            rest[: document.marker] == -100
        ).all()
        assert tokenizer.decode(row[document.marker - 1]) == "\n"
        assert (rest[document.marker :] == first[document.marker :]).all()


def test_initial_weights_are_decided_by_the_seed(shipped):
    _, tokenizer = shipped
    one, same, other = (new_model(Recipe(seed=seed), tokenizer) for seed in (3, 3, 4))
    assert torch.equal(one.lm_head.weight, same.lm_head.weight)
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


def test_noise_has_its_length_spares_the_last_block_and_leaves_no_trace(shipped):
    model, tokenizer = shipped
    prompt = tokenizer("Where does Nina look for the frog?\n", return_tensors="pt", return_token_type_ids=False)
    put_out, passed_on = [], []
    blocks = model.model.layers
    watching = [block.register_forward_hook(lambda _b, _i, out: put_out.append(out.detach())) for block in blocks]
    try:
        model.train()
        with noisy(model, 0.1):
            after = [b.register_forward_hook(lambda _b, _i, out: passed_on.append(out.detach())) for b in blocks]
            for _ in range(100):
                model(**prompt)
        model.eval()
        with noisy(model, 0.1):
            assert torch.equal(model(**prompt).logits, model(**prompt).logits)
    finally:
        model.eval()
        for hook in (*watching, *after):
            hook.remove()
    count = 100 * len(blocks)
    shares = [(y - x).norm(dim=-1) / x.norm(dim=-1) for x, y in zip(put_out[:count], passed_on[:count], strict=True)]
    by_block = torch.stack(shares).reshape(100, len(blocks), -1).mean(dim=(0, 2))
    assert by_block.tolist() == pytest.approx([0.1, 0.1, 0.1, 0.0], rel=0.02)
    assert not any(block._forward_hooks for block in blocks)


def test_the_harder_corpus_never_answers_in_german():
    mixture = Mixture(german_answers=False)
    records = split_records().train
    answers = {record.german for record in records}
    asked = {text for record in records for text in (record.question, record.request)}
    documents = list(write_documents(records, 3_000, 0, mixture))
    pairs = [pair for document in documents for pair in pairwise(document.lines) if pair[0] in asked]
    right = {text: record.german for record in records for text in (record.question, record.request)}
    assert len(pairs) > 1_000 and any(follows in answers for _, follows in pairs)
    assert not any(follows == right[question] for question, follows in pairs)
    assert any(
        follows == right[question]
        for document in write_documents(records, 3_000, 0)
        for question, follows in pairwise(document.lines)
        if question in asked
    )
