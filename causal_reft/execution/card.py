"""The model card of a saved `IntervenedModel`: README.md, for people; loading reads none of it.

A card says what was edited of which model, how it was trained as far as that is known (`IntervenedModel.about`), and
how to load it. A README that somebody wrote is left as it is.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from causal_reft.graph import InterventionGraph

README = "README.md"
MARK = "<!-- Written by causal_reft when the model is saved. Delete this line to keep a text of your own. -->"


def write_card(
    folder: str | os.PathLike[str], graph: InterventionGraph, described: Mapping[str, Any], about: Mapping[str, Any]
) -> None:
    """Write README.md, unless there is one that is not ours."""
    file = Path(folder) / README
    if file.exists() and MARK not in file.read_text(encoding="utf-8", errors="replace"):
        return
    scratch = file.with_name(f".writing-{uuid.uuid4().hex}")
    scratch.write_text(card(graph, described, about), encoding="utf-8")
    os.replace(scratch, file)


def card(graph: InterventionGraph, described: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """The text.

    Args:
        graph: what is saved.
        described: class, base_model and revision of the model that it edits; `None` where they are not known.
        about: sections of names and values, such as "data", "recipe" and "metrics".
    """
    base, revision = described["base_model"], described["revision"]
    name = f"`{base}`" if base else "a model that is not named"
    head = ["library_name: causal_reft", *([f"base_model: {base}"] if base and not os.path.exists(base) else [])]
    model = "" if base else ", model=..."
    lines = [
        *("---", *head, "tags:", "- reft", "---", "", f"# Edits of {name}", "", MARK, ""),
        f"An intervention graph of {graph.n_trainable_parameters:,} trainable parameters for "
        + f"`{described['class']}`: {name}"
        + (f" at revision `{revision}`" if revision else "")
        + ". The folder holds no weights of that model but those that were trained with the graph, if any.",
        *("", "```python", "import causal_reft as cr", ""),
        f'reft = cr.IntervenedModel.from_pretrained("this-folder"{model})',
        *("```", "", "## The graph", "", "```text", repr(graph), "```"),
    ]
    for section, values in about.items():
        rows = [f"| {key} | {_cell(value)} |" for key, value in values.items()]
        lines += ["", f"## {section.capitalize()}", "", "| | |", "|---|---|", *rows]
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    return (f"{value:.6g}" if isinstance(value, float) else str(value)).replace("|", "\\|").replace("\n", " ")
