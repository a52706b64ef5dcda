"""A site is a value with a name, a repr that can be pasted, and refusals that say what is allowed."""

from __future__ import annotations

from typing import Any

import pytest

import causal_reft as cr
from causal_reft.errors import PositionError, SiteError
from causal_reft.graph.from_data import site_from_data
from causal_reft.graph.to_data import site_to_data
from causal_reft.sites import COMPONENTS, locate
from tests.models import ToyMLP, gpt2

SITES = [
    cr.Site(3),
    cr.Site(0, positions="f5+l5"),
    cr.Site(2, "attention_query", positions=-1, head=1),
    cr.Site(component="embeddings"),
    cr.Site(component="final_norm", positions=[1, 2]),
    cr.Site.at("blocks.0"),
    cr.Site.at("encoder.proj", port="input", positions=slice(1, 3)),
    cr.Site.at("encoder.attention", port="source:softmax_0"),
]


@pytest.mark.parametrize("site", SITES, ids=repr)
def test_a_site_is_what_its_repr_says_and_survives_storage(site: cr.Site) -> None:
    assert eval(repr(site), {"Site": cr.Site}) == site
    assert site_from_data(site_to_data(site)) == site
    assert len({site, site.moved()}) == 1


def test_moved_changes_what_is_named_and_nothing_else() -> None:
    site = cr.Site(2, "mlp_output", positions="last")
    assert site.moved(layer=4) == cr.Site(4, "mlp_output", positions="last")
    assert site.moved(positions="all").component == "mlp_output" and site.layer == 2


def test_names_for_tables() -> None:
    names = [
        "block_output.3",
        "block_output.0",
        "attention_query.2.h1",
        "embeddings",
        "final_norm",
        "blocks.0",
        "encoder.proj:input",
    ]
    assert [site.name for site in SITES[:7]] == names


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"layer": 1, "component": "blok_output"}, r"Did you mean 'block_output'\?.*Site\.at"),
        ({"layer": 1, "component": "embeddings"}, r"belongs to the whole model.*Site\(component='embeddings'\)"),
        ({"component": "mlp_output"}, r"needs a layer.*Site\(0, component='mlp_output'\)"),
        ({"layer": -1}, r"layers count from 0.*num_hidden_layers - 1"),
        ({"layer": 1, "head": 0}, r"'block_output' has no heads.*attention_query"),
        ({"path": "a", "port": "weights"}, r"a port is 'output', 'input'.*Site\.at\('a', port='output'\)"),
        ({"path": "a", "port": "output", "layer": 1}, r"takes no layer and no head"),
    ],
)  # fmt: skip
def test_sites_that_cannot_be_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(SiteError, match=said):
        cr.Site(**arguments)


def test_unreadable_positions_are_refused_when_the_site_is_written() -> None:
    with pytest.raises(PositionError, match="names no token"):
        cr.Site(1, positions="f0")


def test_a_grid_is_layers_by_components_by_alternatives() -> None:
    sites = cr.site_grid(range(2), ["gender", -1], ["block_output", "mlp_output"])
    assert [(s.layer, s.component, str(s.where)) for s in sites[:3]] == [
        (0, "block_output", "'gender'"), (0, "block_output", "-1"), (0, "mlp_output", "'gender'"),
    ]  # fmt: skip
    assert len(sites) == 8
    assert cr.site_grid(1, "last") == [cr.Site(1, positions="last")] == cr.site_grid([1], ["last"])
    assert cr.site_grid(1, components="attention_query", heads=0) == [cr.Site(1, "attention_query", head=0)]
    with pytest.raises(SiteError, match=r"no 'component'. Did you mean 'components'.*components=\['mlp_output'\]"):
        cr.site_grid([1], component="mlp_output")


def test_a_grid_of_heads_has_a_site_for_each() -> None:
    sites = cr.site_grid((layer for layer in (0, 3)), "last", ["attention_head_output"], heads=range(3))
    assert [(site.layer, site.head) for site in sites] == [(0, 0), (0, 1), (0, 2), (3, 0), (3, 1), (3, 2)]
    assert sites[1].name == "attention_head_output.0.h1"
    with pytest.raises(SiteError, match="has no heads"):
        cr.site_grid([0], "last", heads=[1])


@pytest.mark.parametrize(
    ("site", "said"),
    [
        (cr.Site(7), r"Site\(7.*has layers 0 to 2"),
        (cr.Site(1, "attention_query", head=2), r"has heads 0 to 1"),
        (cr.Site.at("transformer.h.1.atn"), r"no module 'transformer.h.1.atn'.*Did you mean 'transformer.h.1.attn'\?"),
    ],
)
def test_sites_that_a_model_does_not_have_are_named(site: cr.Site, said: str) -> None:
    with pytest.raises(SiteError, match=said):
        locate(gpt2(), site)


@pytest.mark.parametrize("head", [0, 1])
def test_every_head_that_a_component_has_is_located(head: int) -> None:
    assert locate(gpt2(), cr.Site(1, "attention_query", head=head))


def test_layers_of_a_plain_module_are_refused_with_its_modules() -> None:
    with pytest.raises(SiteError, match=r"ToyMLP has no transformers config.*Site\.at.*first, second, third"):
        locate(ToyMLP(), cr.Site(0))


def test_an_unknown_layout_is_refused() -> None:
    with pytest.raises(SiteError, match=r"has layout 'sid:q'\. Did you mean 'side:q'"):
        cr.register_architecture("mine", "h", {"attention_query": ("attn.c_attn", "output", "sid:q")})


def test_every_component_has_a_name_that_a_site_accepts() -> None:
    for component in COMPONENTS:
        layer = None if component in ("embeddings", "final_norm") else 0
        assert cr.Site(layer, component).component == component
