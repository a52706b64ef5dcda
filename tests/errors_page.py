"""The page docs/errors.md, written by making every mistake of `tests/mistakes` and copying down the answers.

python -m tests.errors_page                                     make all and write the page
python -m tests.errors_page "A component that does not exist"   make some and print their entries
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

from causal_reft import errors
from tests.mistakes import MISTAKES, Mistake
from tests.mistakes.scene import answer, stage

PAGE = Path(__file__).parents[1] / "docs" / "errors.md"
HEAD = """# Errors

This page is written by `python -m tests.errors_page`, which makes every mistake on it and copies down the answer; the
lines under *Write* run as well.

Every error that the library raises on purpose is a `CausalReftError`, and also the built-in that the same mistake would
raise elsewhere (`ValueError`). Its text says what was given, what is allowed, and the line to type. Nothing is changed
when one is raised: no hook stays on the model, no folder is half written.

In the lines below `model` is a Llama with 3 layers of width 16, 4 query heads and 2 heads of keys and values, and
`copy` another like it; `bert` has two layers, `t5` two stacks of two; `bigcode` is of a family that the table of
architectures does not know; `toy` and `twice` are plain modules, `empty` a model on the device `meta`. `batch` and
`other` are two prompts each, of 5 and 2 tokens; those of `longer` have 5 and 3. `equality` is the causal model of
hierarchical equality over `w, x, y, z`, each 0, 1 or 2, and `wide` one over three inputs of a hundred values;
`network`, `encoding`, `splits` and `settings` are what a small study needs.
"""


def rendered(mistake: Mistake, message: str) -> str:
    """One entry in Markdown."""
    lines = [part for line in message.splitlines() for part in textwrap.wrap(line, 108, drop_whitespace=True) or [""]]
    told = "\n".join(line.rstrip() for line in lines)
    return (
        f"### {mistake.title}\n\n"
        f"```python\n{mistake.wrong}\n```\n\n"
        f"```text\n{mistake.error.__name__}: {told}\n```\n\n"
        f"{textwrap.fill(mistake.why, 118)} *Write*\n\n"
        f"```python\n{mistake.right}\n```\n"
    )


def heading(error: type[Exception]) -> str:
    """The section of a class."""
    return f"## {error.__name__}\n\n{error.__doc__}\n"


def public_errors() -> list[type[Exception]]:
    """Every class of `causal_reft.errors` but the common parent."""
    found = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return [kind for kind in found if kind is not errors.CausalReftError]


def made(mistake: Mistake) -> str:
    """The entry of a mistake, made now."""
    with stage(mistake.wrong) as names:
        return rendered(mistake, answer(mistake.wrong, names, mistake.error))


def main(titles: list[str]) -> None:
    """Make every mistake and write the page, or make some and print their entries."""
    if titles:
        print("\n".join(made(m) for mistakes in MISTAKES.values() for m in mistakes if m.title in titles))
        return
    parts = [part for error, mistakes in MISTAKES.items() for part in (heading(error), *map(made, mistakes))]
    PAGE.write_text("\n".join([HEAD, *parts]), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
