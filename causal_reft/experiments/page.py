"""The results of an experiment: figures, tables, and one page that shows them in order, in HTML and in Markdown."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INDENT = "      "
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; font-size: 0.9rem; margin: 1rem 0 } td, th { padding: 0.25rem 0.7rem; text-align:
left } th { border-bottom: 1px solid #888 } tr:nth-child(even) td { background: #f5f5f5 }
img { max-width: 100%; height: auto } pre { background: #f5f5f5; padding: 0.8rem; overflow-x: auto; white-space:
pre-wrap }
"""


@dataclass
class Page:
    """A folder with an `index.html` that grows part by part; every figure and table is a file of its own too.

    `page.md` is the same in Markdown, for a documentation.
    """

    folder: Path
    parts: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def heading(self, text: str) -> None:
        """A section heading, also printed."""
        print(f"\n== {text}")
        self.parts.append(f"<h2>{html.escape(text)}</h2>")
        self.lines.append(f"## {text}")

    def text(self, text: str) -> None:
        """A paragraph, also printed."""
        print(text)
        self.parts.append(f"<p>{html.escape(text)}</p>")
        self.lines.append(text)

    def block(self, text: str) -> None:
        """Preformatted lines, also printed."""
        print(text)
        self.parts.append(f"<pre>{html.escape(text)}</pre>")
        wrapped = (wrap(line, 110, subsequent_indent=INDENT) or [""] for line in text.splitlines())
        self.lines.append("\n".join(["```text", *chain(*wrapped), "```"]))

    def table(self, name: str, table: pd.DataFrame) -> None:
        """A table: printed, shown, and written to `<name>.csv`."""
        rounded = table.round(3)
        print(rounded.to_string(index=False))
        table.to_csv(self._file(f"{name}.csv"), index=False)
        self.parts.append(rounded.to_html(index=False, border=0))
        self.lines.append("\n".join(f"| {' | '.join(map(str, row))} |" for row in _rows(rounded)))

    def figure(self, name: str, ax: Axes, caption: str) -> None:
        """A figure, written to `<name>.png`."""
        import matplotlib.pyplot as plt

        figure = ax.get_figure(root=True)
        assert figure is not None
        figure.savefig(self._file(f"{name}.png"), dpi=150, bbox_inches="tight")
        plt.close(figure)
        self.parts.append(
            f'<p><img src="{name}.png" alt="{html.escape(caption)}"><br><i>{html.escape(caption)}</i></p>'
        )
        self.lines.append(f"![{caption}]({name}.png)\n\n*{caption}*")

    def write(self, title: str) -> Path:
        """The page with everything so far."""
        target = self._file("index.html")
        head = (
            "<!doctype html><html lang='en'><meta "
            f"charset='utf-8'><title>{html.escape(title)}</title><style>{STYLE}</style>"
        )
        target.write_text("\n".join([head, f"<h1>{html.escape(title)}</h1>", *self.parts, "</html>"]), encoding="utf-8")
        self._file("page.md").write_text("\n\n".join(self.lines) + "\n", encoding="utf-8")
        return target

    def _file(self, name: str) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / name


def _rows(table: pd.DataFrame) -> list[list[object]]:
    """The lines of a table in Markdown."""
    return [list(table.columns), ["---"] * len(table.columns), *table.to_numpy(dtype=object).tolist()]
