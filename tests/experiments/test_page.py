"""The page of an experiment: what it shows on a terminal, in a browser and in its files."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import causal_reft as cr
from causal_reft.experiments.page import COLUMNS, Page, fitted, in_words

TABLE = pd.DataFrame(
    {"site": ["a", "b"], "p": [0.0, 0.25], "p_corrected": [4e-4, 1.0], "loss": [3e-5, 0.0], "n": [3, 12_000]}
)


def test_small_numbers_are_not_shown_as_zero() -> None:
    shown = in_words(TABLE.assign(iia=[0.5, float("nan")]))
    assert shown["p"].tolist() == ["< 0.001", "0.250"]
    assert shown["p_corrected"].tolist() == ["< 0.001", "1.000"]
    assert shown["loss"].tolist() == ["3.0e-05", "0.000"]
    assert shown["n"].tolist() == ["3", "12000"] and shown["iia"].tolist() == ["0.500", "–"]


@pytest.mark.parametrize("columns", [2, 5, 30])
def test_a_table_fits_a_terminal(columns: int) -> None:
    wide = pd.DataFrame({f"column_{i}": ["word " * 30, "x"] for i in range(columns)})
    assert max(map(len, fitted(wide).splitlines())) <= COLUMNS


def test_the_page_says_what_made_it_and_what_comes_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = Page(tmp_path, "python -m causal_reft demo --folder 'a b'")
    text = "A sentence that is longer than a line of a terminal. " * 4
    page.text(text)
    page.table("numbers", TABLE.assign(text="word " * 60))
    written = page.write("title", ["the next step"]).read_text(encoding="utf-8")
    assert f"causal_reft {cr.__version__}, 20" in written
    assert "demo --folder &#x27;a b&#x27;</code>" in written and "<li>the next step</li>" in written
    assert "prefers-color-scheme: dark" in written and 'name="viewport"' in written
    assert ("word " * 60).strip() in written, "whole texts on the page"
    assert pd.read_csv(tmp_path / "numbers.csv")["p_corrected"].tolist() == [4e-4, 1.0], "all digits in the file"
    assert max(map(len, capsys.readouterr().out.splitlines())) <= COLUMNS
