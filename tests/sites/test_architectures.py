"""Every component of every family means what its name says, on tiny random models in float64.

The references are the model's own hidden states and attention patterns, its weights, and cause and effect: whoever
takes a source's value at one place must produce the source's value at the next.
"""

from __future__ import annotations

from copy import deepcopy
from functools import cache

import pytest
import torch

import causal_reft as cr
from causal_reft.sites import ARCHITECTURES, COMPONENTS, locate, model_config
from tests.families import DECODERS, FAMILIES, HEADS, N_LAYERS, NAN_ON_LEFT_PADDING, inputs_of, model_of, output_of

LENGTHS = (6, 4, 5)
STACKS = [(name, "") for name, family in FAMILIES.items() if family.kind != "encoder-decoder"] + [
    ("t5", "encoder"),
    ("t5", "decoder"),
]
OUTPUT = "output"
EFFECTS = [
    ("embeddings", OUTPUT),
    ("block_input", "block_output"),
    ("block_output", OUTPUT),
    ("final_norm", OUTPUT),
    ("attention_input", "attention_query"),
    ("attention_input", "attention_key"),
    ("attention_input", "attention_value"),
    ("attention_input", "attention_output"),
    ("attention_query attention_key attention_value", "attention_head_output"),
    ("attention_head_output", "attention_output"),
    ("mlp_input", "mlp_activation"),
    ("mlp_input", "mlp_output"),
    ("mlp_activation", "mlp_output"),
]


def row_of(name: str, stack: str):
    row = ARCHITECTURES[model_of(name).config.model_type]
    return row.decoder if stack == "decoder" else row


def site(component: str, stack: str = "", layer: int = 1, **options) -> cr.Site:
    name = f"{stack}.{component}" if stack else component
    return cr.Site(None if component in ("embeddings", "final_norm") else layer, name, **options)


def collected(name: str, sites: list[cr.Site], inputs: dict, **further) -> dict[str, torch.Tensor]:
    graph = cr.InterventionGraph(**{f"n{i}": cr.Collect("base", s) for i, s in enumerate(sites)})
    got = cr.IntervenedModel(model_of(name), graph)(inputs, **further).collected
    return {s.name: got[f"n{i}"] for i, s in enumerate(sites)}


def one(name: str, where: cr.Site, inputs: dict) -> torch.Tensor:
    return collected(name, [where], inputs)[where.name]


def edited(name: str, edits: dict[str, cr.Interchange], inputs: dict, seen: cr.Site | None = None, **runs):
    graph = cr.InterventionGraph(**edits, **({} if seen is None else {"seen": cr.Collect("base", seen)}))
    return cr.IntervenedModel(model_of(name), graph)(inputs, **runs)


@cache
def width(name: str, where: cr.Site) -> int:
    return one(name, where, inputs_of(name)).shape[-1]


def pair(name: str, stack: str) -> tuple[dict, dict]:
    """A base and a source that differ only in what the stack reads."""
    base, source = inputs_of(name, 0), inputs_of(name, 1)
    if stack == "encoder":
        source = {**source, "decoder_input_ids": base["decoder_input_ids"]}
    if stack == "decoder":
        source = {**base, "decoder_input_ids": source["decoder_input_ids"]}
    return base, source


def real(inputs: dict, value: torch.Tensor) -> torch.Tensor:
    """The rows' real tokens, text order."""
    mask = inputs.get("attention_mask")
    return value.flatten(0, 1) if mask is None or mask.shape != value.shape[:2] else value[mask.bool()]


@pytest.mark.parametrize(
    ("cause", "effect"), EFFECTS, ids=[f"{cause.split()[-1]}-{effect}" for cause, effect in EFFECTS]
)
@pytest.mark.parametrize(("name", "stack"), STACKS)
def test_who_takes_a_sources_value_gives_what_the_source_gives(name, stack, cause, effect):
    components = row_of(name, stack).components
    if not {*cause.split(), effect} <= {*components, OUTPUT}:
        pytest.skip(f"{name} lacks it")
    base, source = pair(name, stack)
    layer = N_LAYERS - 1 if cause == "block_output" else 1
    edits = {}
    for i, component in enumerate(cause.split()):
        where = site(component, stack, layer)
        edits[f"edit_{i}"] = cr.Interchange(where, cr.Identity(width(name, where)), cr.Collect("source"))
    if effect == OUTPUT:
        patched, own, wanted = (
            output_of(o)
            for o in (edited(name, edits, base, source=source), model_of(name)(**base), model_of(name)(**source))
        )
    else:
        seen = site(effect, stack, layer)
        patched = edited(name, edits, base, seen, source=source).collected["seen"]
        own, wanted = one(name, seen, base), one(name, seen, source)
    patched, own, wanted = (torch.nan_to_num(value) for value in (patched, own, wanted))
    if effect == OUTPUT:
        patched, own, wanted = (real(base, value) for value in (patched, own, wanted))
    torch.testing.assert_close(patched, wanted, rtol=0, atol=1e-12)
    assert (own - wanted).abs().max() > 1e-3


LACKING = {"mlp_activation": ("mixtral", "qwen2_moe", "qwen3_moe"), "final_norm": ("bert", "roberta", "distilbert")}


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_a_row_of_the_table_has_every_component_in_a_layout_that_a_row_of_a_users_own_may_have(model_type, monkeypatch):
    monkeypatch.setattr("causal_reft.sites.architectures.ARCHITECTURES", {})
    row = ARCHITECTURES[model_type]
    lacking = {component for component, families in LACKING.items() if model_type in families}
    for stack in filter(None, (row, row.decoder)):
        assert set(stack.components) == set(COMPONENTS) - lacking
        cr.register_architecture(model_type, stack.blocks, stack.components)


@pytest.mark.parametrize(("name", "stack"), STACKS)
def test_a_component_and_the_path_of_its_module_are_one_place(name, stack):
    model = model_of(name)
    for component in row_of(name, stack).components:
        here = locate(model, site(component, stack))
        there = locate(model, cr.Site.at(here.path, here.port))
        assert (here.key, here.module, here.stack) == (there.key, there.module, there.stack)
        assert here.module is model.get_submodule(here.path) and there.block == here.block
        assert here.block == {"embeddings": 0, "final_norm": None}.get(component, 1)


@pytest.mark.parametrize(("name", "stack"), STACKS)
def test_the_table_says_whether_a_change_of_the_mlps_output_is_one_of_the_blocks(name, stack):
    row, v = row_of(name, stack), torch.linspace(-1, 1, 16).double()
    where, seen = site("mlp_output", stack), site("block_output", stack)
    edit = cr.Interchange(where, cr.Identity(16), cr.Shift(cr.Constant(v)))
    change = edited(name, {"edit": edit}, inputs_of(name), seen).collected["seen"] - one(name, seen, inputs_of(name))
    change = change[~change.isnan().any(-1)]
    assert row.adds_mlp(model_config(model_of(name))) is torch.allclose(change, v.expand_as(change))


@pytest.mark.parametrize("name", ["gpt2", "opt", "bert", "roberta", "distilbert", "llama", "bloom"])
def test_the_table_says_after_how_many_tokens_a_family_has_no_more_positions(name):
    model, counted = model_of(name), row_of(name, "").learned_positions
    longest = 70 if counted is None else counted(model.config)
    ids = torch.full((1, longest + 1), 5)
    model(input_ids=ids[:, :longest])
    if counted is not None:
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=ids)


@pytest.mark.parametrize(("name", "stack"), STACKS)
def test_the_residual_stream_is_the_models_own_hidden_states(name, stack):
    inputs = inputs_of(name)
    output = model_of(name)(**inputs, output_hidden_states=True)
    hidden = output[f"{stack}_hidden_states"] if stack else output.hidden_states
    first, later = site("block_output", stack, 0), site("block_input", stack, 1)
    got = collected(name, [site("embeddings", stack), first, later], inputs)
    for key, wanted in ((site("embeddings", stack).name, hidden[0]), (first.name, hidden[1]), (later.name, hidden[1])):
        width = got[key].shape[1]
        keep = inputs.get("attention_mask") if stack != "decoder" else None
        keep = torch.ones(len(wanted), width) if keep is None else keep
        torch.testing.assert_close(got[key][~got[key].isnan()], wanted[keep.bool()].flatten(), rtol=0, atol=0)


@pytest.mark.parametrize(("name", "stack"), STACKS)
def test_a_block_adds_attention_and_mlp(name, stack):
    parts = ("block_input", "attention_output", "mlp_output", "block_output")
    sites = [site(part, stack) for part in parts]
    x, attention, mlp, out = (torch.nan_to_num(v) for v in collected(name, sites, inputs_of(name)).values())
    block = locate(model_of(name), sites[-1]).module
    match name, stack:
        case (("bert" | "roberta"), _):
            middle = block.attention.output.LayerNorm(x + attention)
            wanted = block.output.LayerNorm(middle + mlp)
        case "distilbert", _:
            middle = block.sa_layer_norm(x + attention)
            wanted = block.output_layer_norm(middle + mlp)
        case (("gemma2" | "gemma3" | "olmo2"), _):
            wanted = x + block.post_attention_layernorm(attention) + block.post_feedforward_layernorm(mlp)
        case "t5", "decoder":
            cross = cr.Site.at("decoder.block.1.layer.1.EncDecAttention")
            wanted = x + attention + mlp + one(name, cross, inputs_of(name))
        case _:
            wanted = x + attention + mlp
    real_tokens = out.abs().sum(-1) > 0
    torch.testing.assert_close(out[real_tokens], wanted[real_tokens], rtol=0, atol=1e-12)


def patterns(name: str, stack: str, inputs: dict, edits: dict | None = None) -> torch.Tensor:
    """The model's own attention patterns of layer 0, (row, head, query, key)."""
    model = model_of(name)
    before = {module: module.config._attn_implementation for module in model.modules() if hasattr(module, "config")}
    model.set_attn_implementation("eager")
    try:
        output = edited(name, edits or {}, {**inputs, "output_attentions": True})
    finally:
        for module, implementation in before.items():
            module.config._attn_implementation = implementation
    return (output[f"{stack}_attentions"] if stack else output.attentions)[0]


@pytest.mark.parametrize(("name", "stack"), STACKS)
def test_each_heads_output_is_its_pattern_times_its_value(name, stack):
    if "falcon" in name:
        pytest.skip("the patterns that falcon returns are not the ones it uses")
    inputs = inputs_of(name, lengths=(5, 5))
    groups = value_heads(name, stack)
    pattern = patterns(name, stack, inputs)
    for head in range(HEADS):
        value = one(name, site("attention_value", stack, 0, head=head * groups // HEADS), inputs)
        output = one(name, site("attention_head_output", stack, 0, head=head), inputs)
        torch.testing.assert_close(output, pattern[:, head] @ value, rtol=0, atol=3e-6)  # eager softmax is of float32


def value_heads(name: str, stack: str) -> int:
    whole, head = site("attention_value", stack, 0), site("attention_value", stack, 0, head=0)
    return width(name, whole) // width(name, head)


@pytest.mark.parametrize("part", ["query", "key"])
@pytest.mark.parametrize(("name", "stack"), STACKS)
def test_a_head_without_its_query_or_key_does_not_look_at_the_tokens(name, stack, part):
    """Its pattern is then the same for every row; the other heads do not notice."""
    if "falcon" in name:
        pytest.skip("the patterns that falcon returns are not the ones it uses")
    inputs = inputs_of(name, lengths=(5, 5))
    own = patterns(name, stack, inputs)
    heads = HEADS if part == "query" else value_heads(name, stack)
    for head in range(heads):
        where = site(f"attention_{part}", stack, 0, head=head)
        edit = cr.Interchange(where, cr.Identity(width(name, where)), cr.Constant(0.0))
        pattern = patterns(name, stack, inputs, {"edit": edit})
        mine = torch.arange(HEADS) * heads // HEADS == head
        torch.testing.assert_close(pattern[0, mine], pattern[1, mine], rtol=0, atol=1e-12)
        assert (own[0, mine] - own[1, mine]).abs().max() > 1e-3
        if name != "olmo2":  # its norm runs over all heads together
            torch.testing.assert_close(pattern[:, ~mine], own[:, ~mine], rtol=0, atol=0)


@pytest.mark.parametrize(("name", "stack"), STACKS)
def test_heads_times_their_slices_of_the_output_projection_sum_to_the_attention_output(name, stack):
    inputs = inputs_of(name)
    module = locate(model_of(name), site("attention_output", stack)).module
    weight = module.weight if type(module).__name__ == "Conv1D" else module.weight.mT
    heads = [one(name, site("attention_head_output", stack, head=head), inputs) for head in range(HEADS)]
    total = sum(h @ w for h, w in zip(heads, weight.chunk(HEADS), strict=True))
    bias = getattr(module, "bias", None)
    torch.testing.assert_close(
        total + (0 if bias is None else bias),
        one(name, site("attention_output", stack), inputs),
        rtol=0,
        atol=1e-12,
        equal_nan=True,
    )


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.kind != "image"])
def test_the_side_of_the_padding_changes_nothing(name):
    model = deepcopy(model_of(name)).float() if name in NAN_ON_LEFT_PADDING else model_of(name)
    tolerance = {"bloom": 1e-5, "gemma2": 1e-4, "t5": 1e-6}.get(
        name, 1e-10
    )  # T5's buckets of relative position are of float32
    stack = "encoder" if name == "t5" else ""
    where = site("block_output", stack, 0, positions="f1+l2")
    nodes = {component: cr.Collect("base", site(component, stack)) for component in row_of(name, stack).components}
    edit = cr.Interchange(where, cr.Identity(16), cr.Shift(cr.Constant(torch.linspace(-1, 1, 16))))
    found = {}
    for side in ("right", "left"):
        inputs = inputs_of(name, side=side)
        output = cr.IntervenedModel(model, cr.InterventionGraph(edit=edit, **nodes))(inputs)
        logits = output_of(output) if stack else output_of(output)[inputs["attention_mask"].bool()]
        assert torch.isfinite(logits).all()
        found[side] = [logits, *output.collected.values()]
    torch.testing.assert_close(found["left"], found["right"], rtol=0, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("name", ["falcon_groups", "llama", "phi3", "gpt_neox", "gpt2"])
def test_one_head_of_a_source_moves_that_head_alone(name):
    base, source = inputs_of(name, 0), inputs_of(name, 1)
    where = site("attention_value", head=1)
    edit = cr.Interchange(where, cr.Identity(width(name, where)), cr.Collect("source"))
    whole = site("attention_value")
    got = edited(name, {"edit": edit}, base, whole, source=source).collected["seen"]
    own, theirs = one(name, whole, base), one(name, whole, source)
    size = width(name, where)
    wanted = torch.cat([own[..., :size], theirs[..., size : 2 * size], own[..., 2 * size :]], -1)
    torch.testing.assert_close(got, wanted, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", DECODERS)
def test_editing_every_component_at_once_moves_the_output_and_leaves_no_hook(name):
    model = model_of(name)
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    edits = {}
    for i, component in enumerate(row_of(name, "").components):
        if component == "final_norm":
            continue
        where = site(component, positions="last")
        edits[f"edit_{i}"] = cr.Interchange(where, cr.Identity(width(name, where)), cr.Shift(cr.Constant(0.1)))
    moved = output_of(edited(name, edits, inputs_of(name)))
    assert (moved - output_of(model(**inputs_of(name)))).abs().max() > 1e-3
    assert hooks == [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]


def test_a_models_later_addition_in_place_does_not_reach_what_was_collected():
    """Falcon adds the attention's output to the mlp's in place."""
    inputs = inputs_of("falcon", lengths=(5, 5))
    where = site("mlp_output")
    down = locate(model_of("falcon"), where).module
    activation = one("falcon", site("mlp_activation"), inputs)
    torch.testing.assert_close(one("falcon", where, inputs), down(activation), rtol=0, atol=1e-12)
