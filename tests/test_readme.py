"""The README's first example runs as it is pasted, with a small model in the place of the one on the hub."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import transformers

from tests import words


def test_the_first_example_can_be_pasted(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = words.tokenizer()
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=9, n_head=2, bos_token_id=1, eos_token_id=None, pad_token_id=0
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    text = (repository / "README.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    assert 'name = "gpt2"' in code
    exec(code.replace('name = "gpt2"', f"name = {str(tmp_path)!r}"), {})
    printed = capsys.readouterr().out
    assert "Collect('source')" in printed and "trainable parameters: 132" in printed
