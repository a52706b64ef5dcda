"""The page of a study is one file that needs nothing else, says what the tables say, and answers in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from causal_reft.alignment import StudyResult
from causal_reft.alignment.cells import CONTROLS
from causal_reft.errors import DataError, StudyError
from causal_reft.plots import site_heatmap_html
from tests.browser import main
from tests.test_display import EVIL, Balanced

CODE = "if 1 < 2:\n    print('</pre><script>')"
ASK = """<script>
const cells = [...document.querySelectorAll(".live-heatmap button")], said = [];
const told = () => said.push(document.querySelector(".live-heatmap section.shown b").textContent);
const key = (name) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true }));
told();
cells[0].focus(); told();
key("ArrowDown"); told();
key("ArrowRight"); told();
cells[0].dispatchEvent(new PointerEvent("pointerenter")); told();
document.querySelector(".live-heatmap table").dispatchEvent(new PointerEvent("pointerleave")); told();
cells[0].click(); told();
document.title = JSON.stringify(said);
</script>"""


@pytest.fixture(scope="session")
def result(finished: StudyResult) -> StudyResult:
    """With layers, and with texts that HTML must not read."""
    told, rows = dict(finished.description), finished.tables.rows["left"]
    told["sites"] = [{**site, "layer": n} for n, site in enumerate(told["sites"])]
    told["labels"] = [f"{label} {EVIL}" for label in told["labels"]]
    told["model"] = {**told["model"], "class": f"of.{EVIL}"}
    rows = rows.assign(base_setting=EVIL + rows["base_setting"])
    return StudyResult(replace(finished.tables, description=told, rows={"left": rows}))


@pytest.fixture(scope="session")
def page(result: StudyResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "new" / "report.html"
    assert result.report(path, code=CODE) == result.report()
    return path


def test_the_page_needs_nothing_else_and_reads_nobody_s_text_as_html(page, result):
    html = page.read_text(encoding="utf-8")
    Balanced(html[html.index("<h1>") : html.index("</body>")])
    assert not re.search(r"(src|href)=[\"'](?!data:)", html) and "@import" not in html
    assert html.count("data:image/svg+xml;base64,") == 5, "map, layers, random subspaces, ladder, coordinates"
    assert EVIL not in html and html.count("<script>") == 1
    text = unescape(html)
    assert CODE in text and result.report() in text and json.dumps(result.description, indent=1) in text
    assert "recipe=cr.Recipe(epochs=1, " in text and "seeds=[0, 1]" in text


@pytest.mark.parametrize("what", ["page", "notebook"])
def test_each_cell_says_its_interval_its_controls_and_what_fails(what, page, result):
    html = unescape(page.read_text(encoding="utf-8") if what == "page" else result._repr_html_())
    told = re.findall(r"<section.*?</section>", html)
    assert len(told) == len(result.grid)
    for (_, row), text in zip(result.grid[::-1].iterrows(), told, strict=True):  # layer 0 at the bottom
        assert f"{row.site} at {row.positions}" in text
        for name in ("iia", "separation"):
            assert f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]" in text
        for words, column in {"PCA": "pca", "whole vector": "full_patch", "permuted labels": "permuted"}.items():
            assert f"{words} {row[column]:.3f}" in text
        records = result.records[result.records["site"] == row.site].groupby("row")
        wrong = records["iia"].mean()[lambda right: right < 1].sort_values(kind="stable")
        assert f"{len(wrong)} of {len(records)} report rows are wrong with some seed" in text
        settings = records["base_setting"].first()
        assert text.count("<tr>") == 1 + {"page": 5, "notebook": 1}[what]
        assert settings[wrong.index[0]][:100] in text


def test_what_a_notebook_is_given_is_small(result):
    html = result._repr_html_()
    Balanced(html)
    assert "<b>&" not in html and len(html) < 6000 + 3000 * len(result.grid)


def test_a_study_without_controls_has_its_page_too(result, tmp_path):
    cells = {cell: found for cell, found in result.tables.cells.items() if cell.kind != CONTROLS}
    partial = StudyResult(replace(result.tables, cells=cells))
    assert "PARTIAL" in partial.report(tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "from the best control" not in html and "IIA 0." in html


def test_a_page_of_another_kind_is_refused(result, tmp_path):
    with pytest.raises(StudyError, match=r"the page is HTML. Write result.report\('.*/report.html'\)"):
        result.report(tmp_path / "report.pdf")
    assert not list(tmp_path.iterdir())


def test_a_map_that_answers_has_one_row_and_one_detail_for_each_cell(result):
    with pytest.raises(DataError, match="1 details for 2 rows"):
        site_heatmap_html(result.grid, ["one"])
    with pytest.raises(DataError, match="2 details for 2 rows on 1 cells"):
        site_heatmap_html(result.grid.assign(site="same", layer=0), ["one", "two"])


@pytest.mark.skipif(shutil.which("chromium") is None, reason="Chromium is not installed")
def test_the_cells_answer_in_a_browser_and_the_page_has_no_fault(page, result, tmp_path, capsys):
    assert main(str(page.parent)) == 0, capsys.readouterr().out
    asked = tmp_path / "asked.html"
    asked.write_text(page.read_text(encoding="utf-8").replace("</body>", f"{ASK}</body>"), encoding="utf-8")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    seen = subprocess.run(
        ["chromium", *flags, "--dump-dom", asked.as_uri()], capture_output=True, text=True, timeout=60
    )
    said = json.loads(unescape(re.findall("<title>(.*?)</title>", seen.stdout)[0]))
    top, chosen = result.grid["site"].iloc[-1], result.best()["site"]
    below = result.grid["site"].iloc[0]
    assert [text.split(" at ")[0] for text in said] == [chosen, top, below, below, top, below, top]
