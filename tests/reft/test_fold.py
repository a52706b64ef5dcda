"""A folded model is the edited one: logits and greedy tokens, on every family, also saved and loaded; all else is
refused with its reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import causal_reft as cr
from causal_reft.errors import GraphError
from causal_reft.sites import ARCHITECTURES, locate
from tests.families import FAMILIES, inputs_of, model_of, output_of
from tests.models import D_MODEL as D
from tests.models import ToyMLP, at_real_tokens, gpt2, llama, neox, prompts

EVERY = "all+generated"
FAMILY_NAMES = [name for name in FAMILIES if name != "t5"] + ["t5 encoder", "t5 decoder"]


def moved(graph: cr.InterventionGraph) -> cr.InterventionGraph:
    """float64, with all parameters away from their start."""
    generator = torch.Generator().manual_seed(3)
    for parameter in graph.modules.double().parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return graph


def width(model: nn.Module, site: cr.Site) -> int:
    """Of the values at a linear layer's port that a site names."""
    here = locate(model, site)
    weight = here.module.weight if isinstance(here.module, nn.Linear) else here.module.weight.mT  # type: ignore[union-attr]
    full = weight.shape[1 if here.port == "input" else 0]
    features = here.features(full)
    return full if features is None else len(features)


def everything(model: nn.Module, stack: str = "") -> cr.InterventionGraph:
    """An edit of each kind that this model's weights can hold."""

    def at(part: str, head: int | None = None) -> tuple[cr.Site, int]:
        site = cr.Site(1, f"{stack}.{part}" if stack else part, EVERY if model.can_generate() else "all", head)  # type: ignore[operator]
        return site, width(model, site)

    nodes: dict[str, cr.InterventionGraph] = {}
    query, key, value, out = (at(f"attention_{part}") for part in ("query", "key", "value", "output"))
    head = at("attention_head_output", 2)
    nodes["key"] = cr.ia3(*key)
    nodes["value"] = cr.ablate_directions(value[0], torch.linspace(-1, 2, value[1])[None])
    nodes["query"] = cr.noreft(*query, rank=2)
    nodes["head"] = cr.ia3(*head)
    nodes["out"] = cr.loreft(*out, rank=3).scaled(0.7)
    if has_bias(model, out[0]):
        site, d = at("attention_head_output", 1)
        nodes["gated"] = cr.InterventionGraph(edit=cr.Interchange(site, cr.Identity(d), cr.GatedScale(d)))
    for name in ("query", "out"):
        if not has_bias(model, nodes[name]["edit"].site):
            node = nodes[name]["edit"]
            source = cr.LearnedSource(node.featurizer.rank, node.featurizer.d_model, bias=False)
            nodes[name] = cr.InterventionGraph(edit=replace(node, source=source))
    linear = cr.Site.at(locate(model, out[0]).path, positions=out[0].positions)
    nodes["lora"] = cr.lora(linear, width(model, linear.moved(port="input")), out[1], rank=2, alpha=4)
    if "mlp_activation" in ARCHITECTURES[model.config.model_type].components:  # type: ignore[union-attr]
        nodes["activation"] = cr.ia3(*at("mlp_activation"))
        if has_bias(model, at("mlp_output")[0]):
            nodes["output"] = cr.red(*at("mlp_output"))
            if ARCHITECTURES[model.config.model_type].adds_mlp(model.config):  # type: ignore[union-attr]
                block = replace(at("mlp_output")[0], component=f"{stack}.block_output".lstrip("."))
                nodes["block"] = cr.steer(block, torch.linspace(-1, 1, 16, dtype=torch.float64))
                nodes["trained"] = cr.lobireft(block, 16, rank=2)
    graph = cr.InterventionGraph()
    for name, part in nodes.items():
        graph += part.renamed({"edit": name})
    return moved(graph)


def has_bias(model: nn.Module, site: cr.Site) -> bool:
    """Whether the layer at a site has a bias, or a setting of the config can give it one."""
    here, config = locate(model, site), model.config
    setting = "bias" if "bias" in config else "mlp_bias" if site.part.startswith("mlp") else "attention_bias"  # type: ignore[operator]
    switch = config.model_type in ("falcon", "llama", "qwen3", "qwen3_moe", "gemma", "gemma2", "gemma3_text", "olmo2")  # type: ignore[union-attr]
    return getattr(here.module, "bias", None) is not None or (switch and getattr(config, setting, None) is False)


def close(found: torch.Tensor, expected: torch.Tensor, bound: float = 1e-12) -> None:
    scale = float(expected.detach().abs().max().clamp_min(1))
    torch.testing.assert_close(found, expected, rtol=0, atol=bound * scale)


def real(output: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """The outputs at real tokens; weights act on pads too, which no token looks at."""
    found = output_of(output)
    return found[inputs["attention_mask"] != 0] if set(inputs) == {"input_ids", "attention_mask"} else found


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_every_family(name: str, tmp_path: Path) -> None:
    """Logits in float64; and 50 greedy tokens of the folded model are those that the edited model finds likeliest."""
    name, _, stack = name.partition(" ")
    model, inputs = model_of(name), inputs_of(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    graph = everything(model, stack)
    edited, folded = cr.IntervenedModel(model, graph).eval(), cr.fold(model, graph)
    folded.save_pretrained(tmp_path)
    experts = {"experts_implementation": "eager"} if name in ("mixtral", "qwen2_moe", "qwen3_moe") else {}
    again = type(model).from_pretrained(tmp_path, dtype=torch.float64, **experts).eval()
    expected, plain = real(edited(inputs), inputs), real(edited.with_graph(cr.InterventionGraph())(inputs), inputs)
    assert (expected - plain).abs().max() > 1e-3, "the edits do something"
    for found in (folded, again):
        assert type(found) is type(model)
        close(real(cr.IntervenedModel(found, cr.InterventionGraph())(inputs), inputs), expected)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert set(model.state_dict()) == set(before), "the caller's model has no further biases"
    if FAMILIES[name].kind == "decoder":
        prompt = inputs["input_ids"][:1]
        text = again.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=50, do_sample=False)
        logits = edited({"input_ids": text, "prompt_lengths": [prompt.shape[1]]}).logits
        assert torch.equal(logits[:, prompt.shape[1] - 1 : -1].argmax(-1), text[:, prompt.shape[1] :])


@pytest.mark.parametrize("build", [gpt2, llama, neox])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_logits_and_fifty_greedy_tokens(build: Any, dtype: torch.dtype, bound: float) -> None:
    """With either padding, by `generate` of the two models themselves."""
    model = build(dtype=dtype)
    model.generation_config.eos_token_id = None
    site = cr.Site(1, "mlp_output", EVERY)
    graph = moved(cr.loreft(site, D, 3)) + cr.steer(cr.Site(0, positions=EVERY), torch.linspace(-1, 1, D)).renamed(
        {"edit": "steered"}
    )
    graph.modules.to(dtype)
    edited = cr.IntervenedModel(model, graph)
    folded = cr.IntervenedModel(cr.fold(model, graph), cr.InterventionGraph())
    for side in ("left", "right"):
        batch = prompts([4, 6], side)
        close(at_real_tokens(folded(batch).logits, batch), at_real_tokens(edited(batch).logits, batch), bound)
    texts = [reft.generate(batch, max_new_tokens=50, do_sample=False) for reft in (edited, folded)]
    assert torch.equal(*texts) and texts[0].shape[1] == 56


def test_a_plain_module() -> None:
    toy, x = ToyMLP(), torch.randn(5, 6, dtype=torch.float64)
    graph = moved(cr.loreft(cr.Site.at("second"), 8, 3) + cr.red(cr.Site.at("third"), 3).renamed({"edit": "red"}))
    close(cr.fold(toy, graph)(x), cr.IntervenedModel(toy, graph)(x))


S = cr.Site(1, "mlp_output", EVERY)
BLOCK = cr.Site(1, positions=EVERY)
V = torch.ones(D)


def edit(source: Any, F: cr.Featurizer | None = None, site: cr.Site = S, **options: Any) -> cr.InterventionGraph:
    return cr.InterventionGraph(edit=cr.Interchange(site, F or cr.Identity(D), source, **options))


def read_elsewhere(site: cr.Site) -> cr.InterventionGraph:
    reads = cr.Collect("base", site)
    return edit(cr.LearnedSource(2, D, reads=reads, init="random"), cr.Subspace(D, 2))


REFUSED: dict[str, tuple[cr.InterventionGraph, str]] = {
    "some tokens": (cr.loreft(S.moved(positions="f2+l2"), D, 2), "are some of the tokens.*'all\\+generated'"),
    "the prompt only": (cr.loreft(S.moved(positions="all"), D, 2), "positions='all' are some of the tokens"),
    "dropout": (cr.loreft(S, D, 2, dropout=0.1), r"dropout=0\.1 is for training.*dropout=0\.0"),
    "an activation": (cr.loreft(S, D, 2, init="random", activation="gelu"), "activation='gelu'\\) is not linear"),
    "latents": (cr.reft_r1(S, D), r"TopLatents\(k=8\) is not linear"),
    "a mask": (edit(cr.Constant(0.0), cr.Mask(cr.Identity(D))), r"Mask\(.* is not linear"),
    "another run": (cr.patch(S, D), "values come from another run"),
    "a run that is not the base": (edit(cr.Constant(0.0), run="mid"), "it edits run 'mid'"),
    "another site": (read_elsewhere(cr.Site(0, positions=EVERY)), "reads Site\\(0.*not at the layer that it edits"),
    "other tokens": (read_elsewhere(S.moved(positions="last")), "not at the layer that it edits"),
    "noise": (cr.noise_ablate(S, D, 0.1), "Noise.*differs from token to token"),
    "a value for each token": (edit(cr.Constant(torch.zeros(3, D))), "differs from token to token"),
    "a value for each row": (edit(cr.PerRow(torch.zeros(3, D))), "differs from token to token"),
    "a collect": (cr.InterventionGraph(seen=cr.Collect("base", S)), "only collects"),
    "a function of a block's output": (cr.loreft(BLOCK, D, 2), r"constant shift only.*Site\(1, 'mlp_output'"),
    "an ablated block": (cr.zero_ablate(BLOCK, D), "constant shift only"),
    "no linear layer": (cr.steer(cr.Site(component="final_norm", positions=EVERY), V), "'transformer.ln_f' is a Layer"),
    "what several layers take": (cr.steer(cr.Site(1, "mlp_input", EVERY), V), "is a GPT2MLP"),
    "tied weights": (
        cr.steer(cr.Site.at("lm_head", port="input", positions=EVERY), V), "'lm_head' shares its weights with transf"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_weights_cannot_do_is_refused(case: str) -> None:
    graph, reason = REFUSED[case]
    with pytest.raises(GraphError, match=f"cannot be folded into weights: .*{reason}"):
        cr.fold(gpt2(), graph)


def test_what_this_model_cannot_do_is_refused() -> None:
    every = replace(BLOCK, positions="all")
    with pytest.raises(GraphError, match="more than the residual stream follows"):
        cr.fold(model_of("bert"), cr.steer(every, V))
    with pytest.raises(GraphError, match=r"down_proj' has no bias, .* no setting of Qwen2ForCausalLM gives it one"):
        cr.fold(model_of("qwen2"), cr.steer(BLOCK, V))
    with pytest.raises(GraphError, match="MixtralSparseMoeBlock, and no plain linear layer"):
        cr.fold(model_of("mixtral"), cr.steer(BLOCK, V))
    with pytest.raises(GraphError, match=r"fold\(reft\.base_model, reft\.graph\)"):
        cr.fold(cr.IntervenedModel(gpt2(), cr.steer(S, V)), cr.steer(S, V))
    with pytest.raises(GraphError, match=r"weights beyond torch\.float16"):
        cr.fold(gpt2(dtype=torch.float16), cr.steer(S, 1e6 * V))
    hooked, layer = gpt2(), "transformer.h.1.mlp.c_proj"
    hooked.get_submodule(layer).register_forward_hook(lambda module, args, output: 2 * output)
    with pytest.raises(GraphError, match="is a Conv1D"):
        cr.fold(hooked, cr.steer(S, V))
    toy = ToyMLP()
    toy.second = nn.Linear(8, 8, bias=False, dtype=torch.float64)
    with pytest.raises(GraphError, match="'second' has no bias"):
        cr.fold(toy, cr.steer(cr.Site.at("second"), torch.ones(8)))
