"""A task writes prompts, answers and spans that belong to the causal model's rows; unsolved rows are dropped aloud."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from causal_reft.causal import CausalModel, CounterfactualDataset, Task, Template, keep_solved, next_word
from causal_reft.errors import CausalModelError

MODEL = CausalModel(
    {"a": range(4), "b": range(4)},
    {"bigger": lambda a, b: a > b, "answer": lambda bigger: np.where(bigger, "yes", "no")},
)


def task() -> Task:
    return Task("compare", MODEL, Template("Is {a} more than {b}?"), answers={"yes": " Yes", "no": " No"})


@pytest.fixture
def data() -> CounterfactualDataset:
    return task().counterfactuals("bigger", 40, 0, "balanced")


def test_prompts_answers_and_spans_belong_to_their_rows(data: CounterfactualDataset) -> None:
    for run, frame in data.runs.items():
        for row in range(len(data)):
            a, b, prompt = frame["a"][row], frame["b"][row], data.prompts[run][row]
            assert prompt == f"Is {a} more than {b}?"
            assert frame["text"][row] == (" Yes" if a > b else " No")
            span = data.spans[run]["b"][row]
            assert prompt[span.start : span.stop] == str(b)
    expected = np.where(data.sources["bigger"]["bigger"], " Yes", " No")
    assert data.labels["text"].tolist() == expected.tolist()
    assert data.changed.tolist() == (data.labels["text"] != data.base["text"]).tolist()


def test_defaults_are_the_variables_between_and_the_only_output() -> None:
    assert task().variables == ("bigger",) and task().output == "answer" and task().choices == (" Yes", " No")


def test_sample_and_repr() -> None:
    sample = task().sample(5, seed=1)
    assert sample.equals(task().sample(5, seed=1)) and {"prompt", "text", "bigger"} <= set(sample)
    assert "Task 'compare': find bigger; spans a, b" in repr(task())


def test_among_restricts_what_is_sampled() -> None:
    few = Task("few", MODEL, Template("{a} {b}"), among=MODEL.settings().query("a == 0"))
    assert set(few.sample(20, 0)["a"]) == {0}
    assert set(few.counterfactuals("bigger", 20, 0).base["a"]) == {0}


def test_prompts_survive_pandas_slicing_and_splitting(data: CounterfactualDataset) -> None:
    assert CounterfactualDataset.from_pandas(data.to_pandas()).digest == data.digest
    assert data[5:].prompts["base"] == data.prompts["base"][5:]
    assert data[5:].spans["source"]["a"].tolist() == data.spans["source"]["a"].tolist()[5:]


def test_answers_may_depend_on_how_the_prompt_ends() -> None:
    ends = {"It is": " x", 'It is "': "x", "It is\n": "x", "(": "x", "It is:": " x"}
    assert {prompt: next_word(prompt, "x") for prompt in ends} == ends
    quoted = Task(
        "q", MODEL, Template({r: '{a} {b} "' if r else "{a} {b}" for r in range(4)}, by="a"), continues=next_word
    )
    sample = quoted.sample(40, 0)
    assert (sample["text"].str.startswith(" ") == (sample["a"] == 0)).all()


def test_mistakes_are_explained() -> None:
    with pytest.raises(CausalModelError, match="'c' is no variable"):
        Task("t", MODEL, Template("{c}"))
    with pytest.raises(CausalModelError, match="say which one the network is asked for"):
        Task("t", CausalModel({"a": range(2)}, {"u": lambda a: a, "v": lambda a: a}), Template("{a}"))
    with pytest.raises(CausalModelError, match="cannot be listed"):
        _ = Task("t", MODEL, Template("{a}")).choices
    with pytest.raises(CausalModelError, match="no answer text for answer='no'"):
        Task("t", MODEL, Template("{a} {b}"), answers={"yes": "Y"}).sample(20, 0)


# keep_solved -----------------------------------------------------------------------------------------------------


def test_rows_wrong_in_any_run_are_dropped_and_counted(data: CounterfactualDataset) -> None:
    right = {"base": np.ones(40, dtype=bool), "source": np.ones(40, dtype=bool)}
    right["base"][[3, 7]] = False
    right["source"][[7, 9, 11]] = False
    solved = keep_solved(data, right)
    kept = [row for row in range(40) if row not in (3, 7, 9, 11)]
    assert solved.data.digest == data[kept].digest and solved.dropped == 4
    assert solved.report["rows"].sum() == 80 and solved.report["solved"].sum() == 75
    assert "Kept 36 of 40" in repr(solved)


def test_a_function_of_a_run_and_its_answer_texts_mean_the_same(data: CounterfactualDataset) -> None:
    def always_yes(frame: pd.DataFrame) -> list[str]:
        return [" Yes"] * len(frame)

    by_text = keep_solved(data, always_yes)
    by_bool = keep_solved(data, lambda frame: (frame["text"] == " Yes").to_numpy())
    assert by_text.data.digest == by_bool.data.digest
    assert set(by_text.data.base["text"]) | set(by_text.data.sources["bigger"]["text"]) == {" Yes"}


def test_answers_that_do_not_fit_are_refused(data: CounterfactualDataset) -> None:
    yes = np.ones(40, dtype=bool)
    with pytest.raises(CausalModelError, match="see 'source'"):
        keep_solved(data, {"base": yes})
    with pytest.raises(CausalModelError, match="see 'sorce'"):
        keep_solved(data, {"base": yes, "source": yes, "sorce": yes})
    with pytest.raises(CausalModelError, match="40 rows, its answers the shape"):
        keep_solved(data, {"base": yes[:3], "source": yes})
    with pytest.raises(CausalModelError, match="give bools or answer texts"):
        keep_solved(data, {"base": np.ones(40), "source": yes})
