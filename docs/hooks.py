"""Pages of the site that have their source elsewhere: the front page, the changes, the tutorials, the reference.

README.md becomes the front page (its links into docs/ are rewritten), CHANGELOG.md the changes; the notebooks that
`make docs` executed into build/tutorials become the tutorials; every module right under causal_reft becomes a reference
page, in the order of the floors in pyproject.toml, lowest first. So none can be forgotten, and nothing is said twice.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import tomllib
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "causal_reft"
EXECUTED = ROOT / "build" / "tutorials"


def front_page() -> str:
    """The README as the site shows it: its links start at the repository, the site's at docs/."""
    return (ROOT / "README.md").read_text().replace("](docs/", "](")


def notebooks() -> list[Path]:
    """The executed tutorials, in the order of their numbers."""
    return sorted(EXECUTED.glob("*.ipynb"))


def notebook_title(path: Path) -> str:
    """The first heading of a notebook."""
    cells = json.loads(path.read_text())["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return re.findall(r"^# (.+)$", text, flags=re.MULTILINE)[0]


def modules() -> list[str]:
    """The names of the modules right under causal_reft, lowest floor first."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    floors = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    names = [name.strip(" ()") for floor in reversed(floors) for name in floor.split("|")]
    built = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    return [name for name in names if name in built and not name.startswith("_")]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the two empty entries of the navigation."""
    tutorials = [{notebook_title(path): f"tutorials/{path.name}"} for path in notebooks()]
    reference = [{name: f"reference/{name}.md"} for name in modules()]
    filled = {"Tutorials": tutorials, "Reference": reference}
    entries = [{title: filled.get(title, content) for title, content in entry.items()} for entry in config.nav or []]
    config.nav = [entry for entry in entries if all(entry.values())]
    return config


@event_priority(100)  # before mkdocs-jupyter, which turns notebooks into pages
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    files.append(File.generated(config, "index.md", content=front_page()))
    files.append(File.generated(config, "changes.md", content=(ROOT / "CHANGELOG.md").read_text()))
    for name in modules():
        page = f"# causal_reft.{name}\n\n::: causal_reft.{name}\n"
        files.append(File.generated(config, f"reference/{name}.md", content=page))
    for path in notebooks():
        uri = f"tutorials/{path.name}"
        files.append(File(uri, str(EXECUTED.parent), config.site_dir, config.use_directory_urls))
    return files
