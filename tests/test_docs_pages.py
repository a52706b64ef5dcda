"""The code of every page of the documentation runs as it is pasted, with small models in the place of hub ids."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from causal_reft.graph.kinds import FEATURIZERS
from causal_reft.sites import ARCHITECTURES
from tests.docs_blocks import blocks, run_page

DOCS = Path(__file__).parents[1] / "docs"
ELSEWHERE = ("errors.md", "your_model.md")  # tests/test_errors_page.py; below
PAGES = [
    str(page.relative_to(DOCS)) for page in sorted(DOCS.rglob("*.md")) if page.name not in ELSEWHERE and blocks(page)
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Pages write into the current folder, and register families and featurizers for themselves alone."""
    monkeypatch.chdir(tmp_path)
    before = [(table, dict(table)) for table in (ARCHITECTURES, FEATURIZERS)]
    yield tmp_path
    for table, kept in before:
        table.clear()
        table.update(kept)


@pytest.mark.parametrize("name", PAGES)
def test_the_code_of_a_page_can_be_pasted(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    run_page(DOCS / name)
    assert capsys.readouterr().out


def test_your_own_model_in_five_minutes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = DOCS / "your_model.md"
    agreeing_model(page.read_text(encoding="utf-8"), folder / "HuggingFaceTB" / "SmolLM2-135M-Instruct")
    result = run_page(page)["result"]
    capsys.readouterr()
    assert result.best()["iia"] > result.best()["no_edit"]
    assert (folder / "agreement.png").is_file()


def agreeing_model(code: str, folder: Path) -> None:
    """A tiny model that has learned the page's agreement, under the name of the page's model."""
    found = re.search(r'NOUNS = "(.*?)"', code)
    assert found
    nouns, others = found[1].split(), ["window", "windows", "table", "tables"]
    words = [
        *["<unk>", "<end>", "I", "know", "that", "the", "near", "is", "are"],
        *nouns,
        *(f"{noun}s" for noun in nouns),
        *others,
    ]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<end>", eos_token="<end>")
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, bos_token_id=None, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    texts = [
        f"I know that the {noun}{'s' * plural} near the {other} {'are' if plural else 'is'}"
        for noun in nouns for other in others for plural in (0, 1)
    ]  # fmt: skip
    ids = tokenizer(texts, return_tensors="pt")["input_ids"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        logits = model(ids[:, :-1]).logits[:, -1]
        loss = torch.nn.functional.cross_entropy(logits, ids[:, -1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
