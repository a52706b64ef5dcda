"""The code of a page of the documentation, as a reader pastes it.

Blocks marked `python` run in the order of the page, in one namespace; blocks marked `py` (another library's calls, what
needs a cluster or hours) are for reading only.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: Path) -> list[str]:
    """Every block marked `python`, padded with empty lines so that errors name the line of the page."""
    text = page.read_text(encoding="utf-8")
    return ["\n" * text[: found.start(1)].count("\n") + found[1] for found in _BLOCK.finditer(text)]


def run_page(page: Path) -> dict[str, Any]:
    """The namespace after all blocks of a page."""
    space: dict[str, Any] = {"__name__": "__main__"}
    for code in blocks(page):
        exec(compile(code, str(page), "exec"), space)
    return space
