"""Addition, price tagging, indirect objects, pronouns: every label checked against plain Python."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from causal_reft.causal import Task, keep_solved
from causal_reft.errors import CausalModelError
from causal_reft.tasks import addition, ioi, price_tagging, pronouns
from causal_reft.tasks.price_tagging import HYPOTHESES, dollars, price_model, price_settings
from causal_reft.tasks.pronouns import BOYS, GIRLS

TASKS = {"addition": addition, "prices": price_tagging, "ioi": ioi, "pronouns": pronouns}


@pytest.mark.parametrize("name", TASKS)
def test_every_task_pickles_prints_and_writes_prompts(name: str) -> None:
    task: Task = TASKS[name]()
    copy = pickle.loads(pickle.dumps(task))
    for variable in task.variables:
        data = task.counterfactuals(variable, 20, 0)
        assert data.digest == copy.counterfactuals(variable, 20, 0).digest
        assert set(data.spans) == {"base", "source"} and "text" in data.labels
    assert task.name in repr(task)


# Addition --------------------------------------------------------------------------------------------------------


def test_all_ten_thousand_sums() -> None:
    task = addition()
    written, _ = task.write(task.causal_model.settings())
    assert len(written) == 10_000
    pairs = [(a, b) for a in range(100) for b in range(100)]
    assert written["prompt"].tolist() == [f"{a:02d}+{b:02d}=" for a, b in pairs]
    assert written["text"].tolist() == [str(a + b) for a, b in pairs]
    assert written["carry"].tolist() == [int(a % 10 + b % 10 > 9) for a, b in pairs]


@pytest.mark.parametrize("variable", ["carry", "ones", "tens"])
def test_all_ten_thousand_sums_with_a_variable_from_another_sum(variable: str) -> None:
    model = addition().causal_model
    base = model.settings()
    source = base.sample(frac=1, random_state=0, ignore_index=True)
    result = model.interchange(base, **{variable: source})["answer"].tolist()
    for row, (b, s) in enumerate(zip(base.to_dict("records"), source.to_dict("records"), strict=True)):
        own, other = b["ones_a"] + b["ones_b"], s["ones_a"] + s["ones_b"]
        carry = (other if variable == "carry" else own) // 10
        ones = (other if variable == "ones" else own) % 10
        tens = b["tens_a"] + b["tens_b"] + carry
        if variable == "tens":
            tens = s["tens_a"] + s["tens_b"] + other // 10
        assert result[row] == 10 * tens + ones


def test_addition_by_hand() -> None:
    model = addition().causal_model
    base = {"tens_a": [4], "ones_a": [7], "tens_b": [2], "ones_b": [1]}  # 47 + 21 = 68
    source = {"tens_a": [1], "ones_a": [9], "tens_b": [0], "ones_b": [5]}  # 19 + 05 = 24, carries
    assert model.run(base)["answer"].item() == 68
    assert model.interchange(base, carry=source)["answer"].item() == 78
    assert model.interchange(base, ones=source)["answer"].item() == 64


# Price tagging ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HYPOTHESES)
def test_all_price_hypotheses_give_the_same_answers(name: str) -> None:
    settings = price_settings(3000, seed=1)
    answers = price_model(name).run(settings)["answer"].tolist()
    assert answers == [lo <= amount <= up for lo, up, amount in settings.to_numpy().tolist()]
    assert abs(np.mean(answers) - 1 / 3) < 0.01
    widths = settings["upper"] - settings["lower"]
    assert widths.min() >= 250 and widths.max() <= 750 and settings.to_numpy().max() <= 999


def test_price_tagging_by_hand() -> None:
    base = {"lower": [200], "upper": [500], "amount": [300]}
    source = {"lower": [400], "upper": [900], "amount": [390]}  # below its bracket, 2.60 from the middle
    assert not price_model("both boundaries").interchange(base, not_below=source)["answer"].item()
    assert price_model("both boundaries").interchange(base, not_above=source)["answer"].item()
    assert not price_model("midpoint distance").interchange(base, distance=source)["answer"].item()
    assert not price_model("bracket identity").interchange(base, bracket=source)["answer"].item()
    assert [dollars(cents) for cents in (5, 50, 123, 999)] == ["0.05", "0.50", "1.23", "9.99"]
    with pytest.raises(CausalModelError, match="Did you mean 'left boundary'"):
        price_model("left boundry")


# Indirect objects ------------------------------------------------------------------------------------------------


def test_every_indirect_object_by_hand() -> None:
    task = ioi(names=("Mary", "John", "Tom"))
    written, _ = task.write(task.among)
    assert len(written) == 6 * 2 * 6 * 6
    for row in written.to_dict("records"):
        first, second = row["prompt"].split()[1], row["prompt"].split()[3]
        giver = row["prompt"].split(", ")[1].split()[0]
        assert row["text"] == f" {second if giver == first else first}" and first != second


def test_interchanging_the_place_answers_with_the_other_name_of_the_base() -> None:
    data = ioi().counterfactuals("io_place", 300, 0)
    moved = data.base["io_place"] != data.sources["io_place"]["io_place"]
    other = np.where(data.base["answer"] == data.base["name_a"], data.base["name_b"], data.base["name_a"])
    assert data.labels["answer"].tolist() == np.where(moved, other, data.base["answer"]).tolist()
    assert 100 < moved.sum() < 200


# Pronouns --------------------------------------------------------------------------------------------------------


def test_every_pronoun_by_hand() -> None:
    task = pronouns()
    written, _ = task.write(task.causal_model.settings())
    for row in written.to_dict("records"):
        name = row["girl_name"] if row["gender"] == "girl" else row["boy_name"]
        assert row["prompt"] == f"Once upon a time, there was a little {row['gender']} named {name}."
        assert row["text"] == (" She" if row["gender"] == "girl" else " He")
    data = task.counterfactuals("gender", 50, 0)
    assert data.labels["answer"].tolist() == data.sources["gender"]["gender"].tolist()


def test_the_small_model_prefers_the_right_pronoun_in_every_setting(shared: Path) -> None:
    folder = shared / "models" / "stories260K-llama"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    task = pronouns()
    choices = [tokenizer.convert_tokens_to_ids(text.replace(" ", "\u2581")) for text in task.choices]
    data = task.counterfactuals("gender", 60, 0)
    assert len(data.with_equal_spans(tokenizer)) == len(data)

    def predict(frame: pd.DataFrame) -> list[str]:
        batch = tokenizer(frame["prompt"].tolist(), return_tensors="pt")
        with torch.no_grad():
            chosen = model(**batch).logits[:, -1, choices].argmax(dim=-1)
        return [task.choices[int(i)] for i in chosen]

    assert keep_solved(data, predict).dropped == 0
    words = {"gender": set(), "name": set()}
    for run, spans in data.token_spans(tokenizer).items():
        ids = tokenizer(data.prompts[run])["input_ids"]
        for name, found in words.items():
            found |= {
                tokenizer.decode(row[at.start : at.stop]).strip() for row, at in zip(ids, spans[name], strict=True)
            }
    assert words["gender"] == {"girl", "boy"} and words["name"] == {*GIRLS, *BOYS}
