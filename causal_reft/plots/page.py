"""One page of HTML: it needs no server and no network, fits a phone and follows the reader's dark mode."""

from __future__ import annotations

import html
from base64 import b64encode
from collections.abc import Iterable
from datetime import datetime
from io import BytesIO

import pandas as pd
from matplotlib.axes import Axes

from causal_reft import __version__

SMALLEST = 0.0005  # what three decimals do not show as 0.000
STYLE = """
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --shade: #f3f3f3; --line: #888 }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --paper: #1c1d21; --shade: #292b31; --line: #888 } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: var(--ink);
background: var(--paper); overflow-wrap: break-word }
.table { overflow-x: auto; margin: 1rem 0 } .table table { border-collapse: collapse; font-size: 0.9rem }
.table :is(td, th) { padding: 0.25rem 0.7rem; text-align: left; vertical-align: top; overflow-wrap: normal }
.table th { border-bottom: 1px solid var(--line) } .table tr:nth-child(even) td { background: var(--shade) }
figure { margin: 1rem 0 } figcaption { font-size: 0.9rem } img { max-width: 100%; height: auto; background: #fff }
pre { background: var(--shade); padding: 0.8rem; overflow-x: auto; white-space: pre-wrap }
"""


def document(title: str, parts: Iterable[str], command: str = "") -> str:
    """The page of these parts, which are HTML, with its version and date, and the command that made it."""
    made = f"causal_reft {__version__}, {datetime.now():%Y-%m-%d %H:%M}"
    by = f", by <code>{html.escape(command)}</code>" if command else ""
    lines = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{html.escape(title)}</h1><p>{made}{by}.</p>",
        *parts,
        "</body></html>",
    ]
    return "\n".join(lines)


def table_html(table: pd.DataFrame) -> str:
    """A table in words, whole texts; it scrolls where it is too wide."""
    with pd.option_context("display.max_colwidth", None):
        return f'<div class="table">{in_words(table).to_html(index=False, border=0)}</div>'


def figure_html(source: str, caption: str) -> str:
    """An image with its caption."""
    text = html.escape(caption)
    return f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def embedded(ax: Axes) -> str:
    """A figure as an address that holds it, in vectors; it is closed."""
    import matplotlib.pyplot as plt

    figure, written = ax.get_figure(root=True), BytesIO()
    assert figure is not None
    figure.savefig(written, format="svg", bbox_inches="tight")
    plt.close(figure)
    return f"data:image/svg+xml;base64,{b64encode(written.getvalue()).decode()}"


def in_words(table: pd.DataFrame) -> pd.DataFrame:
    """Every entry as text: three decimals, small numbers in powers of ten, and no p-value as zero."""
    return pd.DataFrame({name: [_entry(str(name), value) for value in column] for name, column in table.items()})


def _entry(name: str, value: object) -> str:
    if value is None or value != value:
        return "–"
    if not isinstance(value, float):
        return str(value)
    if name.split("_")[0] == "p" and value < 0.001:
        return "< 0.001"
    return f"{value:.1e}" if 0 < abs(value) < SMALLEST else f"{value:.3f}"
