"""Sources: what each writes, how a learned one starts, and what is refused before a model is ever run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import causal_reft as cr
from causal_reft.errors import GraphError
from tests.models import D_MODEL as D
from tests.models import at_real_tokens, gpt2, prompts

SITE = cr.Site(1)


def graph_of(source: Any, F: cr.Featurizer | None = None, site: cr.Site = SITE, **options: Any) -> cr.InterventionGraph:
    return cr.InterventionGraph(edit=cr.Interchange(site, F or cr.Identity(D), source, **options))


def states(graph: cr.InterventionGraph, batch: dict[str, Tensor], positions: Any = "all", **more: Any) -> Tensor:
    seen = cr.InterventionGraph(seen=cr.Collect("base", cr.Site(1, positions=positions)))
    return cr.IntervenedModel(gpt2(), graph + seen).eval()(batch, **more).collected["seen"]


def test_constant_takes_a_number_a_vector_or_one_vector_for_each_position() -> None:
    batch = prompts([4, 6], "right")
    site, rows = cr.Site(1, positions=[0, -1]), torch.arange(2.0 * D).reshape(2, D)
    for value, expected in [(1.5, torch.full((2, D), 1.5)), (rows[0], rows[[0, 0]]), (rows, rows)]:
        got = states(graph_of(cr.Constant(value), site=site), batch, [0, -1])
        assert torch.equal(got, expected.double().expand(2, 2, D))


def test_constant_is_a_copy_and_prints_its_shape() -> None:
    vector = torch.ones(D)
    constant = cr.Constant(vector)
    vector += 1
    assert torch.equal(constant.tensor, torch.ones(D))
    assert (repr(constant), repr(cr.Constant(0)), repr(cr.Constant([1.0, 2.0]))) == (
        "Constant([16])",
        "Constant(0)",
        "Constant([2])",
    )


@pytest.mark.parametrize("value", [torch.ones(2, 3, 4), torch.tensor([1, 2])], ids=["three axes", "integers"])
def test_constant_refuses_what_is_no_value_of_coordinates(value: Tensor) -> None:
    with pytest.raises(GraphError, match=r"give a float, \(rank,\) or \(n_positions, rank\).*PerRow\(values\)"):
        cr.Constant(value)


def test_constant_of_another_width_or_for_fewer_positions_is_refused() -> None:
    batch = prompts([4, 4], "none")
    with pytest.raises(GraphError, match=r"Constant\(\[3\]\) has width 3, but Subspace.*has rank 2"):
        states(graph_of(cr.Constant(torch.ones(3)), cr.Subspace(D, 2)), batch)
    with pytest.raises(GraphError, match="one value for each of 2 tokens, but row 0 names 4"):
        states(graph_of(cr.Constant(torch.ones(2, D))), batch)


def test_a_constant_whose_first_axis_is_the_batch_is_refused_and_the_error_names_per_row() -> None:
    """It wrote row 0 into every row."""
    batch = prompts([4, 6, 5], "right")
    for positions in ("last", [0, -1], "all", "f5"):
        graph = graph_of(cr.Constant(torch.randn(3, D)), site=cr.Site(1, positions=positions))
        with pytest.raises(GraphError, match=r"one value for each of 3 tokens, but row \d names \d.*PerRow\(values\)"):
            states(graph, batch)


@pytest.mark.parametrize("shape", [(), (D,), (1, D), (3, D), (D, 3), (3,), (1,), (0,), (0, D), (2, 1, D), (3, 1)])
def test_a_constant_is_written_as_its_shape_says_or_refused(shape: tuple[int, ...]) -> None:
    """At one token of each of three rows."""
    batch, value = prompts([4, 6, 5], "left"), torch.randn(shape, generator=torch.Generator().manual_seed(1))
    try:
        got = states(graph_of(cr.Constant(value), site=cr.Site(1, positions="last")), batch, "last")
    except GraphError:
        assert shape not in ((), (D,), (1, D))
        return
    assert shape in ((), (D,), (1, D)) and torch.equal(got, value.double().expand(3, 1, D))


def test_per_row_gives_every_row_its_own_value() -> None:
    batch = prompts([4, 6, 5], "left")
    values = torch.randn(3, D, generator=torch.Generator().manual_seed(1))
    got = states(graph_of(cr.PerRow(values), site=cr.Site(1, positions=[0, -1])), batch, [0, -1])
    assert torch.equal(got, values.double()[:, None].expand(3, 2, D))
    each = torch.randn(3, 2, D, generator=torch.Generator().manual_seed(2))
    got = states(graph_of(cr.PerRow(each), site=cr.Site(1, positions=[0, -1])), batch, [0, -1])
    assert torch.equal(got, each.double())
    shifted = states(graph_of(cr.Shift(cr.PerRow(values)), site=cr.Site(1, positions="last")), batch, "last")
    plain = states(cr.InterventionGraph(), batch, "last")
    torch.testing.assert_close(shifted, plain + values.double()[:, None], rtol=0, atol=1e-14)
    assert repr(cr.PerRow(values)) == "PerRow([3, 16])"


def test_per_row_is_for_the_rows_of_one_call() -> None:
    batch, graph = prompts([4, 6], "right"), graph_of(cr.PerRow(torch.randn(3, D)))
    with pytest.raises(GraphError, match=r"holds 3 rows, but this call has 2"):
        states(graph, batch)
    with pytest.raises(GraphError, match=r"row 0 names 4"):
        states(graph_of(cr.PerRow(torch.randn(2, 3, D))), batch)
    with pytest.raises(GraphError, match=r"has width 3, but Identity"):
        states(graph_of(cr.PerRow(torch.randn(2, 3))), batch)
    for wrong in (torch.randn(3), torch.ones(2, 2).long(), torch.full((2, D), float("nan"))):
        with pytest.raises(GraphError, match="PerRow"):
            cr.PerRow(wrong)
    examples = cr.Examples({"base": batch}, torch.tensor([1, 2]))
    with pytest.raises(GraphError, match=r"whose rows are those of one call"):
        cr.plan(cr.IntervenedModel(gpt2(), graph_of(cr.Shift(cr.PerRow(torch.randn(2, D))))), examples)


def test_per_row_follows_the_beams_of_a_generation() -> None:
    batch, model = prompts([4, 6], "left"), gpt2()
    values = torch.randn(2, D, generator=torch.Generator().manual_seed(1)).double()
    site = cr.Site(1, positions="last+generated")
    options = {"max_new_tokens": 4, "num_beams": 3, "do_sample": False, "pad_token_id": 0}
    got = cr.IntervenedModel(model, graph_of(cr.Shift(cr.PerRow(values)), site=site)).generate(**batch, **options)
    for row in range(2):
        one = {key: value[row : row + 1] for key, value in batch.items()}
        alone = cr.IntervenedModel(model, graph_of(cr.Shift(cr.Constant(values[row])), site=site))
        assert torch.equal(got[row : row + 1], alone.generate(**one, **options))


def test_noise_is_one_draw_a_position_whatever_the_batch() -> None:
    site, batch = cr.Site(1, positions="f2+l1"), prompts([4, 6, 5], "left")
    noise = states(graph_of(cr.Noise(2.0, seed=3), site=site), batch, "f2+l1")
    assert torch.equal(noise, noise[:1].expand_as(noise)), "the same in every row"
    assert len(noise[0].unique()) == 3 * D, "another at every position and coordinate"
    alone = states(graph_of(cr.Noise(2.0, seed=3), site=site), prompts([4], "none"), "f2+l1")
    assert torch.equal(alone[0], noise[0])
    other = states(graph_of(cr.Noise(2.0, seed=4), site=site), batch, "f2+l1")
    assert not torch.equal(other, noise)


def test_noise_has_its_standard_deviation() -> None:
    batch = prompts([40], "none")
    values = states(graph_of(cr.Noise(0.5, seed=1)), batch)
    assert values.mean().abs() < 0.05 and abs(float(values.std()) - 0.5) < 0.05
    assert not states(graph_of(cr.Noise(0.0)), batch).any()
    for std in (-1.0, float("inf")):
        with pytest.raises(GraphError, match="not negative"):
            cr.Noise(std)


def learned_in(graph: cr.InterventionGraph) -> cr.LearnedSource:
    source = graph["edit"].source
    return source.source if isinstance(source, cr.Shift) else source


@pytest.mark.parametrize("preset", [cr.loreft, cr.direft, cr.noreft, cr.nodireft, cr.lobireft])
def test_training_starts_from_no_edit(preset: Any) -> None:
    model, batch = gpt2(), prompts([4, 6], "right")
    graph = preset(SITE, D, 3)
    edited = at_real_tokens(cr.IntervenedModel(model, graph)(batch).logits, batch)
    torch.testing.assert_close(edited, at_real_tokens(model(**batch).logits, batch), rtol=0, atol=1e-5)


def test_the_start_is_made_once_so_that_a_shared_source_keeps_what_it_learned() -> None:
    R, learned = cr.Subspace(D, 2), cr.LearnedSource(2, D)
    node = cr.Interchange(SITE, R, learned)
    torch.testing.assert_close(learned.weight, R.rotation)
    learned.weight.data += 1
    before = learned.weight.clone()
    cr.InterventionGraph(edit=node).replace(edit=cr.Interchange(cr.Site(2), R, learned))
    assert torch.equal(learned.weight, before)


def test_random_starts_are_seeded_as_a_linear_layer_draws() -> None:
    one, two, three = (cr.LearnedSource(3, 64, init="random", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.weight, two.weight) and not torch.equal(one.weight, three.weight)
    assert one.weight.abs().max() <= 64**-0.5 and one.weight.abs().max() > 0.9 * 64**-0.5


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: cr.LearnedSource(2, D, activation="rellu"), r"Did you mean 'relu'\?.*gelu"),
        (lambda: cr.LearnedSource(2, D, init="zeros"), r"init='zeros'.*identity, random"),
        (lambda: cr.LearnedSource(2, D, reads_input=False, bias=False), "is only its bias"),
        (lambda: cr.LearnedSource(2, D, reads=cr.Collect("base")), "needs the site"),
        (lambda: cr.LearnedSource(2, D, reads=cr.Collect("base", SITE, cr.Subspace(D, 2))), "whole vector"),
        (
            lambda: graph_of(cr.LearnedSource(3, D), cr.Subspace(D, 2)),
            r"writes 3 coordinates, but Subspace.*LearnedSource\(rank=2",
        ),
        (lambda: graph_of(cr.LearnedSource(2, 7), cr.Subspace(D, 2)), "reads width 7, but the site has d_model=16"),
        (
            lambda: graph_of(cr.LearnedSource(2, D, activation="tanh"), cr.Subspace(D, 2)),
            "activation is not linear.*init='random'",
        ),
        (
            lambda: graph_of(cr.LearnedSource(2, D, reads=cr.Collect("base", cr.Site(0))), cr.Subspace(D, 2)),
            "another site is read.*init='random'",
        ),
        (
            lambda: graph_of(
                cr.LearnedSource(2, D, reads=cr.Collect("other", cr.Site(0)), init="random"), cr.Subspace(D, 2)
            ),
            r"reads the run that it edits.*reads=Collect\('base'",
        ),
        (lambda: cr.direft(SITE, D, 2, activation="relu"), "flat, so nothing would be learned.*init='random'"),
        (lambda: cr.direft(SITE, D, 2, activation="sigmoid"), "is not 0.*init='random'"),
        (
            lambda: graph_of(cr.Collect("source", featurizer=cr.Subspace(D, 1))),
            "reads 1 coordinates, but Identity.*writes 16",
        ),
        (
            lambda: graph_of(cr.Shift(cr.Collect("source", featurizer=cr.Subspace(D, 1))), cr.Subspace(D, 2)),
            "reads 1 coord",
        ),
        (lambda: graph_of(cr.Constant(0), dropout=1.0), r"dropout=1.0.*\[0, 1\)"),
        (lambda: graph_of(cr.Constant(0), run="my run"), "must be an identifier"),
        (lambda: cr.Collect("my run"), "must be an identifier"),
        (lambda: cr.PerRow([[1.0], [1.0, 2.0]]), "is not a table of numbers"),
        (lambda: cr.Constant(float("nan")), r"^Constant\(\.\.\.\) holds NaN"),
        (lambda: cr.PerRow([[float("inf")]]), r"^PerRow\(\.\.\.\) holds NaN"),
        (lambda: cr.TopLatents(0), "a whole number from 1 on"),
        (lambda: cr.TopLatents(True), "a whole number from 1 on"),
    ],
)
def test_what_cannot_mean_anything_is_refused_when_it_is_written(build: Any, said: str) -> None:
    with pytest.raises(GraphError, match=f"(?s){said}"):
        build()


def test_random_starts_are_allowed_where_identity_is_not() -> None:
    for activation in ("relu", "sigmoid"):
        cr.direft(SITE, D, 2, activation=activation, init="random")
    cr.loreft(SITE, D, 2, activation="tanh", init="random")
    cr.direft(SITE, D, 2, activation="gelu")


def test_every_direft_that_is_accepted_learns() -> None:
    batch = prompts([4, 6], "right")
    for activation in (None, "gelu", "tanh", "silu"):
        graph = cr.direft(SITE, D, 2, activation=activation)
        cr.IntervenedModel(gpt2(), graph)(batch).logits.square().sum().backward()
        assert learned_in(graph).weight.grad.abs().max() > 1e-3


def test_states_of_another_width_are_refused_with_both_sides() -> None:
    wide = cr.Site(1, "mlp_activation")
    base = prompts([4], "none")
    with pytest.raises(GraphError, match=r"gives states of width 64, but they are read by Subspace\(d_model=16"):
        states(graph_of(cr.Collect("source", wide), cr.Subspace(D, 2)), base, source=base)
    reads = cr.LearnedSource(2, D, reads=cr.Collect("base", cr.Site(0, "mlp_activation")), init="random")
    with pytest.raises(GraphError, match=r"reads states of width 64\. Build it with d_model=64"):
        states(graph_of(reads, cr.Subspace(D, 2)), base)
    with pytest.raises(GraphError, match="the site is 64 wide"):
        cr.IntervenedModel(gpt2(), cr.InterventionGraph(seen=cr.Collect("base", wide, cr.Identity(D))))(base)
