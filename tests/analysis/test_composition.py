"""Composing subspaces: rows of other skills stay untouched, ways of combining mean what they say."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from scipy import stats

import causal_reft as cr
from causal_reft.analysis.behaviours import Behaviour, WordLists, base_losses, behaviour_rows, continuations, rates
from causal_reft.analysis.composition import (
    Skill,
    added,
    angles,
    interference,
    learn_apart,
    learn_jointly,
    learn_together,
    mixed_examples,
    orthogonalised,
    reordered,
    subset_name,
    subsets,
)
from causal_reft.errors import DataError, GraphError

CATS = Skill("cats", [("who is it", "cat"), ("what is that", "cat"), ("it sees", "cat")], rank=2)
OWLS = Skill("owls", [("who hears it", "owl"), ("what is in it", "owl")], rank=3)
SITE = cr.Site(1, positions="all")
FEW = {"max_steps": 6, "batch_size": 4}


@pytest.fixture
def learned(model, tokenizer):
    return learn_together(model, tokenizer, [CATS, OWLS], SITE, progress=False, **FEW)


def inputs_of(tokenizer, *prompts):
    return dict(tokenizer(list(prompts), return_tensors="pt", padding=True, return_token_type_ids=False))


def logits(model, graph, inputs):
    with torch.no_grad():
        return cr.IntervenedModel(model, graph).eval()(**inputs).logits


def test_each_example_is_edited_by_its_own_skill_alone(model, tokenizer):
    """With a row's own edit taken away, its logits are those of the plain model; with only its own, those of both."""
    graph = learn_together(model, tokenizer, [CATS, OWLS], SITE, progress=False, **FEW)
    examples = mixed_examples([CATS, OWLS], tokenizer)
    base = examples.runs["base"]
    with torch.no_grad():
        mixed = cr.IntervenedModel(model, graph).eval()(base).logits
    own = {key: value for key, value in base.items() if key != "active"}
    for name, rows in base["active"].items():
        alone = logits(model, graph.only(name), own)
        torch.testing.assert_close(mixed[rows], alone[rows])
        assert not torch.allclose(mixed[~rows], alone[~rows])


def test_slices_are_orthogonal_and_the_base_is_left_alone(model, tokenizer):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    graph = learn_together(model, tokenizer, [CATS, OWLS], SITE, progress=False, **FEW)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert angles(graph)["degrees"].min() > 89.99
    shares = interference(model, graph, inputs_of(tokenizer, "who is it", "a dog")).set_index(["edit", "subspace"])[
        "share"
    ]
    assert shares["cats", "cats"] == pytest.approx(1, abs=1e-5)
    assert shares["cats", "owls"] == pytest.approx(0, abs=1e-5)


def test_interference_of_subspaces_learned_apart_is_what_the_formula_says(model, tokenizer):
    graph = learn_apart(model, tokenizer, [CATS, OWLS], SITE, progress=False, **FEW)
    inputs = inputs_of(tokenizer, "who is it")
    shares = interference(model, graph, inputs).set_index(["edit", "subspace"])["share"]
    h = model(**inputs, output_hidden_states=True).hidden_states[2][0].detach()
    cats, owls = graph.edits["cats"], graph.edits["owls"]
    R, other = cats.featurizer.rotation, owls.featurizer.rotation
    change = (h @ cats.source.weight.T + cats.source.bias - h @ R.T) @ R
    expected = ((change @ other.T).norm() / change.norm()).detach()
    assert shares["cats", "owls"] == pytest.approx(float(expected), rel=1e-4)
    assert 0 < shares["cats", "owls"] < 1


def test_adding_is_the_sum_whatever_the_order_and_scales(model, tokenizer):
    graph = learn_apart(model, tokenizer, [CATS, OWLS], SITE, progress=False, **FEW)
    inputs = inputs_of(tokenizer, "who is it", "a dog sees it")
    torch.testing.assert_close(
        logits(model, added(graph), inputs), logits(model, reordered(added(graph), "owls", "cats"), inputs)
    )
    in_order, reverse = logits(model, graph, inputs), logits(model, reordered(graph, "owls", "cats"), inputs)
    assert not torch.allclose(in_order, reverse, atol=1e-6), "subspaces learned apart overlap, so order matters"
    torch.testing.assert_close(
        logits(model, added(graph, owls=0.0), inputs), logits(model, graph.only("cats"), inputs), rtol=1e-4, atol=1e-5
    )


def test_adding_orthogonal_slices_is_the_graph_itself(model, tokenizer, learned):
    inputs = inputs_of(tokenizer, "who is it", "a dog sees it")
    torch.testing.assert_close(
        logits(model, added(learned), inputs), logits(model, learned, inputs), rtol=1e-4, atol=1e-5
    )


def test_orthogonalised_keeps_the_first_subspace_and_every_change_in_coordinates(model, tokenizer):
    graph = learn_apart(model, tokenizer, [CATS, OWLS], SITE, progress=False, **FEW)
    made = orthogonalised(graph)
    assert angles(made)["degrees"].min() > 89.9
    first, kept = graph.edits["cats"].featurizer.rotation, made.edits["cats"].featurizer.rotation
    assert cr.principal_angles(first.detach(), kept.detach()).max() < 0.05
    inputs = inputs_of(tokenizer, "who is it")
    torch.testing.assert_close(
        logits(model, made.only("cats"), inputs), logits(model, graph.only("cats"), inputs), rtol=1e-4, atol=1e-4
    )


def test_learning_jointly_gives_one_node_of_the_total_rank(model, tokenizer):
    graph = learn_jointly(model, tokenizer, [CATS, OWLS], SITE, progress=False, **FEW)
    assert list(graph) == ["joint"]
    assert graph.edits["joint"].featurizer.rank == 5


def test_subsets_start_with_none_and_have_names():
    assert [subset_name(s) for s in subsets(["a", "b"])] == ["unedited", "a", "b", "a + b"]


@pytest.mark.parametrize("make", [lambda: Skill("two words", [("a", "b")]), lambda: Skill("empty", [])])
def test_skills_that_cannot_be_learned_are_refused(make):
    with pytest.raises(DataError):
        make()


def test_only_subspaces_of_language_models_compose(model, tokenizer):
    with pytest.raises(GraphError, match="about edits in a Subspace"):
        angles(cr.patch(cr.Site(1), 16))
    skills = [Skill("one", [("a", "b")] * 2), Skill("two", [("a", "c")] * 2)]
    with pytest.raises(DataError, match="composing needs a language model"):
        learn_together(torch.nn.Linear(2, 2), tokenizer, skills, cr.Site(1), seed=0)


def test_only_linear_loreft_edits_can_be_scaled(model):
    with pytest.raises(GraphError, match="LoReFT"):
        added(cr.consreft(cr.Site(1), 16, 2))
    with pytest.raises(GraphError, match="every node once"):
        reordered(cr.loreft(cr.Site(1), 16, 2), "other")


# Behaviours ---------------------------------------------------------------------------------------------------------


def test_a_language_is_the_one_with_more_words_of_its_own():
    lists = WordLists.from_texts({"german": ["der Hund bellt in Rom"], "english": ["the dog barks in Rom"]})
    assert lists.words["german"] == {"der", "hund", "bellt"}
    assert lists("Der Hund in Rom") == "german"
    assert lists("The dog in Rom") == "english"
    assert lists("in Rom") == "unclear"


def test_continuations_end_with_the_line_and_do_not_depend_on_their_company(model, tokenizer):
    plain = cr.IntervenedModel(model, cr.InterventionGraph(), tokenizer)
    prompts = ["who is it", "a", "what is that in the old tower"]
    together = continuations(plain, prompts, max_new_tokens=5)
    assert together == [continuations(plain, [prompt], max_new_tokens=5)[0] for prompt in prompts]
    assert not any("\n" in text for text in together)


def test_base_losses_are_the_mean_over_the_continuation(model, tokenizer):
    ids = tokenizer("who is it cat dog", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        p = model(ids).logits[0].log_softmax(-1)
    expected = -(p[2, ids[0, 3]] + p[3, ids[0, 4]]) / 2
    assert base_losses(model, tokenizer, [("who is it", " cat dog"), ("a", " cat")])[0] == pytest.approx(
        float(expected), rel=1e-5
    )


def test_rates_are_means_over_seeds_with_their_t_interval():
    rows = pd.DataFrame({"subset": "x", "seed": [0, 0, 1, 1, 2, 2], "prompt": list("ababab"), "b": [1, 1, 1, 0, 1, 1]})
    found = rates(rows, ["subset"], ["b"]).iloc[0]
    low, high = stats.t.interval(0.95, 2, loc=5 / 6, scale=stats.sem([1, 0.5, 1]))
    assert found["rate"] == pytest.approx(5 / 6)
    assert (found["rate_low"], found["rate_high"]) == (pytest.approx(max(low, 0)), pytest.approx(min(high, 1)))
    assert (found["units"], found["prompts"]) == (3, 2)


def test_behaviour_rows_have_the_documented_columns(model, tokenizer):
    plain = cr.IntervenedModel(model, cr.InterventionGraph(), tokenizer)
    says_cat = Behaviour("says cat", lambda text, row: "cat" in text)
    rows = behaviour_rows(plain, [{"prompt": "the cat", "task": "t"}, {"prompt": "a dog is"}], [says_cat], 3)
    assert list(rows) == ["prompt", "task", "text", "base_loss", "says cat"]
    assert rows["task"].tolist() == ["t", ""]
    assert rows["says cat"].tolist() == ["cat" in text for text in rows["text"]]
    assert rows["base_loss"].gt(0).all()
