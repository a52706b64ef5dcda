"""How values are shown: counts in words, one screen of text, and HTML for notebooks.

HTML names no colours of its own: text and background are the notebook's, lines are half-transparent grey. So it can be
read in light and in dark themes. Every text is escaped.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import fields
from html import escape
from importlib import import_module
from typing import Any

CELL = "text-align:left;vertical-align:top;padding:2px 10px 2px 0;border-bottom:1px solid rgba(128,128,128,.35)"


def counted(count: int, noun: str) -> str:
    """ "1 edit", "2 edits", "1,200 rows"."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def html_table(title: str, heads: Sequence[str], rows: Iterable[Sequence[object]], below: str = "") -> str:
    """A table under a title, and a text below it; it scrolls where it is too wide."""
    body = "".join(f"<tr>{''.join(_cell('td', value) for value in row)}</tr>" for row in rows)
    head = f"<thead><tr>{''.join(_cell('th', text) for text in heads)}</tr></thead>" if heads else ""
    return (
        f"<div style='overflow-x:auto'><div><b>{escape(title)}</b></div><table style='border-collapse:collapse'>"
        f"{head}<tbody>{body}</tbody></table><div>{escape(below)}</div></div>"
    )


def html_text(text: str) -> str:
    """A text in columns, as in a terminal; it scrolls where it is too wide."""
    return f"<pre style='overflow-x:auto;white-space:pre;margin:0'>{escape(text)}</pre>"


def html_fields(value: Any) -> str:
    """A dataclass as a table of its fields."""
    return html_table(type(value).__name__, (), [(one.name, repr(getattr(value, one.name))) for one in fields(value)])


def treescope_repr(value: Any, path: str | None, subtree_renderer: object) -> Any:
    """`__treescope_repr__` of a value: its `repr`, folded to the first line. Only treescope calls it."""
    first, *lines = repr(value).splitlines()
    folded = import_module("treescope.rendering_parts").build_foldable_tree_node_from_children
    return folded(first, lines, "", path=path)


class Listed(ABC):
    """A value that shows itself as a title over lines of (what, which), in a terminal and in a notebook.

    Subclasses give `_listed`.
    """

    @abstractmethod
    def _listed(self) -> tuple[str, list[tuple[str, str]]]:
        """The title, and the lines."""

    def __repr__(self) -> str:
        title, rows = self._listed()
        width = max((len(name) for name, _ in rows), default=0)
        return "\n".join([title, *(f"  {name:<{width}}  {text}" for name, text in rows)])

    def _repr_html_(self) -> str:
        return html_table(self._listed()[0], (), self._listed()[1])

    __treescope_repr__ = treescope_repr


def _cell(kind: str, value: object) -> str:
    return f"<{kind} style='{CELL}'>{escape(str(value))}</{kind}>"
