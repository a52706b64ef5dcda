"""The README's first example runs as it is pasted, and prints what the README says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs_blocks import run_page


def test_the_first_example_can_be_pasted(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = repository / "README.md"
    run_page(readme)
    said = re.findall(r"It prints:\n\n```\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL)[0]
    printed = capsys.readouterr().out
    assert printed.startswith(said.splitlines()[0])
    assert "trainable parameters: 1,284" in printed
    german = set(printed.splitlines()[-1].split()) & {"Dann", "Bald", "den", "die", "das", "im", "der", "in", "nach"}
    assert german and said.splitlines()[-2] in printed
