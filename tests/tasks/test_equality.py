"""Hierarchical equality: labels by brute force, vectors that mean their ids, a network that learns the task fast."""

from __future__ import annotations

import itertools

import pandas as pd
import pytest
import torch

from causal_reft.errors import CausalModelError
from causal_reft.tasks import (
    HYPOTHESES,
    EqualityNetwork,
    equality_examples,
    equality_inputs,
    equality_labels,
    hypothesis,
    train_network,
)
from causal_reft.tasks.equality_network import Recipe

Setting = tuple[int, int, int, int]


def answer(w: int, x: int, y: int, z: int) -> bool:
    return (w == x) == (y == z)


BY_HAND = {
    "both relations": lambda b, left, right: (left[0] == left[1]) == (right[2] == right[3]),
    "left only": lambda b, s, _: (s[0] == s[1]) == (b[2] == b[3]),
    "identity of first argument": lambda b, s, _: (s[0] == b[1]) == (b[2] == b[3]),
    "identity subspace of left equality": lambda b, s, _: (s[0] == b[1]) == (b[2] == b[3]),
}


@pytest.mark.parametrize("name", HYPOTHESES)
def test_all_settings_of_every_hypothesis_equal_brute_force(name: str) -> None:
    model = hypothesis(name, n_ids=5).causal_model
    settings = list(itertools.product(range(5), repeat=4))
    assert model.run(model.settings())["answer"].tolist() == [answer(*setting) for setting in settings]


@pytest.mark.parametrize("name", HYPOTHESES)
def test_every_interchange_over_three_ids_equals_brute_force(name: str) -> None:
    tested = hypothesis(name, n_ids=3)
    settings = list(itertools.product(range(3), repeat=4))
    pairs = list(itertools.product(settings, settings))
    base, source = (pd.DataFrame([pair[i] for pair in pairs], columns=list("wxyz")) for i in range(2))
    result = tested.causal_model.interchange(base, **dict.fromkeys(tested.variables, source))
    assert result["answer"].tolist() == [BY_HAND[name](b, s, s) for b, s in pairs]


def test_the_hypotheses_disagree_where_they_should_and_nowhere_else() -> None:
    left, first = hypothesis("left only"), hypothesis("identity of first argument")
    told = left.causal_model.counterfactuals("left", 500, 0, "distinguishing", against=(first.causal_model, "first"))
    source, base = told.sources["left"], told.base
    assert ((source["w"] == source["x"]) != (source["w"] == base["x"])).all()
    both = hypothesis("both relations").causal_model
    with pytest.raises(CausalModelError, match="disagree on 0"):
        left.causal_model.counterfactuals("left", 10, 0, "distinguishing", against=(both, "left"))
    with pytest.raises(CausalModelError, match="Did you mean 'left only'"):
        hypothesis("left onyl")


@pytest.mark.parametrize("name", HYPOTHESES)
def test_vectors_are_equal_exactly_where_ids_are_also_between_base_and_source(name: str) -> None:
    tested = hypothesis(name)
    data = tested.causal_model.counterfactuals(tested.variables, 400, 3, "balanced")
    inputs = equality_inputs(data, seed=0)
    ids = torch.tensor(pd.concat([data.runs[run][list("wxyz")] for run in inputs], axis=1).to_numpy())
    vectors = torch.cat([values.reshape(400, 4, 4) for values in inputs.values()], dim=1)
    same_vectors = (vectors[:, :, None] == vectors[:, None, :]).all(dim=-1)
    assert torch.equal(same_vectors, ids[:, :, None] == ids[:, None, :])
    assert vectors.abs().max() <= 1 and abs(float(vectors.mean())) < 0.05
    assert torch.equal(equality_labels(data), torch.tensor(data.labels["answer"].to_numpy()).long())
    assert float(equality_labels(data).double().mean()) == 0.5


def test_training_examples_are_balanced_fresh_and_labelled_by_their_vectors() -> None:
    inputs, labels = equality_examples(4000, seed=1)
    w, x, y, z = inputs.reshape(4000, 4, 4).unbind(dim=1)
    left, right = (w == x).all(dim=-1), (y == z).all(dim=-1)
    assert torch.equal(labels, (left == right).long())
    assert [int((left & right).sum()), int((left & ~right).sum()), int((~left & right).sum())] == [1000] * 3
    assert len(inputs.unique(dim=0)) == 4000
    assert torch.equal(inputs, equality_examples(4000, seed=1)[0])


def test_hidden_states_are_block_outputs_after_the_relu() -> None:
    network = EqualityNetwork()
    seen: dict[str, torch.Tensor] = {}
    for name in ("blocks.0", "blocks.1", "blocks.2"):
        network.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: seen.update({name: o}))
    logits = network(equality_examples(8, 0)[0])
    assert {name: tuple(hidden.shape) for name, hidden in seen.items()} == dict.fromkeys(seen, (8, 16))
    assert all((hidden >= 0).all() for hidden in seen.values()) and logits.shape == (8, 2)
    assert torch.equal(network.head(seen["blocks.2"]), logits)


def test_the_seed_gives_the_weights_and_leaves_torchs_generator_alone() -> None:
    before = torch.get_rng_state()
    one, same, other = EqualityNetwork(seed=1), EqualityNetwork(seed=1), EqualityNetwork(seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.head.weight, same.head.weight) and not torch.equal(one.head.weight, other.head.weight)


@pytest.mark.parametrize("seed", range(2))
def test_the_quick_recipe_solves_the_task(seed: int) -> None:
    assert train_network(seed).accuracy >= 0.99


def test_training_is_decided_by_the_seed_and_an_untrained_network_is_at_chance() -> None:
    short = Recipe(n_examples=4096, batch_size=512)
    one, same = train_network(5, short), train_network(5, short)
    assert one.accuracy == same.accuracy
    assert all(torch.equal(a, b) for a, b in zip(one.network.parameters(), same.network.parameters(), strict=True))
    from causal_reft.tasks.equality_network import accuracy

    assert abs(accuracy(EqualityNetwork(seed=5), *equality_examples(10_000, 9)) - 0.5) < 0.1
