"""Alignment studies by command, on a tiny model that has learned what they ask: pages, plans, cities by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from causal_reft.alignment import StudyResult
from causal_reft.causal import CAUSE, row_kinds
from causal_reft.experiments.alignments import QUESTIONS
from causal_reft.experiments.alignments.cities import METHODS, CityCell, _compute, _fitted, city_setting
from causal_reft.experiments.alignments.questions import alike
from causal_reft.experiments.alignments.study import Effort, _caption
from causal_reft.experiments.alignments.swaps import SWAPS, heads_taken
from causal_reft.experiments.command_line import main
from causal_reft.experiments.models import load_model
from causal_reft.featurizers import Identity
from causal_reft.seeds import derive
from causal_reft.sites import Site
from causal_reft.tasks import ravel_scores

COUNTRIES = {"France": "Europe", "Spain": "Europe", "Japan": "Asia", "China": "Asia"}
CITIES = {
    f"City{i}": {"Country": name, "Continent": COUNTRIES[name]} for i in range(16) for name in [[*COUNTRIES][i % 4]]
}
ALWAYS_FRANCE = ["%s lies in", "%s sits in"]
PROMPTS = {
    "Country": ["%s is in", "Where is %s ? In", "The country of %s is", *ALWAYS_FRANCE],
    "Continent": ["The continent of %s is", "%s belongs to"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RAVEL's files of a few cities, and a model that knows pronouns and, but for two wordings, the cities."""
    folder = tmp_path_factory.mktemp("aligned")
    texts = [text for texts in PROMPTS.values() for text in texts]
    files = {
        "entity_attributes": CITIES,
        "attribute_to_prompts": PROMPTS,
        "entity_to_split": {city: ("train", "test")[i // 4 % 2] for i, city in enumerate(CITIES)},
        "prompt_to_split": {text: "train" if i % 2 else "test" for i, text in enumerate(texts)},
    }
    for name, content in files.items():
        (folder / f"ravel_city_{name}.json").write_text(json.dumps(content))
    facts = [
        f"{text % city} {'France' if text in ALWAYS_FRANCE else values[attribute]}"
        for attribute, texts in PROMPTS.items() for text in texts for city, values in CITIES.items()
    ]  # fmt: skip
    task = QUESTIONS["gender"].task(_words([]))
    written = task.write(task.causal_model.settings())[0].drop_duplicates("prompt")
    stories = [f"{prompt}{text}" for prompt, text in zip(written["prompt"], written["text"], strict=True)]
    _learned([*facts, *stories], folder / "model")
    return folder


def _words(texts: list[str]) -> PreTrainedTokenizerFast:
    words = ["<end>", "<unk>", *dict.fromkeys(word for text in texts for word in text.split())]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<end>", eos_token="<end>")


def _learned(texts: list[str], folder: Path) -> None:
    """A model that ends each text as it is given."""
    tokenizer = _words(texts)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, bos_token_id=None, eos_token_id=0, pad_token_id=0,
        )
    )  # fmt: skip
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        inputs = {"input_ids": batch["input_ids"][:, :-1], "attention_mask": batch["attention_mask"][:, :-1]}
        loss = torch.nn.functional.cross_entropy(model(**inputs).logits[:, -1], batch["input_ids"][:, -1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def test_a_study_says_what_the_model_can_do_and_what_came_out_beside_the_plan_made_before(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["align", "gender", "--model", str(folder / "model"), "--layers", "0", "--positions", "name"]
    command += ["--heads", "0", "1", "--seeds", "1", "--rows", "16", "--epochs", "1", "--rank", "1", "--random", "4"]
    command += ["--folder", str(tmp_path / "run")]
    _planned(tmp_path / "run")
    killed = {"processor": 1e6, "clock": 2e6, "memory": 2**50}  # an earlier call
    (tmp_path / "run" / "calls").mkdir()
    (tmp_path / "run" / "calls" / "0.json").write_text(json.dumps(killed))
    assert main(command) == 0
    page = (tmp_path / "run" / "page.md").read_text(encoding="utf-8")
    said, written = (" ".join(text.split()) for text in (capsys.readouterr().out, page))  # whatever their lines
    for words in ("right answer in ", "the plan that was made before", "identity patch", " ".join(command[:4])):
        assert words in said and words in written
    found = pd.read_csv(tmp_path / "run" / "gender.csv")
    assert found["layer"].tolist() == [0, 0] and found["head"].tolist() == [0, 1]
    for row in found.itertuples():
        assert f"| 0 | {row.head} | name | {row.iia:.3f} |" in page
    for value in ("iia", "full_patch"):
        assert f"(gender_{value}.png)" in page and (tmp_path / "run" / f"gender_{value}.png").is_file()
    cost = pd.read_csv(tmp_path / "run" / "gender_cost.csv").set_index("stage")
    assert cost["said, s"].to_dict() == {**SAID, "all": 60.0} and cost["cells"].tolist() == [6, 2, 1, 9]
    taken = StudyResult.load(tmp_path / "run" / "study").seconds
    assert cost.loc["all", "taken, s"] == pytest.approx(taken) == cost["taken, s"].iloc[:3].sum()
    assert "2 calls, 100" in written and "at most 1048576.0 GiB" in written


SAID = {"fits": 10.0, "controls": 20.0, "follow-ups": 30.0}


def _planned(folder: Path) -> None:
    """As if an earlier call had made the plan."""
    folder.mkdir()
    plan = {"text": "the plan that was made before the study began", "seconds": SAID}
    (folder / "plan.json").write_text(json.dumps(plan))


def test_masks_over_heads_have_a_map_of_layers_and_heads(folder: Path, tmp_path: Path) -> None:
    _planned(tmp_path / "run")
    command = ["align", "gender", "--model", str(folder / "model"), "--layers", "1", "--positions", "gender"]
    command += ["--seeds", "1", "--rows", "8", "--epochs", "1", "--random", "1", "--swap", "heads"]
    assert main([*command, "--folder", str(tmp_path / "run")]) == 0
    result = StudyResult.load(tmp_path / "run" / "study")
    assert list(result.grid["site"]) == ["attention_head_output.1"]
    taken = heads_taken(result)
    assert taken[["layer", "head"]].to_numpy().tolist() == [[1, 0], [1, 1]]
    assert result.grid.loc[0, "rank"] == max(1, taken["taken"].sum() * 16)  # coordinates of a head
    assert (tmp_path / "run" / "gender_heads_0.png").is_file()


def test_whole_heads_are_swapped_one_by_one_with_nothing_trained() -> None:
    effort = Effort((3,), ("last",), (1, 2), swap="whole")
    assert [site.head for site in effort.sites] == [1, 2] and SWAPS["whole"].featurizer(4, 9) is Identity
    assert effort.figures == ["iia", "logit_difference"] and "nothing is trained" in _caption("iia", effort)


def test_places_are_block_outputs_or_single_heads() -> None:
    assert Effort((0, 3), ("last",)).sites == [Site(0, positions="last"), Site(3, positions="last")]
    assert [site.name for site in Effort((3,), ("last",), (1, 2)).sites] == [
        f"attention_head_output.3.h{head}" for head in (1, 2)
    ]


def test_cities_are_scored_on_answered_rows_of_other_cities_by_every_method(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["align", "cities", "--model", str(folder / "model"), "--data", str(folder), "--layers", "0"]
    command += ["--beside", "Continent", "--seeds", "1", "--rows", "24", "--epochs", "1", "--rank", "2"]
    assert main([*command, "--folder", str(tmp_path / "run")]) == 0
    assert "minutes of processor time" in capsys.readouterr().out
    found = pd.read_csv(tmp_path / "run" / "cities.csv").set_index("method")
    assert list(found.index) == list(METHODS)
    assert np.allclose(found["disentangle"], (found["cause"] + found["isolate"]) / 2)
    assert (tmp_path / "run" / "cities_0.png").is_file()
    best = max(0.5, *found["disentangle"][["PCA of differences", "random subspace"]])  # no edit has 0.5
    compared = found.drop(index=["PCA of differences", "random subspace"])
    assert np.allclose(compared["separation"], compared["disentangle"] - best)
    assert (compared["separation_low"] <= compared["separation"]).all()
    cost = pd.read_csv(tmp_path / "run" / "cities_cost.csv").set_index("stage")
    assert cost["cells"].to_dict() == {"fits": 3, "not trained": 3, "all": 6}
    assert cost["said, s"].notna().all()


def test_rows_of_cities_are_those_whose_prompt_the_model_answers_about_both(folder: Path) -> None:
    model, tokenizer = load_model(folder / "model", dtype="float32")
    effort = Effort((0,), ("entity[-1]",), rank=2, rows=24, epochs=1)
    setting = city_setting(model, tokenizer, effort, folder, "Country", ["Continent"], 16)
    split = json.loads((folder / "ravel_city_entity_to_split.json").read_text())
    for part, data in (("train", setting.train), ("test", setting.test)):
        source, kinds = data.sources["Country"], row_kinds(data, setting.task.causal_model)
        assert (kinds == CAUSE).sum() == len(data) // 2
        assert {split[city] for city in [*data.base["entity"], *source["entity"]]} == {part}
        for row in range(len(data)):
            text, asked = data.base["prompt"][row], data.base["asked"][row]
            for city in (data.base["entity"][row], source["entity"][row]):
                ids = tokenizer(text.replace(data.base["entity"][row], city), return_tensors="pt")["input_ids"]
                assert tokenizer.decode(model(ids).logits[0, -1].argmax()) == CITIES[city][asked]
    right = [_patched(model, tokenizer, setting.test, row) for row in range(len(setting.test))]
    by_hand = ravel_scores(setting.task, setting.test, right)
    whole = _compute(setting, CityCell("whole vector", 0, 0)).facts["rows"][0]
    assert whole == pytest.approx({name: getattr(by_hand, name) for name in whole})
    graphs = {name: _fitted(setting, CityCell(name, 0, 0)) for name in METHODS}
    for name, graph in graphs.items():
        moved = [not torch.equal(a, b) for a, b in zip(graph.parameters(), _started(setting, name), strict=True)]
        assert any(moved) == bool(METHODS[name].trained_on), name


def _patched(model, tokenizer, data, row: int) -> bool:
    """Whether the base prompt has the row's answer where the city's state after block 0 is that of the source."""
    runs = {"base": data.base, "source": data.sources["Country"]}
    ids = {run: tokenizer(frame["prompt"][row], return_tensors="pt")["input_ids"][0] for run, frame in runs.items()}
    at = {run: frame["prompt"][row].split().index(frame["entity"][row]) for run, frame in runs.items()}
    state = model(ids["source"][None], output_hidden_states=True).hidden_states[1][0, at["source"]].detach()

    def write(module, inputs, output):
        output[0, at["base"]] = state

    with torch.no_grad():
        hook = model.model.layers[0].register_forward_hook(write)
        found = model(ids["base"][None]).logits[0, -1].argmax()
        hook.remove()
    return tokenizer.decode(found) == data.labels["answer"][row]


def _started(setting, name: str) -> list[torch.Tensor]:
    return list(METHODS[name].build(setting, Site(0, positions="entity[-1]"), derive(0, "start")).parameters())


def test_names_have_one_length_and_the_tasks_their_spans(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    assert alike("Mary Ann-Marie Tom", lambda text: {"input_ids": text.replace("-", " ").split()}) == ["Mary", "Tom"]
    for question in QUESTIONS.values():
        task = question.task(tokenizer)
        assert set(question.positions) <= {*task.template.spans, "last"}
        assert question.split_by in (None, *task.causal_model.variables)


def test_cities_without_data_say_what_to_give(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["align", "cities", "--model", str(folder / "model"), "--folder", str(folder / "none")]) == 2
    assert "--data FOLDER" in capsys.readouterr().err
