"""A site is a value with a name, a repr that can be pasted, and refusals that say what is allowed."""

from __future__ import annotations

import itertools
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest
import torch
from torch import nn
from transformers import T5Config, T5Model

import causal_reft as cr
from causal_reft.errors import PositionError, SiteError
from causal_reft.graph.from_data import site_from_data
from causal_reft.graph.to_data import site_to_data
from causal_reft.sites import ARCHITECTURES, COMPONENTS, Port, Prompt, find_blocks, locate, resolve
from tests.families import model_of
from tests.models import ToyMLP, gpt2, llama

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


def test_the_repr_leaves_out_what_is_as_by_default() -> None:
    assert repr(SITES[0]) == "Site(3, positions='all')" and repr(SITES[5]) == "Site.at('blocks.0', positions='all')"


def test_moved_changes_what_is_named_and_nothing_else() -> None:
    site = cr.Site(2, "mlp_output", positions="last")
    assert site.moved(layer=4) == cr.Site(4, "mlp_output", positions="last")
    assert site.moved(positions="all").component == "mlp_output" and site.layer == 2


@pytest.mark.parametrize("make", [
    lambda: cr.Site(1), lambda: cr.Site(1).where, lambda: cr.Site(1).where.parts[0], lambda: Port("", "output"),
    lambda: ARCHITECTURES["gpt2"], lambda: locate(gpt2(), cr.Site(1)), lambda: find_blocks(gpt2()),
    lambda: Prompt.of(torch.ones(1, 2)), lambda: resolve(cr.Site(1).where, Prompt.of(torch.ones(1, 2))),
])  # fmt: skip
def test_what_says_where_is_a_value_and_cannot_be_changed(make: Any) -> None:
    value = make()
    with pytest.raises(FrozenInstanceError):
        setattr(value, fields(value)[0].name, None)


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
        ({"layer": 1, "component": "middle.block_output"}, r"'middle.block_output'\) does not exist"),
        ({"path": "a", "port": "output", "layer": 1}, r"takes no layer and no head"),
        ({"path": "a", "port": "output", "head": 1}, r"takes no layer and no head"),
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
    assert cr.site_grid(1, slice(1, 3)) == [cr.Site(1, positions=slice(1, 3))] and cr.site_grid(1) == [cr.Site(1)]
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
        (cr.Site(3), r"Site\(3.*has layers 0 to 2"),
        (cr.Site(1, "attention_query", head=4), r"has heads 0 to 3"),
        (cr.Site(1, "attention_query", head=-1), r"has heads 0 to 3"),
        (cr.Site(1, "attention_key", head=2), r"has heads 0 to 1"),
        (cr.Site(1, "encoder.block_output"), r"has one stack of blocks.*takes no 'encoder'"),
        (cr.Site.at("model.layers.1.mpl"), r"Did you mean 'model.layers.1.mlp'\?"),
        (cr.Site.at("model.layers.1.x"), r"Allowed: \S*1.input_layernorm, \S*1.mlp, \S*1.post_\S*, \S*1.self_attn\.$"),
        (cr.Site.at("x"), r"Allowed: lm_head, model\.$"),
    ],
)
def test_sites_that_a_model_does_not_have_are_named(site: cr.Site, said: str) -> None:
    with pytest.raises(SiteError, match=said):
        locate(llama(), site)


@pytest.mark.parametrize(("component", "heads"), [("attention_query", 4), ("attention_key", 2)])
def test_every_layer_and_head_that_a_component_has_is_located(component: str, heads: int) -> None:
    for layer, head in itertools.product(range(3), range(heads)):
        found = locate(llama(), cr.Site(layer, component, head=head))
        assert (found.block, found.head, found.heads) == (layer, head, (4, 2))


def test_a_family_without_a_row_is_given_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "mine", None)
    model = gpt2()
    model.config.model_type = "mine"
    with pytest.raises(SiteError, match=r"no row for 'mine'.*register_architecture\('mine'"):
        locate(model, cr.Site(1))
    components = {"mlp_output": ("mlp.c_proj", "output"), "attention_query": Port("attn.c_attn", "output", "side:q")}
    cr.register_architecture("mine", "h", components)
    assert locate(model, cr.Site(1)).key == ("transformer.h.1", "output")
    assert locate(model, cr.Site(1, "mlp_output")).key == ("transformer.h.1.mlp.c_proj", "output")
    assert locate(model, cr.Site(1, "attention_query", head=1)).features(48).tolist() == list(range(8, 16))
    with pytest.raises(SiteError, match=r"has no 'mlp_input'\. Did you mean 'mlp_output'\?"):
        locate(model, cr.Site(1, "mlp_input"))
    cr.register_architecture("mine", "h", {"mlp_output": ("mlp.last", "output")})
    with pytest.raises(
        SiteError, match=r"the table says 'transformer.h.1.mlp.last', which this GPT2LMHeadModel does not"
    ):
        locate(model, cr.Site(1, "mlp_output"))
    cr.register_architecture("mine", "layers", {})
    with pytest.raises(SiteError, match=r"has 0 lists named 'layers' of 3 blocks \(none\); exactly one"):
        locate(model, cr.Site(1))


class Pair(nn.Module):
    """Two models, of which the first one has the config."""

    def __init__(self, text: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.text, self.other, self.config = text, other, text.config


def test_the_blocks_of_a_model_inside_another_are_those_of_its_own_family_and_depth() -> None:
    assert locate(Pair(gpt2(), model_of("bloom")), cr.Site(1)).path == "text.transformer.h.1"
    assert locate(Pair(gpt2(), gpt2(n_layers=2)), cr.Site(1)).path == "text.transformer.h.1"
    assert locate(nn.DataParallel(gpt2()), cr.Site(1)).path == "module.transformer.h.1"
    both = Pair(gpt2(), gpt2())
    with pytest.raises(
        SiteError, match=r"has 2 lists named 'h' of 3 blocks \(text.transformer.h, other.transformer.h\)"
    ):
        locate(both, cr.Site(1))
    assert locate(both, cr.Site.at("text.transformer.h.1")).block is None


def test_each_stack_of_an_encoder_decoder_model_has_its_own_depth() -> None:
    model = T5Model(T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_decoder_layers=2, num_heads=2))
    assert locate(model, cr.Site(1, "decoder.block_output")).path == "decoder.block.1"
    for wrong, said in (("encoder.block_output", "has layers 0 to 0"), ("block_output", "has two stacks of blocks")):
        with pytest.raises(SiteError, match=said):
            locate(model, cr.Site(1, wrong))
    for path, place in (("shared", (None, "")), ("encoder.dropout", (None, "encoder")), ("decoder", (None, "decoder"))):
        found = locate(model, cr.Site.at(path))
        assert (found.block, found.stack) == place
    assert locate(ToyMLP(), cr.Site.at("first")).block is None


def test_layers_of_a_plain_module_are_refused_with_its_modules() -> None:
    with pytest.raises(SiteError, match=r"ToyMLP has no transformers config.*Site\.at.*first, second, third"):
        locate(ToyMLP(), cr.Site(0))


def test_an_unknown_component_port_or_layout_is_refused() -> None:
    with pytest.raises(SiteError, match=r"'blok_output' is no component\. Did you mean 'block_output'"):
        cr.register_architecture("mine", "h", {"blok_output": ("", "output")})
    with pytest.raises(SiteError, match=r"'block_output' has port 'out'; use input or output"):
        cr.register_architecture("mine", "h", {"block_output": ("", "out")})
    with pytest.raises(SiteError, match=r"has layout 'sid:q'\. Did you mean 'side:q'"):
        cr.register_architecture("mine", "h", {"attention_query": ("attn.c_attn", "output", "sid:q")})


def test_every_component_has_a_name_that_a_site_accepts() -> None:
    for component in COMPONENTS:
        layer = None if component in ("embeddings", "final_norm") else 0
        assert cr.Site(layer, component).component == component
