"""The results of an experiment: figures, tables, and one page that shows them in order, in HTML and in Markdown.

The HTML needs no server and no other file than its figures; it fits a phone and follows the reader's dark mode.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import pandas as pd

from causal_reft.plots.page import document, figure_html, in_words, table_html

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 120  # of a terminal


@dataclass
class Page:
    """A folder with an `index.html` that grows part by part; every figure and table is a file of its own too.

    `page.md` is the same in Markdown, for a documentation.

    Args:
        folder: where the page and its files are written.
        command: what the user typed to make it; the page shows it.
    """

    folder: Path
    command: str = ""
    parts: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def heading(self, text: str) -> None:
        """A section heading, also printed."""
        print(f"\n== {text}")
        self.parts.append(f"<h2>{html.escape(text)}</h2>")
        self.lines.append(f"## {text}")

    def text(self, text: str) -> None:
        """A paragraph, also printed."""
        print(_in_lines(text))
        self.parts.append(f"<p>{html.escape(text)}</p>")
        self.lines.append(text)

    def block(self, text: str) -> None:
        """Preformatted lines, also printed."""
        lines = _in_lines(text, "      ")
        print(lines)
        self.parts.append(f"<pre>{html.escape(text)}</pre>")
        self.lines.append(f"```text\n{lines}\n```")

    def table(self, name: str, table: pd.DataFrame) -> None:
        """A table: printed, shown, and written to `<name>.csv`, there with all digits and whole texts."""
        table.to_csv(self._file(f"{name}.csv"), index=False)
        readable = in_words(table)
        print(fitted(readable))
        self.parts.append(table_html(table))
        rows = [list(readable.columns), ["---"] * len(readable.columns), *readable.to_numpy(dtype=object).tolist()]
        self.lines.append("\n".join(f"| {' | '.join(map(str, row))} |" for row in rows))

    def figure(self, name: str, ax: Axes, caption: str) -> None:
        """A figure, written to `<name>.png`."""
        import matplotlib.pyplot as plt

        figure = ax.get_figure(root=True)
        assert figure is not None
        figure.savefig(self._file(f"{name}.png"), dpi=150, bbox_inches="tight")
        plt.close(figure)
        self.parts.append(figure_html(f"{name}.png", caption))
        self.lines.append(f"![{caption}]({name}.png)\n\n*{caption}*")

    def write(self, title: str, then: Sequence[str]) -> Path:
        """The page with everything so far, and at its end what a reader can do next: `then`, one line for each."""
        steps = "".join(f"<li>{html.escape(line)}</li>" for line in then)
        target = self._file("index.html")
        parts = [*self.parts, f"<h2>Next</h2><ul>{steps}</ul>"]
        target.write_text(document(title, parts, self.command), encoding="utf-8")
        self._file("page.md").write_text("\n\n".join(self.lines) + "\n", encoding="utf-8")
        return target

    def _file(self, name: str) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / name


def fitted(table: pd.DataFrame) -> str:
    """Lines for a terminal: long texts are shortened; where that does not suffice, columns go below each other."""
    for longest in range(80, 20, -4):
        text = table.to_string(index=False, max_colwidth=longest)
        if max(map(len, text.splitlines())) <= COLUMNS:
            return text
    return table.to_string(index=False, max_colwidth=24, line_width=COLUMNS)


def _in_lines(text: str, indent: str = "") -> str:
    """The same, with lines for a terminal; those that a longer one is broken into are indented."""
    breaks = {"subsequent_indent": indent, "break_long_words": False, "break_on_hyphens": False}
    return "\n".join(fill(line, COLUMNS, **breaks) for line in text.splitlines())
