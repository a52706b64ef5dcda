"""The composition experiment: every method fills its rows, finished cells are kept, its command takes any model."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import causal_reft as cr
from causal_reft.analysis.behaviours import Behaviour
from causal_reft.data import embedded_folder
from causal_reft.errors import DataError, StudyError
from causal_reft.experiments.composition import METHODS, run_composition
from causal_reft.experiments.composition.command import add_options, experiment_of
from tests.experiments.small import composition


@pytest.fixture
def experiment():
    return composition()


def test_every_method_fills_its_rows(experiment, tmp_path):
    table = run_composition(experiment, tmp_path, seeds=[0], progress=False)
    assert set(table["method"]) == set(METHODS)
    for method, rows in table.groupby("method"):
        assert len(rows) == len(experiment.prompts) * rows["subset"].nunique(), method
        assert "cats + owls" in set(rows["subset"])
        assert rows["prompt"].tolist() == [row["prompt"] for row in experiment.prompts] * rows["subset"].nunique()
    unedited = table[table["subset"] == "unedited"]
    assert unedited.groupby("prompt")["text"].nunique().eq(1).all()


def test_a_finished_cell_is_read_back_and_another_experiment_is_refused(experiment, tmp_path, monkeypatch):
    method = "one joint edit"
    first = run_composition(experiment, tmp_path, [0], [method], progress=False)
    monkeypatch.setitem(METHODS, method, lambda *_: (_ for _ in ()).throw(RuntimeError("computed again")))
    pd.testing.assert_frame_equal(first, run_composition(experiment, tmp_path, [0], [method], progress=False))
    with pytest.raises(StudyError, match=r"settings\.max_steps: 6 -> 7"):
        run_composition(replace(experiment, settings={"max_steps": 7, "batch_size": 4}), tmp_path, [0], [method])


def test_models_with_equal_sums_of_weights_do_not_share_a_folder(experiment, tmp_path):
    run_composition(experiment, tmp_path, [0], ["one joint edit"], progress=False)
    other = composition()
    one, two = (made.model.get_input_embeddings().weight.data for made in (experiment, other))
    two[[1, 2]] = two[[2, 1]]
    assert float(one.sum()) == pytest.approx(float(two.sum()))
    with pytest.raises(StudyError, match=r"model\.weights"):
        run_composition(other, tmp_path, [0], ["one joint edit"], progress=False)


def test_a_behaviour_of_the_same_name_is_read_off_the_kept_texts_anew(experiment, tmp_path):
    first = run_composition(experiment, tmp_path, [0], ["one joint edit"], progress=False)
    opposite = tuple(
        Behaviour(one.name, lambda text, row, one=one: not one.holds(text, row)) for one in experiment.behaviours
    )
    second = run_composition(replace(experiment, behaviours=opposite), tmp_path, [0], ["one joint edit"])
    for one in opposite:
        assert (first[one.name] != second[one.name]).all()


def test_training_prompts_are_no_test_prompts(experiment):
    with pytest.raises(DataError, match="training prompts too"):
        replace(experiment, prompts=[{"prompt": "who is it"}])


def test_an_unknown_method_names_the_nearest(experiment, tmp_path):
    with pytest.raises(DataError, match="one joint edit"):
        run_composition(experiment, tmp_path / "run", methods=["one joint edot"])
    assert not (tmp_path / "run").exists()


def test_the_command_takes_the_embedded_model_one_made_like_it_or_files(tmp_path):
    shipped = experiment_of(options())
    alike = experiment_of(options("--model", str(embedded_folder())))
    assert len(shipped.prompts) == len(alike.prompts) == 234
    assert shipped.description() == alike.description()
    with pytest.raises(DataError, match=r"no held_out\.jsonl"):
        experiment_of(options("--model", str(tmp_path)))
    with pytest.raises(DataError, match="need --model, --skill at least twice"):
        experiment_of(options("--model", str(tmp_path), "--skill", str(tmp_path / "german.jsonl")))


def test_the_command_reads_files_of_ones_own_and_names_a_line_that_it_cannot(tmp_path):
    german, answer, prompts = (tmp_path / f"{name}.jsonl" for name in ("german", "answer", "held_out"))
    german.write_text('{"prompt": "a", "continuation": " Hund"}\n', encoding="utf-8")
    answer.write_text('{"prompt": "b", "continuation": " dog"}\n', encoding="utf-8")
    prompts.write_text('{"prompt": "c", "english": "dog", "german": "Hund"}\n', encoding="utf-8")
    files = ["--skill", str(german), "--skill", str(answer), "--prompts", str(prompts)]
    given = ["--model", str(embedded_folder()), *files, "--rank", "2", "--steps", "3", "--lr", "0.5"]
    made = experiment_of(options(*given))
    assert [(skill.name, skill.rank) for skill in made.skills] == [("german", 2), ("answer", 2)]
    assert made.settings == {"max_steps": 3, "lr": {"featurizer": 0.5, "source": 0.5}}
    assert made.site == cr.Site(made.model.config.num_hidden_layers // 2, positions="all")
    for line, message in (("{", "line 2 is no JSON"), ('{"prompt": "d"}', "line 2 lacks a text")):
        prompts.write_text(f'{{"prompt": "c", "english": "dog", "german": "Hund"}}\n{line}\n', encoding="utf-8")
        with pytest.raises(DataError, match=message):
            experiment_of(options(*given))


def options(*words: str) -> Namespace:
    parser = ArgumentParser()
    parser.add_argument("--folder", type=Path)
    add_options(parser)
    return parser.parse_args(words)
