"""`tests/browser.py` finds each kind of fault in a site that has them all, and none in the page of an experiment."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from causal_reft.experiments.page import Page
from tests.browser import main

FAULTY = """<!doctype html><html><head><script src="https://example.org/x.js"></script></head>
<body style="color-scheme: light; background: white"><a href="gone.html">gone</a> <a href="#nowhere">nowhere</a>
<img src="missing.png"><p style="color: #ddd">hardly seen</p><p style="width: 600px">wide</p>
<div style="overflow-x: auto"><p style="width: 900px">scrolls by itself</p></div>
<script>undefined_function()</script></body></html>"""

pytestmark = pytest.mark.skipif(shutil.which("chromium") is None, reason="Chromium is not installed")


def test_every_kind_of_fault_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = Page(tmp_path, "python -m causal_reft demo --folder " + "runs/" * 40)
    page.heading("A heading")
    page.block("a line of a block that is much wider than a phone " * 4)
    page.table("wide", pd.DataFrame({f"some_long_column_{i}": ["word " * 9] for i in range(8)}))
    page.write("title", ["next"])
    (tmp_path / "faulty.html").write_text(FAULTY, encoding="utf-8")
    capsys.readouterr()
    assert main(str(tmp_path)) == 1
    said = capsys.readouterr().out
    for fault in (
        ": there is no /gone.html", ": there is no /missing.png", ": /faulty.html has no #nowhere",
        ": asks another server for https://example.org/x.js", " (light): faint: 1.4: p. hardly seen",
        " (dark): errors: Uncaught ReferenceError", " (dark): wide: 608 px: p. wide",
    ):  # fmt: skip
        assert f"/faulty.html{fault}" in said
    assert "scrolls by itself" not in said
    assert "\n/:" not in said and "\n/ (" not in said, "the page of an experiment has no fault"
