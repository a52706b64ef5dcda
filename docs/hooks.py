"""Pages of the site that have their source elsewhere: the front page, the changes, the tutorials, the reference.

README.md becomes the front page (its links into docs/ are rewritten), CHANGELOG.md the changes, CONTRIBUTING.md a page;
the notebooks that `make docs` executed into build/tutorials become the tutorials. The reference begins with a table of
the public names, made from `__init__.pyi` and docstrings; every module right under causal_reft has a page, in the order
of what one wants to do. So none can be forgotten, and nothing is said twice.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "causal_reft"
EXECUTED = ROOT / "build" / "tutorials"
TIMED = ROOT / "build" / "site"  # the same, each with its own duration
# Scripts of notebook pages that ask another server, for diagrams and for widgets; the text of a widget stays.
ELSEWHERE = re.compile(
    r"<script[^>]*>(?:(?!</script>).)*?(?:cdnjs|html-manager)(?:(?!</script>).)*</script>", re.DOTALL
)

# What one wants to do, and the rooms for it, in the order of the reference.
WANTED = {
    "Say where, and in which coordinates": ("sites", "featurizers"),
    "Write an intervention": ("graph",),
    "Run it": ("execution",),
    "Train it": ("training",),
    "Say what should happen": ("causal", "tasks"),
    "Find a variable": ("alignment",),
    "Finetune": ("reft", "interop"),
    "Measure and draw": ("analysis", "plots"),
    "Whole experiments": ("experiments", "sweeps"),
    "A model to try things on": ("data",),
    "Underneath": ("texts", "errors", "display", "tensors", "seeds", "reserved_names"),
}


def of_the_site(text: str) -> str:
    """A page of the repository's root as the site shows it: its links start at the root, the site's at docs/."""
    return text.replace("](docs/", "](")


def notebooks() -> list[Path]:
    """The executed tutorials, in the order of their numbers."""
    return sorted(EXECUTED.glob("*.ipynb"))


def notebook_title(path: Path) -> str:
    """The first heading of a notebook."""
    cells = json.loads(path.read_text())["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return re.findall(r"^# (.+)$", text, flags=re.MULTILINE)[0]


def timed(path: Path) -> dict[str, Any]:
    """A notebook with a sentence under its title that says how long its cells took, where they were executed."""
    notebook = json.loads(path.read_text())
    spent = [_seconds(cell["metadata"].get("execution", {})) for cell in notebook["cells"]]
    if sum(spent):
        first = next(cell for cell in notebook["cells"] if cell["cell_type"] == "markdown")
        title, _, text = "".join(first["source"]).partition("\n")
        first["source"] = f"{title}\n\n*This page ran in {sum(spent):.0f} seconds on one thread.*\n{text}"
    return notebook


def _seconds(execution: dict[str, str]) -> float:
    ends = [execution.get(f"iopub.{end}") for end in ("execute_input", "status.idle")]
    if None in ends:
        return 0.0
    start, end = (datetime.fromisoformat(str(end).replace("Z", "+00:00")) for end in ends)
    return (end - start).total_seconds()


def modules() -> list[str]:
    """The names of the modules right under causal_reft, in the order of `WANTED`, which names each once."""
    built = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    names = [name for rooms in WANTED.values() for name in rooms]
    assert sorted(names) == sorted(name for name in built if not name.startswith("_")), "WANTED lacks a room"
    return names


def public_names() -> dict[str, list[tuple[str, object]]]:
    """The names of `cr` with their values, by the room that defines them."""
    cr = importlib.import_module("causal_reft")
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text())
    found: dict[str, list[tuple[str, object]]] = {}
    for line in stub.body:
        if isinstance(line, ast.ImportFrom) and line.module:
            for alias in line.names:
                room = alias.name if line.module == "causal_reft" else line.module.split(".")[1]
                found.setdefault(room, []).append((alias.name, getattr(cr, alias.name)))
    return found


def names_page() -> str:
    """The first page of the reference: every public name with the first sentence about it."""
    known, parts = (
        public_names(),
        ["# cr\n\n`import causal_reft as cr` gives these names; each room's page has the rest."],
    )
    for title, rooms in WANTED.items():
        rows = [_row(name, value) for room in rooms for name, value in known.get(room, [])]
        if rows:
            parts.append("\n".join([f"## {title}\n", "| name | |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _row(name: str, value: object) -> str:
    first = re.split(r"(?<=\.)\s", " ".join((inspect.getdoc(value) or "").split()), maxsplit=1)[0].rstrip(".")
    target = f"]({name}.md)" if inspect.ismodule(value) else f"][{value.__module__}.{value.__qualname__}]"  # type: ignore[attr-defined]
    return f"| [`cr.{name}`{target} | {first.replace('|', chr(92) + '|')} |"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the two empty entries of the navigation."""
    tutorials = [{notebook_title(path): f"tutorials/{path.name}"} for path in notebooks()]
    modules()
    reference = [{"cr": "reference/cr.md"}] + [
        {title: [{name: f"reference/{name}.md"} for name in rooms]} for title, rooms in WANTED.items()
    ]
    filled = {"Tutorials": tutorials, "Reference": reference}
    entries = [{title: filled.get(title, content) for title, content in entry.items()} for entry in config.nav or []]
    config.nav = [entry for entry in entries if all(entry.values())]
    return config


@event_priority(100)  # before mkdocs-jupyter, which turns notebooks into pages
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    files.append(File.generated(config, "index.md", content=of_the_site((ROOT / "README.md").read_text())))
    files.append(File.generated(config, "changes.md", content=(ROOT / "CHANGELOG.md").read_text()))
    contributing = of_the_site((ROOT / "CONTRIBUTING.md").read_text())
    files.append(File.generated(config, "contributing.md", content=contributing))
    files.append(File.generated(config, "reference/cr.md", content=names_page()))
    for name in modules():
        page = f"# causal_reft.{name}\n\n::: causal_reft.{name}\n"
        files.append(File.generated(config, f"reference/{name}.md", content=page))
    for path in notebooks():
        (TIMED / "tutorials").mkdir(parents=True, exist_ok=True)
        (TIMED / "tutorials" / path.name).write_text(json.dumps(timed(path)))
        files.append(File(f"tutorials/{path.name}", str(TIMED), config.site_dir, config.use_directory_urls))
    return files


def on_post_page(output: str, **_: object) -> str:
    """Without the script that notebooks' pages ask another server for, and without one of no address."""
    return ELSEWHERE.sub("", output).replace('<script src=""> </script>', "")
