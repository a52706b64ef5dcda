"""RAVEL, MIB and CausalGym: real files where the shared folder has them, hand-made ones of the same format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from causal_reft.causal import CounterfactualDataset
from causal_reft.errors import CausalModelError, DataError
from causal_reft.tasks import load_causalgym_pairs, load_causalgym_task, load_mib, load_ravel

# RAVEL -----------------------------------------------------------------------------------------------------------

CITIES = {
    "Lyon": {"Country": "France", "Continent": "Europe"},
    "Nice": {"Country": "France", "Continent": "Europe"},
    "Kyoto": {"Country": "Japan", "Continent": "Asia"},
}
PROMPTS = {"Country": ["%s is in", '{"city": "%s", "country": "'], "Continent": ["The continent of %s is"]}


def write_ravel(folder: Path, **changed: Any) -> Path:
    files = {
        "entity_attributes": CITIES,
        "attribute_to_prompts": PROMPTS,
        "entity_to_split": {"Lyon": "train", "Nice": "val", "Kyoto": "train"},
        "prompt_to_split": {
            text: "train" if i else "test" for texts in PROMPTS.values() for i, text in enumerate(texts)
        },
        **changed,
    }
    for name, content in files.items():
        (folder / f"ravel_city_{name}.json").write_text(json.dumps(content))
    return folder


def test_ravel_prompts_and_answers_by_hand(tmp_path: Path) -> None:
    task = load_ravel(write_ravel(tmp_path)).task()
    written, spans = task.write(task.causal_model.settings())
    told = dict(zip(written["prompt"], written["text"], strict=True))
    assert len(told) == 9
    assert told["Kyoto is in"] == " Japan" and told['{"city": "Lyon", "country": "'] == "France"
    assert told["The continent of Nice is"] == " Europe"
    for prompt, span, entity in zip(written["prompt"], spans["entity"], written["entity"], strict=True):
        assert prompt[span.start : span.stop] == entity


def test_ravel_cause_changes_the_asked_attribute_and_isolate_does_not(tmp_path: Path) -> None:
    data = load_ravel(write_ravel(tmp_path)).task().counterfactuals("Country", None, 0, "exhaustive")
    asked = data.base["asked"] == "Country"
    assert data.labels["answer"][asked].equals(data.sources["Country"]["Country"][asked].rename("answer"))
    assert data.labels["answer"][~asked].equals(data.base["answer"][~asked])
    assert data.changed[asked].any() and not data.changed[~asked].any()


def test_ravel_splits_and_mistakes(tmp_path: Path) -> None:
    ravel = load_ravel(write_ravel(tmp_path))
    task = ravel.task(["Country"], entity_split="train", prompt_split="test")
    assert task.causal_model.domain("entity").tolist() == ["Lyon", "Kyoto"] and task.causal_model.size == 2
    assert "3 entities, 3 prompts" in repr(ravel)
    with pytest.raises(DataError, match=r"Did you mean 'Country'"):
        ravel.task(["Contry"])
    with pytest.raises(DataError, match="no split 'trian'"):
        ravel.task(entity_split="trian")
    with pytest.raises(DataError, match="No prompts or no entities"):
        ravel.task(["Continent"], prompt_split="train")
    with pytest.raises(DataError, match=r"needs the file ravel_town_entity_attributes\.json"):
        load_ravel(tmp_path, "town")
    with pytest.raises(DataError, match="1 entities of RAVEL city lack"):
        load_ravel(write_ravel(tmp_path, entity_to_split={"Lyon": "train", "Nice": "val"}))
    with pytest.raises(DataError, match="once, as %s"):
        load_ravel(
            write_ravel(tmp_path, attribute_to_prompts={"Country": ["Where?"]}, prompt_to_split={"Where?": "train"})
        ).task()


def test_the_real_ravel_cities(shared: Path) -> None:
    folder = shared / "data" / "ravel" / "city"
    ravel = load_ravel(folder)
    raw = json.loads((folder / "ravel_city_entity_attributes.json").read_text())
    assert (len(ravel.entities), len(ravel.prompts)) == (3552, 273)
    task = ravel.task(["Country", "Language"], "test", "test")
    data = task.counterfactuals("Language", 400, 0)
    for row in range(400):
        base, source = data.base.iloc[row], data.sources["Language"].iloc[row]
        giver = source if base["asked"] == "Language" else base
        assert data.labels["answer"][row] == raw[giver["entity"]][base["asked"]]
        assert base["prompt"] == ravel.prompts["text"][base["wording"]].replace("%s", base["entity"])


# MIB -------------------------------------------------------------------------------------------------------------


def write(folder: Path, rows: list[dict[str, Any]], lines: bool = True) -> Path:
    path = folder / ("rows.jsonl" if lines else "rows.json")
    path.write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(rows))
    return path


def ioi_side(first: str, second: str, giver: str) -> dict[str, Any]:
    choices = [second if giver == first else first, giver]
    return {"prompt": f"As {first} and {second} left, {giver} gave a cup to", "choices": choices, "answerKey": 0}


IOI = [
    {**ioi_side("Ann", "Bob", "Bob"), "s2_io_flip_counterfactual": ioi_side("Ann", "Bob", "Ann")},
    {**ioi_side("Cid", "Dee", "Cid"), "s2_io_flip_counterfactual": ioi_side("Cid", "Dee", "Cid")},
]


@pytest.mark.parametrize("lines", [True, False])
def test_mib_indirect_objects_by_hand(tmp_path: Path, lines: bool) -> None:
    data = load_mib(write(tmp_path, IOI, lines), "ioi", "io_place", "s2_io_flip_counterfactual")
    assert data.base["text"].tolist() == [" Ann", " Dee"]
    assert data.labels["text"].tolist() == [" Bob", " Dee"]
    assert words(data, "base", "repeated") == ["Bob", "Cid"] and words(data, "source", "repeated") == ["Ann", "Cid"]
    assert data.prompts["source"][0] == "As Ann and Bob left, Ann gave a cup to"


def words(data: CounterfactualDataset, run: str, span: str) -> list[str]:
    pairs = zip(data.prompts[run], data.spans[run][span], strict=True)
    return [prompt[at.start : at.stop] for prompt, at in pairs]


def sum_side(a: int, b: int) -> dict[str, Any]:
    return {"prompt": f"The sum of {a} and {b} is ", "operand1": a, "operand2": b, "label": str(a + b)}


def test_mib_sums_by_hand(tmp_path: Path) -> None:
    rows = [
        {**sum_side(47, 21), "operator": "+", "random_counterfactual": {**sum_side(19, 5), "label": 24}},
        {**sum_side(8, 8), "operator": "+", "random_counterfactual": sum_side(10, 10)},
    ]
    data = load_mib(write(tmp_path, rows), "arithmetic", "carry", "random_counterfactual")
    assert data.labels["text"].tolist() == ["78", "6"] and data.base["text"].tolist() == ["68", "16"]
    assert words(data, "base", "operand2") == ["21", "8"] and words(data, "source", "operand1") == ["19", "10"]
    assert data.spans["base"]["operand2"][1].start > data.spans["base"]["operand1"][1].start


def test_mib_choices_by_hand(tmp_path: Path) -> None:
    base = {
        "prompt": "A. red B. blue\nAnswer:",
        "choices": {"label": ["A", "B"], "text": ["red", "blue"]},
        "answerKey": 1,
    }
    other = {"prompt": "1. red 2. blue\nAnswer:", "choices": {"label": [1, 2], "text": ["red", "blue"]}, "answerKey": 0}
    data = load_mib(
        write(tmp_path, [{**base, "symbol_counterfactual": other}]), "choice", "place", "symbol_counterfactual"
    )
    assert (data.base["text"][0], data.sources["place"]["text"][0], data.labels["text"][0]) == (" B", " 1", " A")


def ravel_side(entity: str, country: str, language: str, attribute: str, prompt: str) -> dict[str, str]:
    where = {"Continent": "Europe", "Country": country, "Language": language}
    return {"prompt": prompt, "entity": entity, "attribute": attribute, **where}


def test_mib_ravel_by_hand(tmp_path: Path) -> None:
    asks = ravel_side("Rome", "Italy", "Italian", "Country", "Rome is in")
    speaks = ravel_side("Rome", "Italy", "Italian", "Language", "In Rome they speak")
    tells = ravel_side("Lyon", "France", "French", "wikipedia", "Lyon is a city on the Rhone")
    rows = [{**side, "wikipedia_counterfactual": tells} for side in (asks, speaks)]
    data = load_mib(write(tmp_path, rows), "ravel", "Country", "wikipedia_counterfactual")
    assert data.labels["text"].tolist() == [" France", " Italian"]
    assert data.sources["Country"]["text"].tolist() == ["", ""] and words(data, "base", "entity") == ["Rome", "Rome"]


def test_mib_mistakes_are_explained(tmp_path: Path) -> None:
    path = write(tmp_path, IOI)
    with pytest.raises(DataError, match=r"no kind 'iio'. Did you mean 'ioi'"):
        load_mib(path, "iio", "io_place", "s2_io_flip_counterfactual")
    with pytest.raises(DataError, match="s2_io_flip_counterfactual"):
        load_mib(path, "ioi", "io_place", "s2_flip_counterfactual")
    with pytest.raises(CausalModelError, match="no variable"):
        load_mib(path, "ioi", "io_plac", "s2_io_flip_counterfactual")
    abc = {**ioi_side("Ann", "Bob", "Bob"), "abc_counterfactual": ioi_side("Ann", "Bob", "Eve")}
    with pytest.raises(DataError, match="without a repeated name have no answer"):
        load_mib(write(tmp_path, [abc]), "ioi", "io_place", "abc_counterfactual")
    wrong = {**ioi_side("Ann", "Bob", "Bob"), "answerKey": 1, "x_counterfactual": ioi_side("Ann", "Bob", "Bob")}
    with pytest.raises(DataError, match="the file answers 'Bob', the causal model 'Ann'"):
        load_mib(write(tmp_path, [wrong]), "ioi", "io_place", "x_counterfactual")
    minus = {**sum_side(5, 3), "operator": "-", "x_counterfactual": sum_side(1, 1)}
    with pytest.raises(DataError, match="Only sums"):
        load_mib(write(tmp_path, [minus]), "arithmetic", "carry", "x_counterfactual")
    hidden = {**sum_side(5, 3), "operand1": 6, "operator": "+", "x_counterfactual": sum_side(1, 1)}
    with pytest.raises(DataError, match="does not show its operands 6 and 3"):
        load_mib(write(tmp_path, [hidden]), "arithmetic", "carry", "x_counterfactual")
    nowhere = ravel_side("Rome", "Italy", "Italian", "Country", "It is in")
    with pytest.raises(DataError, match="does not show its entity 'Rome'"):
        load_mib(write(tmp_path, [{**nowhere, "x_counterfactual": nowhere}]), "ravel", "Country", "x_counterfactual")
    with pytest.raises(DataError, match=r"give a \.json list"):
        load_mib(tmp_path / "rows.csv", "ioi", "io_place", "x_counterfactual")


# CausalGym -------------------------------------------------------------------------------------------------------

SUITE = {
    "agr": {
        "templates": ["The {noun} near {the} {other} and {the} cat"],
        "label": "noun",
        "result_prepend_space": True,
        "labels": {"singular": ["is", "was"], "plural-type": ["are"]},
        "variables": {
            "noun": {"singular": ["guard", "guard", "farmer"], "plural-type": ["guards"]},
            "the": ["the", "a"],
            "other": ["manager", "managers"],
        },
    }
}


def test_causalgym_templates_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "suites.json"
    path.write_text(json.dumps(SUITE))
    task = load_causalgym_task(path, "agr")
    written, _ = task.write(task.causal_model.settings())
    assert task.template.spans == ("noun", "the", "other", "the_2") and len(written) == 2 * 2 * 1 * 2 * 2
    for row in written.to_dict("records"):
        noun = row["noun_singular"] if row["kind"] == "singular" else "guards"
        assert row["prompt"] == f"The {noun} near {row['the']} {row['other']} and {row['the']} cat"
        assert row["text"] == (" is" if row["kind"] == "singular" else " are")
    data = task.counterfactuals("kind", 30, 0)
    assert data.labels["text"].tolist() == data.sources["kind"]["text"].tolist()
    with pytest.raises(DataError, match=r"no suite 'arg'. Did you mean 'agr'"):
        load_causalgym_task(path, "arg")


def test_causalgym_pairs_by_hand(tmp_path: Path) -> None:
    row = {
        "base": ["<|endoftext|>", "John", " walked", " because"],
        "src": ["<|endoftext|>", "Jane", " walked", " because"],
        "base_type": "he",
        "src_type": "she",
        "base_label": " he",
        "src_label": " she",
        "task": "agr_gender",
    }
    data = load_causalgym_pairs(write(tmp_path, [row, {**row, "task": "other"}], lines=False), "agr_gender")
    assert len(data) == 1 and data.prompts["source"] == ["<|endoftext|>Jane walked because"]
    assert (data.base["text"][0], data.labels["text"][0]) == (" he", " she")
    assert words(data, "source", "region_1") == ["Jane"] and words(data, "base", "region_2") == [" walked"]
    assert np.array_equal(data.changed, [True])
    with pytest.raises(DataError, match=r"has no task 'agr_gendr'. Did you mean 'agr_gender'"):
        load_causalgym_pairs(tmp_path / "rows.json", "agr_gendr")
