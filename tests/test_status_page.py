"""The page docs/architectures.md is what its command writes."""

from __future__ import annotations

import pytest

from tests.families import FAMILIES
from tests.status_table import CHECKS, PAGE, components_of, page_of, section


@pytest.fixture(scope="module")
def page() -> dict[str, str]:
    """The page's sections by family."""
    parts = PAGE.read_text(encoding="utf-8").split("\n## ")[2:]
    return {part.partition("\n")[0]: "## " + part for part in parts}


def test_every_family_and_component_has_a_row_and_nothing_failed(page):
    assert list(page) == list(FAMILIES)
    for name in FAMILIES:
        rows = [line for line in page[name].splitlines() if line.startswith("| `")]
        assert [row.split("`")[1] for row in rows] == components_of(name)
        assert all(row.count("|") == len(CHECKS) + 2 for row in rows)
    assert "✗" not in PAGE.read_text(encoding="utf-8")


def test_the_page_with_its_matrix_is_made_of_its_sections(page):
    sections = [text.rstrip("\n") + "\n" for text in page.values()]
    assert PAGE.read_text(encoding="utf-8") == page_of(sections)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "falcon_groups"])
def test_a_section_is_what_a_run_gives_now(page, name):
    text, failures = section(name)
    assert not failures
    assert text.strip() == page[name].strip()
