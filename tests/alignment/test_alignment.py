"""Alignments of several variables, mixtures, masks; texts of one and several tokens; nothing depends on how it is
run.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from causal_reft.alignment import Alignment, Sampling, Study, TensorEncoding, TextEncoding, mixed
from causal_reft.alignment.encoding import CHOICES, as_encoding
from causal_reft.alignment.row_facts import target_settings
from causal_reft.alignment.row_scores import score_rows
from causal_reft.causal import CausalModel, Task, Template
from causal_reft.errors import CausalReftWarning, DataError, GraphError, StudyError
from causal_reft.featurizers import Flow, Identity, Mask, Subspace
from causal_reft.graph import Collect, Constant, Interchange, InterventionGraph
from causal_reft.sites import Site, parse_positions
from causal_reft.tasks.equality import equality_inputs, hypothesis
from causal_reft.tasks.equality_network import EqualityNetwork
from causal_reft.tasks.pronouns import pronouns
from causal_reft.training import Recipe
from tests.alignment import planted

BOTH = hypothesis("both relations")
NETWORK = EqualityNetwork(seed=3)
ENCODING = TensorEncoding(lambda data: equality_inputs(data, seed=0), output="answer")
LAYER = Site.at("blocks.0")
PAIRS = BOTH.causal_model.counterfactuals(("left", "right"), 30, seed=0)
ALONE = BOTH.causal_model.counterfactuals("right", 20, seed=1)


def both(rank: int = 8) -> Alignment:
    parts = Subspace(16, rank).split(left=rank // 2, right=rank // 2)
    graph = InterventionGraph(**{name: Interchange(LAYER, part, Collect()) for name, part in parts.items()})
    return Alignment(BOTH.causal_model, graph)


def test_each_variable_takes_its_value_from_the_run_that_the_data_name():
    graph = both().graph_for(PAIRS)
    assert {name: node.source.run for name, node in graph.edits.items()} == {
        "left": "source_left",
        "right": "source_right",
    }
    assert list(both().graph_for(ALONE)) == ["right"]
    assert both().graph_for(ALONE).edits["right"].source.run == "source"


def test_a_mixture_scores_each_row_as_its_own_dataset_does():
    joined = mixed([PAIRS, ALONE])
    assert len(joined) == 50 and joined.variables == ("left", "right")
    assert (joined.sources["left"].iloc[30:].reset_index(drop=True) == ALONE.base).all().all()
    inputs = equality_inputs(joined, seed=0)
    mixture = _log_odds(joined, inputs)
    pairs = _log_odds(PAIRS, {run: rows[:30] for run, rows in inputs.items()})
    alone = _log_odds(ALONE, {"base": inputs["base"][30:], "source": inputs["source_right"][30:]})
    np.testing.assert_allclose(mixture, np.concatenate([pairs, alone]), rtol=1e-3, atol=1e-4)


def _log_odds(data, inputs) -> np.ndarray:
    examples = TensorEncoding(lambda _: inputs, output="answer").examples(data)
    return score_rows(NETWORK, both().graph_for(data), examples)["log_odds"]


def test_a_mixture_trains_every_slice_of_one_rotation():
    alignment = both()
    before = alignment.graph.edits["left"].featurizer.rotation.detach().clone()
    recipe = Recipe(epochs=1, batch_size=25, lr=1e-2, warmup=0.0)
    history = alignment.fit(NETWORK, [PAIRS, ALONE], ENCODING, recipe=recipe, progress=False)
    assert len(history.steps) == 2
    assert not torch.allclose(alignment.graph.edits["left"].featurizer.rotation.detach(), before)
    rows = [node.featurizer.rotation.detach() for node in alignment.graph.edits.values()]
    torch.testing.assert_close(rows[0] @ rows[1].mT, torch.zeros(4, 4), atol=1e-5, rtol=0)


def test_boundless_das_learns_its_size_and_is_scored_with_a_hard_mask():
    mask = Mask(Subspace(16, 16), "boundary")
    alignment = Alignment(BOTH.causal_model, InterventionGraph(right=Interchange(LAYER, mask, Collect())))
    recipe = Recipe(epochs=6, batch_size=20, lr=5e-2, penalty=20.0, warmup=0.0)
    alignment.fit(NETWORK, ALONE, ENCODING, recipe=recipe, progress=False)
    assert mask.temperature == pytest.approx(0.1)
    assert mask.penalty() < 0.4
    score = alignment.iia(NETWORK, ALONE, ENCODING, draws=4)
    assert set(mask.eval().mask().tolist()) <= {0.0, 1.0}
    assert score.random and "percentile" in repr(score)


def test_a_score_prints_what_makes_it_readable():
    text = repr(both().iia(NETWORK, PAIRS, ENCODING, draws=5))
    for words in ("over 30 rows", "no_edit", "random", "separation from the best control", "cause", "isolate"):
        assert words in text


def test_the_target_run_is_a_setting_that_needs_no_interchange():
    frame, valid = target_settings(BOTH.causal_model, PAIRS)
    assert valid.all()
    assert (frame["answer"] == PAIRS.labels["answer"]).all()
    assert (frame["left"] == PAIRS.sources["left"]["left"]).all()
    assert (frame["w"] == PAIRS.sources["left"]["w"]).all()


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ({"leaft": Interchange(LAYER, Subspace(16, 2), Collect())}, "Did you mean 'left'"),
        ({"left": Interchange(LAYER, Identity(16), Constant(0.0))}, "must interchange with another run"),
        ({"left": Collect("base", LAYER)}, "must interchange with another run"),
    ],
)
def test_a_graph_that_is_no_alignment_is_refused(nodes, message):
    with pytest.raises(GraphError, match=message):
        Alignment(BOTH.causal_model, InterventionGraph(**nodes))


def test_an_illusion_report_is_about_one_variable_and_the_right_width():
    with pytest.raises(GraphError, match="one variable in linear coordinates"):
        both().illusion(NETWORK, PAIRS, ENCODING)
    data = planted.counterfactuals(16, 0)
    with pytest.raises(GraphError, match="has width 3"):
        planted.alignment().illusion(planted.truth(), data, planted.ENCODING, reading=torch.eye(3))


def test_what_cannot_encode_is_answered():
    with pytest.raises(DataError, match="Pass a fast tokenizer"):
        as_encoding(len)
    with pytest.raises(DataError, match="no such variable"):
        TensorEncoding(lambda data: equality_inputs(data, 0), output="anser").examples(PAIRS)


@pytest.fixture(scope="module")
def stories(shared):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = shared / "models" / "stories260K-llama"
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def gender(positions: str, featurizer) -> Alignment:
    edit = Interchange(Site(1, positions=positions), featurizer, Collect())
    return Alignment(pronouns().causal_model, InterventionGraph(gender=edit))


@pytest.mark.parametrize("positions", ["gender+name", "last"])
def test_batch_size_and_padding_side_change_no_answer(stories, positions):
    model, tokenizer = stories
    where = [parse_positions(positions)]
    data = pronouns().counterfactuals("gender", 40, seed=0)
    data = data[TextEncoding(tokenizer).equal_token_counts(data, where)][:24]
    alignment = gender(positions, Subspace(64, 24, seed=1))
    runs = [
        alignment.records(model, data, TextEncoding(tokenizer, side), batch_size=size)
        for side in ("right", "left")
        for size in (1, 7, 64)
    ]
    for other in runs[1:]:
        assert (other["iia"] == runs[0]["iia"]).all()
        np.testing.assert_allclose(other["log_odds"], runs[0]["log_odds"], rtol=1e-3, atol=1e-3)


def test_answers_of_several_tokens_are_what_greedy_decoding_writes(stories):
    model, tokenizer = stories
    tail = [" She loved to play", " They went to the park"]
    causal = CausalModel(inputs={"n": (0, 1, 2)}, mechanisms={"answer": lambda n: (n > 1).astype(int)})
    show = {0: "girl named Lily.", 1: "girl named Sue.", 2: "boy named Tim."}
    task = Task("tails", causal, Template("Once there was a {n}", show={"n": show}), answers=dict(enumerate(tail)))
    data = task.counterfactuals("n", None, 0, "exhaustive")
    own = TextEncoding(tokenizer).clean_run(data, "base")
    assert own.labels.ndim == 2
    found = score_rows(model, InterventionGraph(), own)["iia"]
    for prompt, text, right in zip(data.base["prompt"], data.base["text"], found, strict=True):
        ids = tokenizer(prompt, return_tensors="pt")
        length = len(tokenizer(prompt + text)["input_ids"]) - ids["input_ids"].shape[1]
        written = model.generate(**ids, max_new_tokens=length, do_sample=False, pad_token_id=0)[0].tolist()
        assert (written == tokenizer(prompt + text)["input_ids"]) == bool(right)
    examples = TextEncoding(tokenizer).examples(data)
    assert len(examples) == 9
    with pytest.raises(DataError, match="not single tokens"):
        TextEncoding(tokenizer, choices=tuple(tail)).examples(data)


def test_a_study_of_what_a_network_fails_says_what_it_would_rather_say(stories):
    model, tokenizer = stories
    task = replace(pronouns(), answers={"girl": " cat", "boy": " dog"})
    how = Sampling(rows=(16, 16, 16))
    study = Study(model, tokenizer, task=task, sites=[Site(1)], featurizer=Subspace.of_rank(2), sampling=how)
    with pytest.raises(StudyError, match="are left for 'train'") as refused:
        study.prepare(progress=False)
    found = re.search(r"For example '(.*)' goes on with '(.*)'; the network prefers '(.*)'\.$", str(refused.value))
    assert found and found[2] in (" cat", " dog")
    most_likely = model(**tokenizer(found[1], return_tensors="pt")).logits[0, -1].argmax()
    assert found[3].startswith(tokenizer.decode(most_likely))


def test_choices_are_the_tokens_that_continue_each_prompt(stories):
    _, tokenizer = stories
    data = pronouns().counterfactuals("gender", 5, seed=0)
    found = TextEncoding(tokenizer, choices=(" She", " He")).examples(data).info[CHOICES]
    assert found == [(338, 346)] * 5


def test_an_answer_that_does_not_continue_its_prompt_is_answered(stories):
    _, tokenizer = stories
    data = pronouns().counterfactuals("gender", 3, seed=0)
    wrong = replace(data, labels=data.labels.assign(text=["", "", ""]))
    with pytest.raises(DataError, match="does not continue"):
        TextEncoding(tokenizer).examples(wrong)


@pytest.mark.parametrize(("d_model", "rank"), [(7, 3), (8, 8), (2, 1)])
def test_a_flow_is_a_lens_and_says_what_it_is(d_model, rank):
    with pytest.warns(CausalReftWarning, match="can align almost any algorithm"):
        flow = Flow(d_model, rank, seed=1).double()
    for name, parameter in flow.named_parameters():
        if name != "master":
            torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(0))
    h, z, other = (torch.randn(5, n, dtype=torch.float64) for n in (d_model, rank, rank))
    torch.testing.assert_close(flow.write(h, flow.read(h)), h)
    torch.testing.assert_close(flow.read(flow.write(h, z)), z)
    torch.testing.assert_close(flow.write(flow.write(h, z), other), flow.write(h, other))
    assert not torch.allclose(flow.read(2 * h), 2 * flow.read(h)), "it is not linear"
