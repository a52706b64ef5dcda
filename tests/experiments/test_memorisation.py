"""The grid: what is interrupted goes on to the same table, what is no measure of memory is empty or marked."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from causal_reft.analysis import MemoryRecipe, layer_edits
from causal_reft.errors import CausalReftWarning, DataError, StudyError
from causal_reft.experiments.command_line import main
from causal_reft.experiments.memorisation import MemorisationGrid, MemorisationResult
from causal_reft.experiments.memorisation import grid as memorisation_grid
from tests.analysis.memory_models import PROMPT, TEXT, tokenizer
from tests.experiments.small import EDITS, grid
from tests.models import llama


def test_an_interrupted_grid_ends_with_the_same_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = memorisation_grid.memories, []

    def interrupted(*given):
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(memorisation_grid, "memories", interrupted)
    with pytest.raises(KeyboardInterrupt):
        grid(tmp_path / "a", lengths=(2,)).run(progress=False)
    first = grid(tmp_path / "a", lengths=(2,)).so_far()
    assert not first.complete
    assert len(first.table) == 2 * len(EDITS)
    assert "interrupted" in first.report()
    assert not list((tmp_path / "a").rglob(".unfinished*"))
    resumed = grid(tmp_path / "a", lengths=(2,)).run(progress=False)
    assert len(calls) == 3 + 2  # four cells: two were kept, and the interrupted one counts twice
    assert resumed.complete
    whole = grid(tmp_path / "b", lengths=(2,)).run(progress=False).table
    pd.testing.assert_frame_equal(resumed.table, whole, check_exact=True)
    assert set(whole["text"]) == {"book", "random"}
    assert len(whole) == 4 * len(EDITS)


def test_a_folder_grows_but_holds_one_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = grid(tmp_path, lengths=(2,), kinds=("book",)).run(progress=False)
    real, calls = memorisation_grid.memories, []
    monkeypatch.setattr(memorisation_grid, "memories", lambda *given: calls.append(given) or real(*given))
    larger = grid(tmp_path, lengths=(2, 3), kinds=("book",)).run(progress=False)
    assert len(calls) == 2
    pd.testing.assert_frame_equal(small.table, larger.table[larger.table["n"] == 2])
    for changes in ({"prompt": "owl hen"}, {"recipe": MemoryRecipe(steps=5)}):
        with pytest.raises(StudyError, match="holds another study"):
            grid(tmp_path, **changes).run(progress=False)


def test_lengths_beyond_the_context_are_empty_rows(tmp_path: Path) -> None:
    book = " ".join([TEXT] * 3)
    large = MemorisationGrid(
        llama(), tokenizer(), book, EDITS, (2, 60), ("book",), (0,), PROMPT, MemoryRecipe(steps=4, lr=0.05), tmp_path
    )
    with pytest.warns(CausalReftWarning, match="60 with the prompt exceed the 64 tokens"):
        result = large.run(progress=False)
    empty = result.table[result.table["n"] == 60]
    assert empty["recovery"].isna().all()
    assert set(empty["note"]) == {"beyond the context"}
    assert result.table.loc[result.table["n"] == 2, "recovery"].notna().all()
    assert "Lengths 60: beyond the model's context" in result.report()
    axes = result.figure()
    assert len(axes) == 2
    assert any("beyond the context" in text.get_text() for text in axes[1].texts)


def test_the_last_layer_is_marked_and_controls_have_no_layer(tmp_path: Path) -> None:
    result = grid(tmp_path, kinds=("book",)).run(progress=False)
    marked = result.table[result.table["note"] != ""]
    assert set(marked["layers"]) == {"2"}
    assert set(marked["reach"]) == {1}
    assert result.control["layer"].isna().all()
    assert "Layers 2: an edit there changes only the first new token" in result.report()
    axes = result.figure()
    assert [len(ax.patches) for ax in axes] == [1, 1]  # the grey band
    dotted = [line for line in axes[0].get_lines() if line.get_linestyle() == ":"]
    assert axes[0].figure.get_supxlabel().splitlines() == [
        "layer",
        "line and band: mean and range of 2 seeds",
        "dotted: a learned prompt embedding of equal size; grey: only the first new token can change",
    ]
    assert [line.get_ydata()[0] for line in dotted] == [result.control.loc[result.control["n"] == 2, "recovery"].mean()]
    both = pd.concat([result.table, result.table.assign(rank=3)])
    with pytest.raises(DataError, match="differ by more"):
        MemorisationResult(both).figure()


def test_longest_is_the_largest_length_that_came_back_whole() -> None:
    what = {
        "text": "book",
        "method": "loreft",
        "rank": 1,
        "layers": "0",
        "positions": "last",
        "layer": 0,
        "n_trainable_parameters": 9,
    }
    found = {0: (1.0, 1.0, 0.5), 1: (0.5, 0.25, 0.0)}
    rows = [
        {**what, "seed": seed, "n": n, "recovery": r}
        for seed in found
        for n, r in zip((2, 4, 8), found[seed], strict=True)
    ]
    assert MemorisationResult(pd.DataFrame(rows)).longest()["longest"].tolist() == [4, 0]


@pytest.mark.parametrize("changes", [{"edits": ()}, {"lengths": (2, 2)}, {"seeds": ()}])
def test_empty_and_repeated_grids_are_refused(changes: dict) -> None:
    with pytest.raises(StudyError, match="at least one"):
        grid(None, **changes)


def test_the_command_writes_table_figure_and_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, words = llama(), tokenizer()
    model.save_pretrained(tmp_path / "model")
    words.save_pretrained(tmp_path / "model")
    (tmp_path / "book.txt").write_text(f"A Title\n\n{TEXT}\n")
    options = [
        "--start",
        "fox",
        "--lengths",
        "2",
        "--seeds",
        "1",
        "--steps",
        "3",
        "--layers",
        "0",
        "1",
        "--method",
        "loreft",
    ]
    given = ["--model", str(tmp_path / "model"), "--text", str(tmp_path / "book.txt"), "--prompt", PROMPT, *options]
    assert main(["memorise", *given, "--folder", str(tmp_path / "run")]) == 0
    table = pd.read_csv(tmp_path / "run" / "table.csv")
    assert set(table["method"]) == {"loreft", "prompt_embedding", "none"}
    assert len(table) == 3 * (len(layer_edits(model, layers=[0, 1])))
    read = MemorisationResult.read(tmp_path / "run" / "table.csv")
    assert read.report() == (tmp_path / "run" / "report.txt").read_text().rstrip()
    assert len(read.figure()) == 1
    assert (tmp_path / "run" / "figure.png").stat().st_size > 5_000
    assert (tmp_path / "run" / "report.txt").read_text() in capsys.readouterr().out
