"""Finetuning experiments: answers are read off texts as by hand, methods are what they say, commands write a page."""

from __future__ import annotations

import json
import re
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

import causal_reft as cr
from causal_reft.data import embedded_folder
from causal_reft.errors import DataError
from causal_reft.experiments.command_line import main
from causal_reft.experiments.finetuning import BENCHMARKS, METHODS, Bench, FinetuningCell, Item, compare, replicate
from causal_reft.experiments.finetuning.compare import side_by_side
from causal_reft.experiments.finetuning.methods import Shape
from causal_reft.experiments.finetuning.setting import one_answer, over_seeds
from causal_reft.experiments.finetuning.step_cost import StepCell, TensorBytes, step_cost
from tests.experiments.small import reviews


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SST-2, a set with a test file only, and instructions."""
    folder = reviews(tmp_path_factory.mktemp("data"))
    rows = [
        {"instruction": f"Is {n} even?", "input": "", "output": f"the correct answer is {a}", "answer": a}
        for n in range(12)
        for a in [str(n % 2 == 0).lower()]
    ]
    (folder / "boolq").mkdir()
    (folder / "boolq" / "test.json").write_text(json.dumps(rows))
    sums = [{"instruction": f"{n} + 1?", "output": f"The answer is {n + 1}.", "answer": n + 1.0} for n in range(40)]
    (folder / "SVAMP").mkdir()
    (folder / "SVAMP" / "test.json").write_text(json.dumps(sums))
    (folder / "instruct").mkdir()
    (folder / "instruct" / "instruction-data.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture(scope="module")
def bench(data: Path) -> Bench:
    small = cr.load_embedded()
    return Bench(small.model, small.tokenizer, data, batch_size=4, limit=8, test_limit=6)


@pytest.mark.parametrize(
    ("benchmark", "text", "answer", "is_right"),
    [
        ("boolq", "the correct answer is true", "true", True),
        ("boolq", "False. The correct answer is True", "false", False),
        ("boolq", "I am not sure", "false", False),
        ("ARC-Easy", "Answer2: no; the correct answer is answer3", "answer3", True),
        ("ARC-Easy", "the correct answer is answer30", "answer3", False),
        ("piqa", "solution1 and not solution2", "solution1", True),
        ("winogrande", "the correct answer is unclear, option2", "option2", True),
        ("gsm8k", "He needs 24 * 24 = 576 tiles. The answer is 1,576.0.", "1576", True),
        ("gsm8k", "So -3 degrees", "3", False),
        ("mawps", "about 1.8333 inches", "1.8333333333333335", True),
        ("gsm8k", "no number at all", "0", False),
        ("AQuA", "A or B? The answer is D.", "D", True),
        ("AQuA", "BAD", "A", False),
        ("SST-2", " Positive", "positive", True),
        ("CoLA", "yesterday no", "no", True),
    ],
)
def test_answers_are_read_as_by_hand(benchmark: str, text: str, answer: str, is_right: bool) -> None:
    assert BENCHMARKS[benchmark].is_right(text, Item("", "", answer)) is is_right


def test_items_are_split_without_repetition_and_a_missing_training_file_is_said(bench: Bench) -> None:
    parts = bench.parts("SST-2")
    assert [len(parts[name]) for name in ("train", "selection", "test")] == [8, 6, 6]
    assert "train.tsv" in bench.source("SST-2")
    assert set(bench.parts("SST-2")["train"]) & set(parts["test"]) == set()
    assert bench.parts("SST-2")["train"][0].prompt.endswith("positive or negative?\n")
    with pytest.raises(DataError, match=r"no items are left for selection.*--limit"):
        bench.parts("boolq")
    few = replace(bench, limit=3, _parts={})
    assert len({item.prompt for part in few.parts("boolq").values() for item in part}) == 3 + 3 + 6
    assert "half of test.json" in few.source("boolq")
    assert len({item.prompt for part in few.parts("instruct").values() for item in part}) == 3 + 3 + 6
    assert few.source("instruct") == "half of instruction-data.json, scored on the other half"
    with pytest.raises(DataError, match="no folder 'gsm8k'"):
        few.parts("gsm8k")


def test_solutions_with_another_answer_than_the_record_s_are_not_trained_on(tmp_path: Path) -> None:
    (tmp_path / "SVAMP").mkdir()
    rows = [
        {"instruction": f"{n} and 1?", "output": f"The answer is {n + 1 + n % 2}." if n < 30 else "", "answer": n + 1.0}
        for n in range(40)
    ]
    (tmp_path / "SVAMP" / "train.json").write_text(json.dumps(rows))
    (tmp_path / "SVAMP" / "test.json").write_text(json.dumps(rows[:1]))
    parts, source = BENCHMARKS["SVAMP"].parts(tmp_path, limit=10, test_limit=8)
    assert {item.prompt for part in ("train", "selection") for item in parts[part]} == {
        f"{n} and 1?\n" for n in range(2, 30, 2)
    }
    assert "25 of 39 whose completion is not the record's answer are not trained on" in source


def test_benchmarks_without_records_are_left_out_with_the_reason(bench: Bench) -> None:
    names, left_out = replicate._names(bench, Namespace(group="arithmetic", benchmarks=None))
    assert names == ["SVAMP"] and len(left_out) == 3 and "no folder 'AQuA'" in left_out[0]
    with pytest.raises(DataError, match="no folder 'SST-2'"):
        replicate._names(
            replace(bench, data=bench.data / "instruct", _parts={}), Namespace(group="glue", benchmarks=None)
        )
    assert replicate._names(bench, Namespace(group="arithmetic", benchmarks=["AQuA"])) == (["AQuA"], [])


@pytest.mark.parametrize("method", [name for name in METHODS if name != "BitFit"])
def test_every_method_trains_what_it_says_and_leaves_the_model_as_it_was(bench: Bench, method: str) -> None:
    before = {name: value.clone() for name, value in bench.model.state_dict().items()}
    found = bench.compute(FinetuningCell("SST-2", method, 1e-2, 0, rank=2)).facts
    assert found["trainable"] == _expected(bench.model, method) and found["saved_bytes"] == 4 * found["trainable"]
    assert len(found["items"]) == 6 and found["metric"] == "accuracy"
    assert all(torch.equal(value, before[name]) for name, value in bench.model.state_dict().items())


def _expected(model, method: str) -> int:
    d, layers, r = model.config.hidden_size, model.config.num_hidden_layers, 2
    linear = [
        (m.in_features, m.out_features)
        for n, m in model.named_modules()
        if isinstance(m, torch.nn.Linear) and n != "lm_head"
    ]
    heads, kv = model.config.num_attention_heads, model.config.num_key_value_heads
    return {
        "LoReFT": layers * (2 * d * r + r),
        "DiReFT": layers * (2 * d * r + r),
        "ConsReFT": layers * (d * r + r),
        "RED": layers * 2 * d,
        "bottleneck adapter": layers * (2 * d * r + r),
        "LoRA": sum(r * (a + b) for a, b in linear),
        "DoRA": sum(r * (a + b) + b for a, b in linear),
        "prefix tuning": 2 * r * layers * 2 * kv * (d // heads),
        "full finetuning": sum(p.numel() for p in model.parameters()),
    }[method]


def test_a_bottleneck_adapter_starts_as_no_edit(bench: Bench) -> None:
    adapter = METHODS["bottleneck adapter"].build(bench.model, bench.tokenizer, Shape(2), 0).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    assert torch.equal(adapter(ids).logits, bench.model(ids).logits)
    torch.nn.init.normal_(next(iter(adapter.graph.edits.values())).featurizer.weight)
    assert not torch.equal(adapter(ids).logits, bench.model(ids).logits)


def test_losses_of_held_out_answers_are_the_model_s_own(bench: Bench) -> None:
    few = replace(bench, limit=3, test_limit=3, _parts={})
    found = few.score(bench.model, "instruct")
    for item, loss in zip(few.parts("instruct")["test"], found["items"], strict=True):
        record = few.records([item])[0]
        own = bench.model(torch.tensor([record["input_ids"]]), labels=torch.tensor([record["labels"]])).loss
        assert loss == pytest.approx(own.item(), rel=1e-4)
    assert found["metric"] == "loss" and found["texts"] == []


def test_bytes_of_tensors_are_counted_once_and_until_they_are_freed() -> None:
    weight = torch.zeros(100, requires_grad=True)
    with TensorBytes() as memory:
        square = weight * weight  # 400 bytes
        view = square[:50].view(5, 10)
        weight.detach()[:3].data.add_(0)  # nothing new
        assert memory.held == memory.peak == 400
        del square
        assert memory.held == 400
        view.sum().backward()
        del view
        assert memory.held == 400 and weight.grad is not None  # the gradient
        memory.restart()
        assert memory.peak == 400
        weight.grad = None
        assert memory.held == 0


def test_a_step_of_full_finetuning_holds_gradients_and_adam_s_state_and_its_time_is_a_ratio(bench: Bench) -> None:
    found = step_cost(bench, StepCell("SST-2", "full finetuning", rank=2)).facts
    weights = 4 * sum(p.numel() for p in bench.model.parameters())
    assert 3 * weights < found["peak_bytes"] < 5 * weights
    assert 0 < found["step_time_low"] <= found["step_time"] <= found["step_time_high"]


def test_scores_over_seeds_have_an_interval_over_seeds_and_items_that_is_never_a_point() -> None:
    one = {"method": "a", "metric": "accuracy", "score": 0.0, "items": [0.0] * 8}
    costs = {"trainable": 1, "share_trained": 0.1, "saved_bytes": 4, "step_flops": 1.0}
    agreed = over_seeds(pd.DataFrame([one | costs] * 2), ["method"]).iloc[0]
    assert (agreed.score, agreed.score_low) == (0, 0) and agreed.score_high == pytest.approx(1 - 0.025 ** (1 / 8))
    single = over_seeds(pd.DataFrame([one | costs | {"items": [0.0, 1.0] * 20}]), ["method"]).iloc[0]
    assert single.score == 0.5 and single.score_low == pytest.approx(0.352, abs=0.01)


def test_one_answer_to_all_records_is_counted_beside_what_it_scores(bench: Bench) -> None:
    items = bench.parts("SST-2")["test"]
    often = max(sum(item.answer == word for item in items) for word in ("positive", "negative"))
    said = one_answer(bench, "SST-2", [["negative, positive"] * 6, ["Negative.", "positive", *["negative"] * 4]])
    assert f"scores {often / 6:.3f}; 1 of 2 trainings" in said
    assert one_answer(bench, "instruct", []) == ""


def test_a_comparison_says_where_the_largest_rate_is_the_best_and_draws_no_bar_over_another() -> None:
    tried = pd.DataFrame({"benchmark": "SST-2", "method": ["a", "a", "b", "b"], "lr": [1.0, 3.0, 1.0, 3.0]})
    best = pd.DataFrame({"benchmark": "SST-2", "method": ["a", "a", "b"], "lr": [3.0, 3.0, 1.0]})
    assert compare._at_the_edge(tried, best).endswith("for: a on SST-2.")
    assert side_by_side(pd.Series([1.0, 0.1, 0.1, 0.3])).tolist() == pytest.approx([1.0, 0.1, 0.115, 0.3])


@pytest.mark.parametrize(
    ("words", "file", "holds"),
    [
        (
            "replicate instruct --seeds 1 --epochs 1 --limit 3 --test-limit 3",
            "alpaca_eval.json",
            '"instruction": "Is ',
        ),
        ("ablate --ranks 1 2 --positions l1 f1+l1 --shares positions --seeds 1", "ablate_rank.csv", "accuracy,2,"),
        (
            "compare --methods LoReFT LoRA BitFit --benchmarks SST-2 --rates 1 --seeds 1",
            "compare_SST-2.csv",
            ",step_time,step_time_low,step_time_high,peak_bytes\n(.*\n)?LoRA,0.001,",
        ),
    ],
)
def test_a_command_says_its_cost_writes_its_page_and_computes_nothing_twice(
    words: str, file: str, holds: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--model", str(embedded_folder()), "--data", str(data), "--folder", str(tmp_path / "run")]
    command = [*words.split(), *common, "--batch-size", "4"]
    command += [] if "--limit" in command else ["--limit", "8", "--test-limit", "6"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "hours on this machine" in said and f"Results: {tmp_path / 'run' / 'index.html'}" in said
    assert re.search(holds, (tmp_path / "run" / file).read_text(encoding="utf-8"))
    cells = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "cells").iterdir()}
    assert main(command) == 0
    assert cells == {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "cells").iterdir()}
