"""A heat map whose cells answer: the mouse, a touch, or Tab and the arrow keys show the details of one below the map.

All of it is in the HTML, so it needs no server. Cells have the colours of the figure; everything else has those of the
page.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import Normalize, to_hex

from causal_reft.errors import DataError
from causal_reft.plots.columns import cells, require
from causal_reft.plots.grids import limits_of
from causal_reft.plots.heatmaps import places, subject
from causal_reft.plots.style import HIGHLIGHT, SEQUENTIAL, label, number, readable_on
from causal_reft.plots.tokens import Html

HATCH = "repeating-linear-gradient(135deg, transparent 0 6px, rgba(128, 128, 128, .6) 6px 7px)"
STYLE = f"""<style>
.live-heatmap .map {{ overflow-x: auto; padding: 4px }}
.live-heatmap .map table {{ border-collapse: separate; border-spacing: 2px; margin: 0 }}
.live-heatmap .map :is(th, td) {{ padding: 0; border: 0; background: none; text-align: center }}
.live-heatmap .map th {{ padding: 2px 8px; font-weight: normal }}
.live-heatmap button {{ font: inherit; min-width: 4.5em; width: 100%; padding: 8px 4px; border: 0; cursor: pointer }}
.live-heatmap button.chosen {{ box-shadow: inset 0 0 0 3px {HIGHLIGHT} }}
.live-heatmap button.unclear {{ background-image: {HATCH} !important }}
.live-heatmap button.shown {{ outline: 3px solid gray; position: relative; z-index: 1 }}
.live-heatmap .details {{ display: grid; margin-top: 8px }}
.live-heatmap section {{ grid-area: 1 / 1; min-width: 0; overflow-wrap: break-word }}
.live-heatmap section:not(.shown) {{ visibility: hidden }}
</style>"""
SCRIPT = """<script>
for (const heatmap of document.querySelectorAll(".live-heatmap:not(.ready)")) {
  heatmap.classList.add("ready");
  const cells = [...heatmap.querySelectorAll("button")], details = [...heatmap.querySelectorAll("section")];
  const show = (cell) => {
    cells.forEach((one, i) => [one, details[i]].forEach((part) => part.classList.toggle("shown", one === cell)));
  };
  let kept = heatmap.querySelector("button.shown");
  for (const cell of cells) {
    cell.onpointerenter = () => show(cell);
    cell.onfocus = cell.onclick = () => show(kept = cell);
  }
  heatmap.querySelector("table").onpointerleave = () => show(kept);
  heatmap.onkeydown = (event) => {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const place = event.target.closest("td"), [down, right] = steps[event.key] || [];
    if (!place || down === undefined) return;
    const row = place.parentElement.parentElement.rows[place.parentElement.sectionRowIndex + down];
    const next = row?.cells[place.cellIndex + right]?.querySelector("button");
    event.preventDefault();
    next?.focus();
  };
}
</script>"""


def site_heatmap_html(
    table: pd.DataFrame,
    details: Sequence[str],
    value: str = "iia",
    x: str = "positions",
    y: str = "layer",
    title: str | None = None,
) -> Html:
    """A score by layer (upwards) and position, as HTML: below the map stand the details of the cell that is asked.

    A column `separated` (bool) says which cells are not hatched, and a column `chosen` which cell is framed and
    shown first.

    Args:
        table: columns `value`, `x`, `y`, one row for each cell.
        details: for each row of the table, the HTML to show. Escape every text of a user in it.
        value: the column of the score.
        x, y: the columns of the two axes, as for `site_heatmap`.
        title: instead of "IIA of gender in LlamaForCausalLM".

    Raises:
        DataError: missing columns, text where numbers belong, several rows on one cell, too few details.
    """
    require(table, "site_heatmap_html", value=value, x=x, y=y)
    y, keys = places(table, x, y)
    made = cells(table, "site_heatmap_html", keys, value)
    if len(details) != len(table) or (made.table["rows"] > 1).any():
        raise DataError(
            f"site_heatmap_html: {len(details)} details for {len(table)} rows on {len(made.table)} cells. Give one row "
            "for each cell, and for each row its details."
        )
    up, across = keys["row"], keys["column"]
    numbers = np.full((len(up.names), len(across.names)), -1)  # of each cell's row in the table
    numbers[up.codes, across.codes] = range(len(table))
    shown = int(np.argmax(table["chosen"] if "chosen" in table.columns else table[value].fillna(-np.inf)))
    buttons = _buttons(table, value, shown)
    heads = "".join(f"<th scope='col'>{escape(name)}</th>" for name in across.names)
    rows = [
        f"<tr><th scope='row'>{escape(name)}</th>"
        + "".join(f"<td>{buttons[n] if n >= 0 else ''}</td>" for n in line.tolist())
        + "</tr>"
        for name, line in zip(up.names, numbers, strict=True)
    ]
    in_order = numbers[numbers >= 0].tolist()  # as the script finds the buttons
    sections = (f"<section{' class=shown' * (n == shown)}>{details[n]}</section>" for n in in_order)
    marks = {"separated": "hatched: does not separate (the report's rule)", "chosen": "framed: chosen"}
    note = "; ".join([*(words for name, words in marks.items() if name in table.columns), "point at a cell"])
    corner = f"{escape(label(y))} \\ {escape(label(x))}"
    foot = f"<tfoot><tr><th>{corner}</th>{heads}</tr></tfoot>"
    return Html(
        f"<div class='live-heatmap'>{STYLE}<div><b>{escape(title or subject(table, value))}</b></div><div>{note}</div>"
        f"<div class='map'><table><tbody>{''.join(rows)}</tbody>{foot}</table></div>"
        f"<div class='details' aria-live='polite'>{''.join(sections)}</div>{SCRIPT}</div>"
    )


def _buttons(table: pd.DataFrame, value: str, shown: int) -> list[str]:
    """One for each row of the table."""
    values = table[value].to_numpy(dtype=float, na_value=np.nan)
    colours, norm = colormaps[SEQUENTIAL].with_extremes(bad="#eeeeee"), Normalize(*limits_of(values, None))
    unknown = pd.DataFrame({"separated": True, "chosen": False}, index=table.index)
    flags = table.reindex(columns=["separated", "chosen"]).fillna(unknown).astype(bool)
    inks = colours(norm(np.ma.masked_invalid(values)))
    drawn = zip(values.tolist(), inks.tolist(), flags.to_numpy(), strict=True)
    buttons = []
    for n, (score, rgba, (separated, chosen)) in enumerate(drawn):
        marks = {"unclear": not separated, "chosen": chosen, "shown": n == shown}
        style = f"background:{to_hex(rgba)};color:{readable_on(rgba)}"
        classes = " ".join(name for name, has in marks.items() if has)
        buttons.append(f"<button type='button' class='{classes}' style='{style}'>{number(score)}</button>")
    return buttons
