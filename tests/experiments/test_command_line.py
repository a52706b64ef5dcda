"""The command line: a mistake is one line and exit code 2, Ctrl-C says how to go on, no empty folder is left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from causal_reft.data import embedded_folder
from causal_reft.errors import DataError
from causal_reft.experiments import command_line
from causal_reft.experiments.command_line import EXPERIMENTS, main
from causal_reft.experiments.composition import METHODS
from causal_reft.training import learner

TEXT = "Anna carries her mouse because it is happy. Soon she sweeps the floor."


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*words: str) -> int:
    try:
        return main(list(words))
    except SystemExit as ended:
        return int(ended.code or 0)


def test_help_lists_every_experiment_and_loads_nothing_heavy() -> None:
    code = "import sys; from causal_reft.experiments.command_line import main; main(['--help'])"
    code += "; print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for command in EXPERIMENTS:
        assert f"  {command.name} " in said and command.line in said
    assert said.splitlines()[-1] == "False"


@pytest.mark.parametrize("command", EXPERIMENTS, ids=lambda command: command.name)
def test_the_help_of_each_has_an_example_its_folder_and_defaults(command, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command.name, "--help") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"Example: python -m causal_reft {command.name} {command.example}".strip() in said
    assert f"(default: {command.folder})" in said
    assert command.name != "demo" or "of everything that is learned (default: 0)" in " ".join(said.split())


MISTAKES = {
    "no experiment of this name": (["compos"], "no experiment 'compos'. Did you mean 'compose'?"),
    "no option of this name": (["compose", "--sedes", "1"], "no option '--sedes'. Did you mean --seeds?"),
    "no networks": (["equality", "--networks", "0"], "argument --networks: 0 is too small; give 1 or more"),
    "fewer than no seeds": (["compose", "--seeds", "-1"], "argument --seeds: -1 is too small; give 1 or more"),
    "no number": (["equality", "--networks", "many"], "argument --networks: 'many' is no whole number"),
    "a learning rate of zero": (["compose", "--lr", "0"], "argument --lr: 0 is too small"),
    "no such method": (["compose", "--methods", "one joint edot"], "Did you mean 'one joint edit'?"),
    "no such file": (["memorise", "--model", "m", "--text", "x.txt"], "there is no file 'x.txt'"),
    "no such folder": (["demo", "--model", "./nowhere"], "There is no folder './nowhere'"),
    "a folder without a model": (["memorise", "--model", ".", "--text", "book.txt"], "'.' holds no model"),
    "no such device": (["compose", "--device", "nonsense"], "device='nonsense' cannot be used"),
    "no such words in the text": (
        ["memorise", "--model", "m", "--text", "book.txt", "--start", "Bob"],
        "does not contain start='Bob'",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_no_folder(mistake: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, message = MISTAKES[mistake]
    Path("book.txt").write_text(TEXT, encoding="utf-8")
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len([line for line in error.splitlines() if "causal_reft" in line or "no experiment" in line]) == 1
    assert "Traceback" not in error
    assert not Path("runs").exists()


def test_a_call_that_fails_in_its_first_cell_leaves_the_folder_to_other_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(experiment, seed: int):
        raise DataError("this learning rate diverges")

    monkeypatch.setitem(METHODS, "one joint edit", failing)
    assert run("compose", "--seeds", "1", "--methods", "one joint edit") == 2
    assert "compose: this learning rate diverges" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_the_traceback_is_shown_where_it_is_asked_for() -> None:
    with pytest.raises(FileNotFoundError):
        run("memorise", "--model", "m", "--text", "x.txt", "--traceback")


def test_ctrl_c_stores_no_half_trained_cell_and_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, steps = learner.Learner.end, []

    def interrupted(self, epoch: int) -> None:
        steps.append(epoch)
        if len(steps) == 3:
            raise KeyboardInterrupt
        real(self, epoch)

    monkeypatch.setattr(learner.Learner, "end", interrupted)
    words = ["compose", "--seeds", "1", "--methods", "one joint edit", "--folder", "run"]
    assert run(*words) == 130
    said = capsys.readouterr()
    assert len(steps) == 3
    assert "what was learned is kept" not in said.out
    assert "0 finished cells are kept in run" in said.out
    assert said.err.splitlines()[-1].endswith(
        "python -m causal_reft compose --seeds 1 --methods 'one joint edit' --folder run"
    )
    assert not Path("run").exists()


def test_an_interrupted_demo_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self, epoch: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(learner.Learner, "end", interrupted)
    assert run("demo", "--folder", "run", "--model", str(embedded_folder())) == 130
    assert not Path("run/index.html").exists()


def test_where_results_are_is_said_first_and_last(capsys: pytest.CaptureFixture[str]) -> None:
    Path("book.txt").write_text(TEXT, encoding="utf-8")
    given = ["--model", str(embedded_folder()), "--text", "book.txt", "--prompt", "Then she says that"]
    few = ["--kinds", "book", "--lengths", "2", "--seeds", "1", "--steps", "1", "--layers", "0"]
    assert run("memorise", *given, *few, "--folder", "run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Results go to run;")
    assert lines[-1] == "Results: run/report.txt"


def test_the_table_names_modules_that_have_both_functions() -> None:
    names = [command.name for command in command_line.EXPERIMENTS]
    assert len(set(names)) == len(names)
    for command in EXPERIMENTS:
        module = __import__(command.module, fromlist=["run_command"])
        assert callable(module.add_options) and callable(module.run_command)
