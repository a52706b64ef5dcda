"""The model card: what it says of the base model, the training and the graph; a text of the user's stays."""

from __future__ import annotations

from pathlib import Path

import pytest

import causal_reft as cr
from tests import words
from tests.reft.test_trainer import PAIRS, arguments, reft_of


def card_of(folder: Path) -> str:
    return (folder / "README.md").read_text()


def test_the_card_names_the_base_its_revision_and_the_graph(tmp_path: Path) -> None:
    model = words.model()
    model.config._name_or_path, model.config._commit_hash = "somebody/small-llama", "0a1b2c"
    reft = cr.IntervenedModel(model, cr.loreft(cr.site_grid([0, 2], "f2+l1"), 16, 2))
    reft.about["data"] = {"source": "ten lines | by hand", "rows": 10}
    reft.save_pretrained(tmp_path)
    text = card_of(tmp_path)
    assert "base_model: somebody/small-llama\n" in text
    assert "`LlamaForCausalLM`: `somebody/small-llama` at revision `0a1b2c`" in text
    assert f"```text\n{reft.graph!r}\n```" in text and f"{2 * (2 * 2 * 16 + 2)} trainable parameters" in text
    assert "## Data\n\n| | |\n|---|---|\n| source | ten lines \\| by hand |\n| rows | 10 |\n" in text
    again = cr.IntervenedModel.from_pretrained(tmp_path, words.model())
    assert again.about == reft.about
    again.with_graph(again.graph.only("edit_0")).save_pretrained(tmp_path, overwrite=True)
    assert card_of(tmp_path) != text and "edit_1" not in card_of(tmp_path), "it is written again with the graph"


def test_a_text_of_the_users_stays_and_nothing_of_a_card_is_read(tmp_path: Path) -> None:
    reft = cr.IntervenedModel(words.model(), cr.loreft(cr.Site(1), 16, 2))
    reft.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("Mine.")
    reft.save_pretrained(tmp_path, overwrite=True)
    assert card_of(tmp_path) == "Mine."
    assert cr.IntervenedModel.from_pretrained(tmp_path, words.model()).graph == reft.graph


@pytest.mark.parametrize("by", ["fit", "ReftTrainer"])
def test_training_fills_in_recipe_data_and_metrics(by: str, tmp_path: Path) -> None:
    model, tokenizer = words.model(), words.tokenizer()
    reft, records = reft_of(model, tokenizer), cr.completions(PAIRS, tokenizer)
    if by == "fit":
        history = cr.fit(reft, cr.as_examples(records, tokenizer), epochs=2, lr=0.0125, progress=False)
        loss, rate, rows = history.final_loss, "| lr | 0.0125 |", "| rows | 3 |"
    else:
        options = {"learning_rate": 0.0125, "max_steps": 2}
        trainer = cr.ReftTrainer(reft, arguments(tmp_path / "out", **options), train_dataset=records)
        trainer.train()
        loss, rate, rows = trainer.evaluate(records)["eval_loss"], "| learning_rate | 0.0125 |", "| records | 3 |"
        trainer.save_model(str(tmp_path / "saved"))
    if by == "fit":
        reft.save_pretrained(tmp_path / "saved")
    text = card_of(tmp_path / "saved")
    assert rate in text and rows in text and f"loss | {loss:.6g} |" in text
    assert str(tmp_path) not in text
    assert cr.IntervenedModel.from_pretrained(tmp_path / "saved", model).about == reft.about
