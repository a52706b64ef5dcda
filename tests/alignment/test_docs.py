"""The documentation's table of columns is the one in the code."""

from __future__ import annotations

from causal_reft.alignment import COLUMNS


def test_every_column_is_documented_in_the_same_words(repository):
    page = (repository / "docs" / "guides" / "studies.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert rows == [f"| `{name}` | {words} |" for name, words in COLUMNS.items()]
