"""The evaluation harness on tasks made here: its own numbers without edits, the edited model's with edits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import causal_reft as cr
from causal_reft.errors import DataError
from tests import words

lm_eval = pytest.importorskip("lm_eval", reason="needs the lmeval extra")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

CHOICE = """
task: choice
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
FREE = """
task: free
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {max_gen_toks: 5, do_sample: false, until: ["tower"]}
metric_list: [{metric: exact_match}]
"""
TEXT = """
task: text
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: word_perplexity}]
"""
QUESTIONS = ["who sees the cat", "what is it", "a dog hears that old grey owl", "who", "is it the old dog that sees"]
CHOICES = ["the cat", "a grey old dog", "owl"]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from lm_eval.tasks import TaskManager

    folder = tmp_path_factory.mktemp("tasks")
    rows = [{"question": question, "choices": CHOICES, "answer": i % 3} for i, question in enumerate(QUESTIONS * 2)]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, text in {"choice": CHOICE, "free": FREE, "text": TEXT}.items():
        (folder / f"{name}.yaml").write_text(text.replace("DATA", str(folder / "data.jsonl")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
        yield TaskManager(include_path=str(folder), include_defaults=False)


def evaluated(model: Any, tasks: Any, names: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The results, and what the model answered to each request."""
    found = lm_eval.simple_evaluate(
        model=model, tasks=names, task_manager=tasks, bootstrap_iters=0, verbosity="ERROR", random_seed=0
    )
    answers = {task: [(s["arguments"], s["resps"]) for s in samples] for task, samples in found["samples"].items()}
    return found["results"], answers


def edited_lm(graph: cr.InterventionGraph, batch_size: int = 3) -> Any:
    from causal_reft.interop.lm_eval import EditedLM

    tokenizer = words.tokenizer()
    return EditedLM(cr.IntervenedModel(words.model(), graph, tokenizer), batch_size, device="cpu")


def test_numbers_without_edits_are_its_own(tasks: Any) -> None:
    from lm_eval.models.huggingface import HFLM

    names = ["choice", "free", "text"]
    theirs = HFLM(pretrained=words.model(), tokenizer=words.tokenizer(), batch_size=2, device="cpu")
    own = evaluated(theirs, tasks, names)
    ours = evaluated(edited_lm(cr.InterventionGraph()), tasks, names)
    assert set(own[0]) == set(names)
    for name in names:
        for key, value in own[0][name].items():
            assert ours[0][name][key] == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value), key
    assert ours[1]["free"] == own[1]["free"]


@pytest.mark.parametrize("positions", ["last", "f1+l1", "all+generated"])
def test_numbers_with_edits_are_those_of_the_edited_model(positions: str, tasks: Any) -> None:
    """Scored by hand, one request at a time without padding; and the same with other batches."""
    graph = cr.loreft(cr.Site(1, positions=positions), 16, 4, init="random", seed=2)
    plain, lm = evaluated(edited_lm(cr.InterventionGraph()), tasks, ["choice", "free"]), edited_lm(graph)
    found, again = evaluated(lm, tasks, ["choice", "free"]), evaluated(edited_lm(graph, 7), tasks, ["choice", "free"])
    assert found[1]["free"] == again[1]["free"] != plain[1]["free"]
    assert found[0]["choice"]["acc,none"] == again[0]["choice"]["acc,none"]
    reft, tokenizer = lm.model, lm.tokenizer
    for arguments, answers in found[1]["choice"]:
        for (context, continuation), ((answer, _),) in zip(arguments, answers, strict=True):
            prompt, whole = (tokenizer(text)["input_ids"] for text in (context, context + continuation))
            ids = torch.tensor([whole])
            log_p = reft({"input_ids": ids, "prompt_lengths": [len(prompt)]}).logits[0].log_softmax(-1).detach()
            by_hand = sum(float(log_p[at - 1, whole[at]]) for at in range(len(prompt), len(whole)))
            assert float(answer) == pytest.approx(by_hand, rel=1e-5)


def test_what_it_cannot_score_is_refused(tasks: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"node 'edit' names tokens of the prompt .*'all\+generated'"):
        evaluated(edited_lm(cr.loreft(cr.Site(1, positions="last"), 16, 2)), tasks, ["text"])
    with pytest.raises(DataError, match="at least 1"):
        edited_lm(cr.InterventionGraph(), batch_size=0)
