"""How far a sweep is: a bar on a terminal, a table in a notebook, drawn once a second at most."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from io import StringIO
from typing import Any

from tqdm import tqdm

from causal_reft.display import html_table

Facts = Callable[[], Mapping[str, str]]
SECONDS = 1.0  # between two drawings, at least
ON_TERMINAL = "{desc}: {percentage:3.0f}%|{bar}| {done}/{total} cells [{elapsed}<{remaining}{postfix}]"
IN_NOTEBOOK = "{desc}: {done} of {total} cells are finished, {elapsed} passed, {remaining} left"


class Bar(tqdm):
    """Finished cells, the time left, and what else there is to say.

    Args:
        total, done: cells, and those of them that are finished already.
        name: what it begins with.
        facts: what it says beside that (in rows below it in a notebook): name -> text. Asked where cells were finished.
        progress: whether anything is shown.
    """

    def __init__(self, total: int, done: int, name: str, facts: Facts, progress: bool) -> None:
        self.done, self.facts, self.said = done, facts, (-1, dict[str, str]())
        self.handle = _display_handle() if progress else None
        drawn = {"file": StringIO() if self.handle else None, "bar_format": ON_TERMINAL, "mininterval": SECONDS}
        super().__init__(total=total, initial=done, desc=name, miniters=0, disable=not progress, **drawn)

    def finish(self, cells: int) -> None:
        """So many more are finished."""
        self.done += cells
        self.update(self.done - self.n)

    @property
    def format_dict(self) -> dict[str, Any]:
        """What the formats may name."""
        return {**super().format_dict, "done": self.done}

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Draw it."""
        if self.said[0] != self.done:
            self.said = self.done, dict(self.facts())
            self.postfix = "; ".join(f"{name} {text}" for name, text in self.said[1].items())
        if self.handle is None:
            super().display(msg, pos)
            return
        from IPython.display import HTML

        title = self.format_meter(**{**self.format_dict, "bar_format": IN_NOTEBOOK})
        self.handle.update(HTML(html_table(title, (), self.said[1].items())))


def _display_handle() -> Any:
    """Where a notebook shows what changes; None on a terminal."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from IPython.display import HTML, display

    return display(HTML(""), display_id=True)
