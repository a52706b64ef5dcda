"""A sweep says how far it is: on a terminal, in a notebook, and once a second at most."""

from __future__ import annotations

from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from causal_reft.sweeps.bar import Bar


def finished(progress: bool = True) -> Bar:
    """A bar of four cells, two of which were done before, that are finished one by one."""
    asked: list[int] = []

    def facts() -> dict[str, str]:
        asked.append(1)
        return {"best:": f"<b> at ask {len(asked)}"}

    with Bar(4, 2, "fits", facts, progress) as bar:
        for _ in range(2):
            for _ in range(50):
                bar.update(0.01)
            bar.finish(1)
    bar.asked = len(asked)  # type: ignore[attr-defined]
    return bar


def test_a_terminal_has_a_bar_with_the_facts_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    bar: Any = finished()
    first, *_, last = capsys.readouterr().err.split("\r")[1:]
    assert "fits:  50%" in first and "2/4 cells" in first and "best: <b> at ask 1]" in first
    assert "fits: 100%" in last and "4/4 cells" in last and "best: <b> at ask 2]" in last
    assert bar.asked == 2, "at the start and at the end: less than a second passed"


def test_a_notebook_has_a_table_that_changes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = InteractiveShell.instance()
    monkeypatch.setattr(shell, "kernel", None, raising=False)  # what the shell of a notebook has
    try:
        with capture_output() as shown:
            finished()
    finally:
        InteractiveShell.clear_instance()
    assert not capsys.readouterr().err
    first, *changes = [output.data["text/html"] for output in shown.outputs if "text/html" in output.data]
    assert "2 of 4 cells are finished" in changes[0] and "<td" in changes[0] and "<b> at" not in changes[0]
    assert first == "" and len(changes) == 2
    assert "4 of 4 cells are finished" in changes[-1] and "&lt;b&gt; at ask 2</td>" in changes[-1]


def test_nothing_is_asked_and_shown_without_progress(capsys: pytest.CaptureFixture[str]) -> None:
    bar: Any = finished(progress=False)
    assert bar.asked == 0 and not "".join(capsys.readouterr())
