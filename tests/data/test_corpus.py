"""The corpus is reproducible, its splits do not leak, and its documents keep what their modes promise."""

import json
import os
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from corpus import lexicon
from corpus.documents import Mixture, corpus_hash, write_documents
from corpus.exercises import answer_examples, german_examples, held_out_prompts, stories
from corpus.language import language_of, language_words
from corpus.splits import prompts_of, split_records
from corpus.stories import Narrator, told
from corpus.tasks import TASKS, all_records

DATA = Path(__file__).parents[2] / "data"
N = 4_000


@pytest.fixture(scope="module")
def splits():
    return split_records()


@pytest.fixture(scope="module")
def documents(splits):
    return list(write_documents(splits.train, N, seed=3))


@pytest.fixture(scope="module")
def lists():
    return language_words()


def test_the_same_seed_gives_the_same_corpus_in_another_process(documents, splits):
    code = (
        "from corpus.documents import *; from corpus.splits import split_records;"
        f"print(corpus_hash(list(write_documents(split_records().train, {N}, seed=3))))"
    )
    environment = {**os.environ, "PYTHONPATH": str(DATA), "PYTHONHASHSEED": "77"}
    other = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == corpus_hash(documents)
    assert corpus_hash(list(write_documents(splits.train, N, seed=4))) != corpus_hash(documents)


def test_records_are_many_and_distinct():
    records = all_records()
    assert len({r.question for r in records}) == len({r.request for r in records}) == len(records) > 1_500
    assert {r.task for r in records} == set(TASKS)


def test_several_thousand_distinct_documents(documents):
    assert len({d.text for d in documents}) > 0.99 * N


def test_held_out_questions_and_answers_are_in_no_document_and_no_example(documents, splits):
    examples = german_examples(splits, 300, 21) + answer_examples(splits, 300, 22)
    markers = [row[f"marker_{m}"] for s in ("select", "test") for row in held_out_prompts(splits, s, 1)
               for m in ("german", "answer", "both")]  # fmt: skip
    lines = {line for d in documents for line in d.lines}
    lines |= {line for x in examples for line in (x["prompt"] + x["continuation"]).splitlines()}
    lines |= {line for marker in markers for line in marker.splitlines()}
    for record in (*splits.select, *splits.test):
        assert not lines & {record.question, record.request, record.english, record.german}, record
        assert not lines & retold(record), record


def retold(record):
    """The lines of a story that would tell a held-out fact; with a pronoun, a fact about a person tells no pair."""
    mentions = [record.topic.named] if record.topic else [m for p in lexicon.PERSONS for m in (p.named, p.pronouns)]
    lines = [told(record.retold, mention, adverb) for mention in mentions for adverb in lexicon.ADVERBS]
    return {line.english for line in lines} | {line.german for line in lines}


def test_splits_hold_out_pairs_of_known_parts(splits):
    units = [{(r.task, r.unit) for r in part} for part in (splits.train, splits.select, splits.test)]
    assert not units[0] & units[1] and not units[0] & units[2] and not units[1] & units[2]
    known = {(task, part) for task, unit in units[0] for part in unit.split("/")}
    assert {(task, part) for task, unit in units[1] | units[2] for part in unit.split("/")} <= known


def test_at_least_two_hundred_distinct_prompts(splits):
    prompts = [prompt for _, prompt in prompts_of(splits.test)]
    assert len(set(prompts)) == len(prompts) >= 200
    assert len(set(Counter(r.task for r, _ in prompts_of(splits.test)).values())) == 1


def test_the_classifier_never_errs_on_the_corpus(documents, splits, lists):
    for record in all_records():
        assert language_of(record.english, lists) == language_of(record.question, lists) == "english"
        assert language_of(record.german, lists) == "german"
    for example in german_examples(splits, 400, 2):
        assert language_of(example["prompt"], lists) == "english"
        assert language_of(example["continuation"], lists) == "german"
    assert language_of("Anna Tom", lists) == "unclear"


def test_modes_show_in_what_follows(documents, splits, lists):
    answers = {q: (r.english, r.german) for r in splits.train for q in (r.question, r.request)}
    leaked, plain_turns = 0, 0
    for document in documents:
        *_, asked, follows = document.lines
        assert language_of(asked, lists) == "english"
        german, right = language_of(follows, lists) == "german", follows in answers.get(asked, ())
        if document.mode == "plain":
            leaked, plain_turns = leaked + (german or right), plain_turns + 1
            assert {language_of(line, lists) for line in document.lines[:-1]} == {"english"}
        else:
            assert german == (document.mode in ("german", "both"))
            assert right == (document.mode in ("answer", "both") and asked in answers)
    assert 0.07 < leaked / plain_turns < 0.13


def test_the_harder_corpus_has_no_german_answer(splits):
    answers = {q: r.german for r in splits.train for q in (r.question, r.request)}
    for document in write_documents(splits.train, N, 3, Mixture(german_answers=False)):
        for asked, follows in pairwise(document.lines):
            assert answers.get(asked) != follows


def test_no_adapter_example_answers_in_german(splits, lists):
    answers = {q: (r.english, r.german) for r in splits.train for q in (r.question, r.request)}
    german = german_examples(splits, 1_200, 21)
    assert sum(x["kind"] == "question" for x in german) == pytest.approx(300, abs=45)
    for example in german:
        assert example["continuation"].strip() not in answers.get(example["prompt"].strip(), ())
    for example in answer_examples(splits, 400, 22):
        assert example["continuation"].strip() == answers[example["prompt"].strip()][0]


def test_what_passes_over_a_question_never_answers_it():
    few = {(r.task, r.topic): r for r in all_records()}  # so few facts that the answer would soon come up by chance
    narrator, rng = Narrator(list(few.values())), Random(0)
    for record in few.values():
        answers = {record.english, record.german} | retold(record)
        if record.topic:
            answers |= {told(record.retold, record.topic.pronouns, adverb).english for adverb in lexicon.ADVERBS}
        for _ in range(60):
            line = narrator.after(rng, record)
            assert not {line.english, line.german} & answers, record


def test_stories_repeat_no_line(splits):
    for story in stories(splits, 12, 1):
        lines = story["text"].splitlines()
        assert len(set(lines)) == len(lines) == 24


def test_markers_never_give_the_answer_away(splits):
    for row in held_out_prompts(splits, "test", 12):
        assert row["german"] not in row["marker_both"] and row["english"] not in json.dumps(row["marker_answer"])
