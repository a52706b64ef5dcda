"""No prompt that was trained on is reported on, whatever of a setting the template shows."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from causal_reft.causal import CausalModel, Splits, Task, Template, shared, split_settings
from causal_reft.errors import CausalModelError


def hidden(n: int) -> Task:
    """The prompt shows `word` only; `mood` decides the answer."""
    model = CausalModel(
        {"word": [f"w{i}" for i in range(n)], "mood": range(50)}, {"answer": lambda word, mood: mood % 2 == 0}
    )
    return Task("hidden", model, Template("The {word} is"))


def prompts(frame_or_part) -> set[str]:
    frames = frame_or_part.runs.values() if hasattr(frame_or_part, "runs") else [frame_or_part]
    return {prompt for frame in frames for prompt in frame["prompt"]}


@pytest.mark.parametrize("by", [None, "mood", ["word", "mood"]])
def test_a_template_that_hides_an_input_leaks_no_prompt(by: str | list[str] | None) -> None:
    data = hidden(3000).counterfactuals("mood", 60, seed=0)
    try:
        parts = data.split(0.5, 0.2, 0.3, by=by)
    except CausalModelError:
        assert by == "mood"  # every mood meets every word: nothing can be split
        return
    seen = [prompts(part) for part in parts]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
    assert parts.shared[["settings", "prompts", "pairs"]].to_numpy().sum() == 0
    assert "no setting and no prompt is in two parts" in repr(parts)


def test_few_prompts_with_many_settings_drop_the_rows_that_cross() -> None:
    data = hidden(12).counterfactuals("mood", 400, seed=0)
    parts = data.split(0.5, 0.2, 0.3)
    assert parts.dropped > 0 and parts.shared["prompts"].sum() == 0 and min(map(len, parts)) > 0


def test_one_prompt_for_all_settings_cannot_be_split() -> None:
    with pytest.raises(CausalModelError, match=r"too few different .* or prompts"):
        hidden(1).counterfactuals("mood", 40, seed=0).split(0.5, 0.2, 0.3)


def test_settings_with_their_prompts_are_split_by_what_is_read() -> None:
    task = hidden(20)
    written = task.write(task.causal_model.settings())[0]
    parts = split_settings(written, 0.5, 0.2, 0.3)
    seen = [prompts(part) for part in parts]
    assert [len(part) for part in seen] == [10, 4, 6] and len(set.union(*seen)) == 20
    drawn = task.counterfactuals("mood", 30, 0, among=parts[0][["word", "mood"]])
    assert prompts(drawn) <= seen[0]


def test_what_parts_share_is_counted_on_their_rows() -> None:
    """Also where the user made the parts."""
    data = hidden(3000).counterfactuals("mood", 60, seed=0)
    splits = data.split(0.5, 0.2, 0.3)
    again = replace(splits, test=data[:10])
    train, select, some = (set(zip(*part.prompts.values(), strict=True)) for part in (*list(splits)[:2], data[:10]))
    same = Splits(data, data[:10], data[10:], dropped=0, by=())
    assert again.shared["pairs"].tolist() == [0, len(train & some), len(select & some)] and train & some
    table = same.shared.set_index("parts")
    assert table.loc["train and select"].tolist() == [20, len(prompts(data[:10])), 10]
    assert "10 pairs in train and select" in repr(same)
    plain = hidden(3000).causal_model.counterfactuals("mood", 20, seed=0)
    assert shared({"a": plain, "b": plain}).to_dict("records") == [
        {"parts": "a and b", "settings": 40, "prompts": 0, "pairs": 20}
    ]


def test_vector_values_are_counted_too() -> None:
    import numpy as np

    model = CausalModel({"x": [np.array([i, i]) for i in range(40)]}, {"y": lambda x: x.sum(axis=-1)})
    data = model.counterfactuals("x", 10, seed=0)
    found = shared({"a": data, "b": data[:4]})
    assert isinstance(found, pd.DataFrame) and found["pairs"].tolist() == [4]
