"""Every mistake on the page docs/errors.md is answered as the page says, and what it says to write runs."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from causal_reft.errors import CausalReftError, CausalReftWarning
from tests.errors_page import HEAD, PAGE, heading, public_errors, rendered
from tests.mistakes import MISTAKES, Mistake
from tests.mistakes.scene import answer, perform, stage

ALL = [pytest.param(mistake, id=mistake.title) for mistakes in MISTAKES.values() for mistake in mistakes]
pytestmark = pytest.mark.filterwarnings("ignore:Module '.*' has a submodule named:UserWarning")


TYPED = [param for param in ALL if not param.values[0].untyped]
UNTYPED = [mistake for mistakes in MISTAKES.values() for mistake in mistakes if mistake.untyped]


@pytest.mark.parametrize("mistake", TYPED)
def test_a_mistake_is_answered_as_the_page_says(mistake: Mistake) -> None:
    with stage(mistake.wrong) as names:
        message = answer(mistake.wrong, names, mistake.error)
    assert re.search(mistake.says, message), message
    assert rendered(mistake, message) in PAGE.read_text(encoding="utf-8"), "run python -m tests.errors_page"


def test_mistakes_that_a_type_checker_sees_first_are_answered_without_one(repository) -> None:
    command = [sys.executable, "-m", "tests.errors_page", *(mistake.title for mistake in UNTYPED)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=repository)
    assert done.returncode == 0, done.stderr
    entries = [f"### {part}".rstrip() for part in done.stdout.split("### ")[1:]]
    assert len(entries) == len(UNTYPED) > 0
    for mistake, entry in zip(UNTYPED, entries, strict=True):
        told = entry.partition("```text\n")[2].partition("\n```")[0]
        assert re.search(mistake.says, told)
        assert entry in PAGE.read_text(encoding="utf-8"), "run python -m tests.errors_page"


@pytest.mark.parametrize("mistake", ALL)
def test_what_the_page_says_to_write_runs(mistake: Mistake) -> None:
    with stage(mistake.right) as names:
        perform(mistake.right, names)


def test_the_page_has_every_public_error_and_every_mistake_once_in_order() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert list(MISTAKES) == public_errors()
    assert all(mistake.error is error for error, mistakes in MISTAKES.items() for mistake in mistakes)
    wanted = [title for e, ms in MISTAKES.items() for title in (f"## {e.__name__}", *(f"### {m.title}" for m in ms))]
    assert re.findall(r"^##+ .*", text, re.MULTILINE) == wanted
    assert len(set(wanted)) == len(wanted)
    assert text.startswith(HEAD) and all(heading(error) in text for error in MISTAKES)
    assert all(issubclass(e, (CausalReftError, CausalReftWarning)) and e.__doc__ for e in MISTAKES)
