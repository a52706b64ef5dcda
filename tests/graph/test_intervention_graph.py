"""A graph is a value: it orders its runs, slices, joins, compares, prints, and refuses what has no order or name."""

from __future__ import annotations

import inspect
import itertools
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest
import torch

import causal_reft as cr
from causal_reft.errors import GraphError
from causal_reft.graph import intervention_graph
from tests.models import D_MODEL as D
from tests.models import gpt2, prompts


def patch(source: str = "source", run: str = "base", layer: int = 1) -> cr.Interchange:
    return cr.Interchange(cr.Site(layer), cr.Identity(D), cr.Collect(source), run=run)


def two_skills() -> cr.InterventionGraph:
    german, instruct = cr.Subspace(D, 5).split(german=2, instruct=3).values()
    return cr.InterventionGraph(
        german=cr.Interchange(cr.Site(1), german, cr.LearnedSource(2, D)),
        instruct=cr.Interchange(cr.Site(1), instruct, cr.LearnedSource(3, D)),
    )


def test_runs_are_sorted_by_what_they_wait_for() -> None:
    graph = cr.InterventionGraph(
        last=patch("mid"),
        first=patch("source", "mid", 0),
        seen=cr.Collect("elsewhere", cr.Site(2)),
        z=patch("mid", "late"),
    )
    order = {run: i for i, run in enumerate(graph.runs)}
    assert order["source"] < order["mid"] < order["base"] and order["mid"] < order["late"] and "elsewhere" in order
    assert cr.InterventionGraph().runs == ("base",)


def test_runs_that_wait_for_each_other_are_refused() -> None:
    with pytest.raises(GraphError, match=r"wait for each other: .*mid.*name of its own"):
        cr.InterventionGraph(a=patch("mid"), b=patch("base", "mid"))


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ({"seen": cr.Collect("base")}, r"needs a site\. Write seen=Collect\('base', Site\(3\)\)"),
        ({"labels": patch()}, "'labels' cannot name a node"),
        ({"_edit": patch()}, "leading underscore"),
        ({"type": patch()}, "torch modules use that name.*type_"),
        ({"a.b": patch()}, "'a.b' cannot name a node"),
        ({"": patch()}, "'' cannot name a node"),
    ],
)
def test_nodes_that_cannot_be_are_refused(nodes: dict[str, Any], said: str) -> None:
    with pytest.raises(GraphError, match=said):
        cr.InterventionGraph(**nodes)


def test_a_node_is_a_collect_or_an_interchange() -> None:
    with pytest.raises(GraphError, match="Node 'edit' is a Site; a node is a Collect or an Interchange"):
        inspect.unwrap(intervention_graph._check_node)("edit", cr.Site(1))  # past the run-time type checker


def test_only_keeps_nodes_in_order_and_shares_their_parameters() -> None:
    both = two_skills()
    german = both.only("german")
    assert list(german) == ["german"] and german["german"] is both["german"]
    assert list(both.only("instruct", "german")) == ["german", "instruct"]
    assert both.n_trainable_parameters == 5 * D + 5 * D + 5 and german.n_trainable_parameters == 5 * D + 2 * D + 2
    assert len(list(both.parameters())) == 5, "the shared rotation counts once"


def test_plus_replace_and_renamed_give_new_graphs() -> None:
    a, b = cr.InterventionGraph(a=patch()), cr.InterventionGraph(b=patch(layer=2))
    joined = a + b
    assert list(joined) == ["a", "b"] and list(a) == ["a"] and len(joined) == 2
    assert joined.replace(a=patch(layer=0))["a"].site.layer == 0 and joined["a"].site.layer == 1
    assert list(joined.renamed({"a": "z"})) == ["z", "b"]
    nodes = joined.nodes
    nodes.clear()
    assert len(joined) == 2, "a copy was handed out"


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda g: g + g, "Both graphs have a node named 'german', 'instruct'.*renamed"),
        (lambda g: g.only("germn"), r"no node 'germn'. Did you mean 'german'\?"),
        (lambda g: g["x"], "no node 'x'. Allowed: german, instruct"),
        (lambda g: g.replace(other=patch()), "no node 'other'"),
        (lambda g: g.renamed({"other": "x"}), "no node 'other'"),
        (lambda g: g.renamed({"german": "instruct"}), "two nodes one name"),
    ],
)
def test_names_that_clash_or_are_missing(act: Any, said: str) -> None:
    with pytest.raises(GraphError, match=said):
        act(two_skills())


def test_equal_means_same_nodes_settings_order_and_bits() -> None:
    assert cr.das(cr.Site(1), D, 2, seed=3) == cr.das(cr.Site(1), D, 2, seed=3)
    assert cr.das(cr.Site(1), D, 2, seed=3) != cr.das(cr.Site(1), D, 2, seed=4)
    assert cr.das(cr.Site(1), D, 2) != cr.das(cr.Site(1, positions=0), D, 2)
    a, b = two_skills(), two_skills()
    assert a == b
    assert a.replace(german=a["german"]) == b and cr.InterventionGraph(**dict(reversed(a.nodes.items()))) != b
    with torch.no_grad():
        a["german"].source.bias[0] += 1e-30
    assert a != b
    assert a != "graph"


def test_sharing_is_part_of_equality() -> None:
    shared = cr.Subspace(D, 2)
    one = cr.InterventionGraph(
        a=cr.Interchange(cr.Site(0), shared, cr.Constant(0)), b=cr.Interchange(cr.Site(1), shared, cr.Constant(0))
    )
    two = one.replace(b=cr.Interchange(cr.Site(1), cr.Subspace(D, 2), cr.Constant(0)))
    assert one != two


def test_the_repr_says_what_will_happen_in_one_screen() -> None:
    text = repr(two_skills() + cr.InterventionGraph(seen=cr.Collect("source", cr.Site(2))))
    assert (
        text.splitlines()[0] == "InterventionGraph: 2 edits, 1 collect, runs base -> source, 165 trainable parameters"
    )
    assert "german" in text and "rows 2-4 of 5" in text and len(text.splitlines()) == 4


def test_the_html_is_a_table_and_escapes_names() -> None:
    page = two_skills()._repr_html_()
    assert page.count("<tr>") == 3 and "&#x27;all&#x27;" in page and "rows 0-1 of 5" in page


def test_every_seed_of_a_preset_is_used_once() -> None:
    graph = cr.loreft(cr.site_grid(range(3)), D, 2, seed=1)
    assert list(graph) == ["edit_0", "edit_1", "edit_2"]
    rows = [graph[name].featurizer.rotation for name in graph]
    assert not torch.equal(rows[0], rows[1]) and not torch.equal(rows[1], rows[2])
    assert graph == cr.loreft(cr.site_grid(range(3)), D, 2, seed=1) != cr.loreft(cr.site_grid(range(3)), D, 2, seed=2)


def test_a_single_node_has_the_seed_itself_and_several_have_each_their_own() -> None:
    assert torch.equal(cr.das(cr.Site(1), D, 2, seed=3)["edit"].featurizer.rotation, cr.Subspace(D, 2, seed=3).rotation)
    graphs = [cr.loreft(cr.site_grid([0, 1], "f2+l2"), D, 2, seed=seed, init="random", share=None) for seed in (3, 4)]
    edits = [edit for graph in graphs for edit in graph.edits.values()]
    for drawn in ([edit.featurizer.rotation for edit in edits], [edit.source.weight for edit in edits]):
        assert len(drawn) == 8 and not any(torch.equal(one, two) for one, two in itertools.combinations(drawn, 2))


@pytest.mark.parametrize("make", [
    cr.das, cr.boundless_das, cr.loreft, cr.consreft, cr.lobireft, cr.direft, cr.noreft, cr.nodireft, cr.reft_r1,
    cr.lora, cr.noise_ablate, cr.LearnedSource, cr.Noise, cr.Subspace, cr.Subspace.within, cr.Projection, cr.Flow,
])  # fmt: skip
def test_a_seed_that_is_not_given_is_zero(make: Any) -> None:
    assert inspect.signature(make).parameters["seed"].default == 0


def test_presets_take_a_factor_that_is_one_by_default() -> None:
    v, sites = torch.linspace(-1, 1, D), [cr.Site.at("a"), cr.Site.at("b")]
    assert torch.equal(cr.steer(cr.Site(1), v)["edit"].source.source.tensor, v)
    assert torch.equal(cr.steer(cr.Site(1), v, 2.5)["edit"].source.source.tensor, 2.5 * v)
    plain, scaled = cr.lora(sites, D, D, 2), cr.lora(sites, D, D, 2, alpha=3)
    assert [node.scale for node in plain.edits.values()] == [1, 1] and list(plain) == ["edit_0", "edit_1"]
    assert [node.scale for node in scaled.edits.values()] == [1.5, 1.5] and not plain["edit_1"].featurizer.weight.any()
    assert not torch.equal(plain["edit_0"].source.source.weight, plain["edit_1"].source.source.weight)
    with pytest.raises(GraphError, match="give the output of a linear layer"):
        cr.lora(cr.Site.at("a", port="input"), D, D, 2)


@pytest.mark.parametrize("value", [
    patch(), cr.Collect("source"), cr.Constant(0.0), cr.Noise(1.0), cr.Shift(cr.Constant(0.0)), cr.PerRow([[1.0]]),
])  # fmt: skip
def test_nodes_and_sources_are_values_and_cannot_be_changed(value: Any) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(value, fields(value)[0].name, None)


def test_the_repr_of_a_node_says_what_is_not_as_by_default() -> None:
    node, F = cr.Interchange(cr.Site(1), cr.Identity(D), cr.Constant(0)), cr.Subspace(D, 2)
    assert repr(node).endswith("source=Constant(0))")
    assert repr(replace(node, run="mid", dropout=0.5, scale=2)).endswith(", run='mid', dropout=0.5, scale=2)")
    assert repr(cr.Collect("source")) == "Collect('source')"
    read = cr.Collect("base", cr.Site(0), F)
    assert repr(read) == f"Collect('base', site={cr.Site(0)!r}, featurizer={F!r})"
    options = {"bias": False, "activation": "gelu", "reads": cr.Collect("base", cr.Site(0)), "init": "random"}
    sources = {
        cr.LearnedSource(2, D): "LearnedSource(rank=2, d_model=16)",
        cr.LearnedSource(2, D, reads_input=False): "LearnedSource(rank=2, d_model=16, reads_input=False)",
        cr.LearnedSource(2, D, **options): (
            f"LearnedSource(rank=2, d_model=16, bias=False, activation='gelu', reads={options['reads']!r})"
        ),
        cr.LearnedScale(2): "LearnedScale(rank=2)",
        cr.LearnedScale(2, bias=False): "LearnedScale(rank=2, bias=False)",
    }
    assert [repr(source) for source in sources] == list(sources.values())
    page = cr.InterventionGraph(seen=cr.Collect("base", cr.Site(1)), read=read)._repr_html_()
    assert page.count("the whole vector") == 1 and page.count("(collected)") == 2 and page.count("rank=2") == 1


def test_a_full_rotation_that_reads_what_it_writes_is_refused() -> None:
    full = cr.Subspace(4, 4)
    for source in (cr.Collect("source"), cr.Collect("source", featurizer=full)):
        with pytest.raises(GraphError, match=r"a full rotation cancels.*Identity\(4\)"):
            cr.Interchange(cr.Site(1), full, source)
    for F, source in (
        (full, cr.Collect("source", featurizer=cr.Subspace(4, 4, seed=1))),
        (cr.Subspace(4, 3), cr.Collect("source")),
        (cr.Mask(full), cr.Collect("source")),
        (full, cr.Constant(0.0)),
    ):
        cr.Interchange(cr.Site(1), F, source)
    with pytest.raises(GraphError, match=r"scales 3 coordinates, but Identity.* has 4. Use LearnedScale\(rank=4\)"):
        cr.Interchange(cr.Site(1), cr.Identity(4), cr.LearnedScale(3))


D7B = 4096


@pytest.mark.parametrize(
    ("graph", "numbers"),
    [
        (lambda: cr.loreft(cr.Site(0), D7B, 1), 8_193),
        (lambda: cr.loreft(cr.Site(0), D7B, 4), 32_772),
        (lambda: cr.loreft(cr.Site(0), D7B, 8), 65_544),
        (lambda: cr.consreft(cr.Site(0), D7B, 1), 4_097),
        (lambda: cr.lobireft(cr.Site(0), D7B, 1), 4_097),
        (lambda: cr.direft(cr.Site(0), D7B, 4), 32_772),
        (lambda: cr.noreft(cr.Site(0), D7B, 4), 32_772),
        (lambda: cr.nodireft(cr.Site(0), D7B, 4), 32_772),
        (lambda: cr.loreft(cr.site_grid(range(3), ["f5", "l5"]), D7B, 2), 98_316),
    ],
)
def test_learned_numbers_are_those_of_the_papers(graph: Any, numbers: int) -> None:
    assert graph().n_trainable_parameters == numbers


def test_several_edits_at_one_site_all_read_the_state_before_any() -> None:
    """In orthogonal subspaces their sum; where they overlap, the later write wins and a shift adds to what is left."""
    batch, seen = prompts([4, 4], "none"), cr.InterventionGraph(seen=cr.Collect("base", cr.Site(1)))
    model = cr.IntervenedModel(gpt2(), seen)
    h = model(batch).collected["seen"]
    a, b = cr.Subspace(D, 4).double().split(a=2, b=2).values()
    sources = [cr.Shift(cr.Constant([1.0, 2.0])), cr.Shift(cr.Constant([-3.0, 4.0]))]
    for order in ([0, 1], [1, 0]):
        nodes = [cr.Interchange(cr.Site(1), F, source) for F, source in zip((a, b), sources, strict=True)]
        graph = cr.InterventionGraph(**{f"n{i}": nodes[i] for i in order})
        got = model.with_graph(graph + seen)(batch).collected["seen"]
        change = torch.tensor([1.0, 2.0, -3.0, 4.0], dtype=torch.float64) @ torch.cat([a.rotation, b.rotation])
        torch.testing.assert_close(got, h + change, rtol=0, atol=1e-12)
    fives = cr.Interchange(cr.Site(1), cr.Identity(D), cr.Constant(5.0))
    values, left = torch.tensor([1.0, 2.0]).double(), a.read(torch.full((D,), 5.0).double())
    for source, expected in ((cr.Constant([1.0, 2.0]), values), (sources[0], left + values)):
        overlapping = cr.InterventionGraph(one=fives, two=cr.Interchange(cr.Site(1), a, source))
        got = model.with_graph(overlapping + seen)(batch).collected["seen"]
        torch.testing.assert_close(a.read(got), expected.expand_as(a.read(got)), rtol=0, atol=1e-12)


def test_a_collect_node_never_changes_what_an_edit_reads() -> None:
    """An edit of the same run reads its site before edits, whoever else looks there afterwards."""
    source = cr.LearnedSource(3, D, reads=cr.Collect("base", cr.Site(0)), init="random")
    graph = cr.InterventionGraph(
        first=cr.Interchange(cr.Site(0), cr.Identity(D), cr.Constant(0.0)),
        second=cr.Interchange(cr.Site(1), cr.Subspace(D, 3), source),
    )
    batch, seen = prompts([4, 4], "none"), cr.InterventionGraph(seen=cr.Collect("base", cr.Site(0)))
    model = cr.IntervenedModel(gpt2(), graph)
    looked = model.with_graph(graph + seen)(batch)
    assert torch.equal(looked.logits, model(batch).logits)
    assert not looked.collected["seen"].any(), "while the node itself sees what the run goes on with"
