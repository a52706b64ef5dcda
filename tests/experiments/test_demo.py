"""The demo's parts on few rows: the task says what the model does, and the page holds what was shown."""

from __future__ import annotations

from pathlib import Path

import torch

import causal_reft as cr
from causal_reft.alignment import Controls
from causal_reft.causal.counterfactuals import PROMPT, TEXT
from causal_reft.experiments.demo.align import FIRST_WORDS, language_task, show_alignment
from causal_reft.experiments.page import Page


def test_the_language_task_is_the_models_own_behaviour() -> None:
    """The label is the word of the source's language, and the model by itself says the word of its prompt's."""
    small, rows = cr.load_embedded(), 24
    task = language_task(small)
    pairs = task.counterfactuals("language", rows, seed=3)
    source = pairs.sources["language"]
    assert pairs.labels[TEXT].tolist() == [FIRST_WORDS[language] for language in source["language"]]
    assert set(pairs.base["language"]) == set(FIRST_WORDS)
    prompts = small.tokenizer(pairs.base[PROMPT].tolist(), return_tensors="pt", padding=True, padding_side="left")
    with torch.no_grad():
        logits = small.model(**prompts).logits[:, -1]
    ids = [small.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in FIRST_WORDS.values()]
    said = [list(FIRST_WORDS)[choice] for choice in logits[:, ids].argmax(1).tolist()]
    assert said == pairs.base["language"].tolist()


def test_the_alignment_leaves_its_page(tmp_path: Path) -> None:
    page = Page(tmp_path)
    controls = Controls(random=5, seeds=1, ladder=False, illusion=False)
    result = show_alignment(page, cr.load_embedded(), layers=[2], rows=(32, 16, 16), controls=controls)
    assert len(result.grid) == 2
    written = page.write("title", []).read_text(encoding="utf-8")
    assert "Where does a language model hold the language" in written and "<img" in written
    assert {"alignment.csv", "alignment.png", "alignment_pairs.csv"} <= {file.name for file in tmp_path.iterdir()}
