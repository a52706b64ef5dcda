"""Ways of generating: the edit acts where training edits, or the call is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CompileConfig,
    DynamicCache,
    FalconMambaConfig,
    GenerationConfig,
    MambaConfig,
    XLNetConfig,
    XLNetLMHeadModel,
)

import causal_reft as cr
from causal_reft.errors import GraphError, RunError
from tests.differential.generating import REFUSED
from tests.families import inputs_of, model_of, randomised
from tests.models import D_MODEL, gpt2, llama, neox, prompts

BATCH = prompts([6, 3, 4], "left")
GREEDY = {"do_sample": False, "pad_token_id": 0}


def shifting(model: Any, where: str, seed: int = 0) -> cr.IntervenedModel:
    v = 2 * torch.randn(D_MODEL, generator=torch.Generator().manual_seed(seed)).double()
    edit = cr.Interchange(cr.Site(1, positions=where), cr.Identity(D_MODEL), cr.Shift(cr.Constant(v)))
    return cr.IntervenedModel(model, cr.InterventionGraph(edit=edit))


def filled(model: Any, columns: int) -> DynamicCache:
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(**{key: value[:, :columns] for key, value in BATCH.items()}, past_key_values=cache, use_cache=True)
    return cache


@pytest.mark.parametrize("make", [gpt2, llama, neox])
def test_a_cache_that_holds_the_prompt_is_refused_because_its_tokens_would_not_be_edited(make: Any) -> None:
    model = make()
    reft = shifting(model, "first")
    with pytest.raises(RunError, match=r"generate was given past_key_values that hold 5 tokens"):
        reft.generate(BATCH, past_key_values=filled(model, 5), max_new_tokens=2, **GREEDY)
    with pytest.raises(RunError, match=r"run 'base' was given past_key_values that hold 5 tokens"):
        reft(BATCH, past_key_values=filled(model, 5))


def test_an_empty_cache_is_welcome() -> None:
    model = llama()
    reft = shifting(model, "first")
    wanted = reft.generate(BATCH, max_new_tokens=3, **GREEDY)
    cache = DynamicCache(config=model.config)
    assert torch.equal(reft.generate(BATCH, past_key_values=cache, max_new_tokens=3, **GREEDY), wanted)
    empty = DynamicCache(config=model.config)
    assert torch.equal(reft(BATCH, past_key_values=empty).logits, reft(BATCH).logits)


def test_guidance_by_a_text_without_the_prompt_is_refused() -> None:
    reft = shifting(llama(), "last")
    with pytest.raises(RunError, match=r"guidance_scale=1.5"):
        reft.generate(BATCH, guidance_scale=1.5, max_new_tokens=2, **GREEDY)
    reft.base_model.generation_config.guidance_scale = 2.0
    with pytest.raises(RunError, match=r"guidance_scale=2.0"):
        reft.generate(BATCH, max_new_tokens=2, **GREEDY)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_way_of_decoding_whose_positions_are_not_known_is_refused_in_words(name: str) -> None:
    with pytest.raises(RunError, match=name):
        shifting(llama(), "last").generate(BATCH, **GREEDY, **{name: REFUSED[name]})
    config = GenerationConfig(max_new_tokens=2)
    setattr(config, name, REFUSED[name])
    with pytest.raises(RunError, match=name):
        shifting(llama(), "last").generate(BATCH, generation_config=config)


def test_what_the_models_own_config_asks_for_is_seen_beside_a_given_config() -> None:
    reft = shifting(llama(), "last")
    reft.base_model.generation_config.guidance_scale = 2.0
    with pytest.raises(RunError, match=r"guidance_scale=2.0"):
        reft.generate(BATCH, generation_config=GenerationConfig(max_new_tokens=2))


def test_an_assistant_that_shares_blocks_with_the_edited_model_is_refused() -> None:
    model, assistant = llama(), llama(n_layers=2)
    assistant.model.layers = model.model.layers[:2]
    with pytest.raises(RunError, match="shares modules with the edited model"):
        shifting(model, "last").generate({key: value[:1] for key, value in BATCH.items()}, assistant_model=assistant)


def test_the_prompt_goes_first_and_not_under_the_name_of_transformers() -> None:
    with pytest.raises(RunError, match="Write generate"):
        shifting(llama(), "last").generate(inputs=BATCH["input_ids"])


def test_what_the_encoder_gave_without_the_edit_is_no_silent_way_around_it() -> None:
    model, inputs = model_of("t5"), {k: v for k, v in inputs_of("t5").items() if "decoder" not in k}
    site = cr.Site(1, "encoder.block_output", positions="last")
    graph = cr.InterventionGraph(edit=cr.Interchange(site, cr.Identity(D_MODEL), cr.Constant(3.0)))
    with pytest.raises(GraphError, match=r"never reached 'encoder\.block\.1'"):
        cr.IntervenedModel(model, graph).generate(**inputs, encoder_outputs=model.encoder(**inputs), max_new_tokens=2)


def test_a_forward_that_generate_compiles_for_a_static_cache_is_edited_in_every_step() -> None:
    """On GPUs `generate` compiles the decoding step by itself, with the hooks that it finds the first time."""
    model = llama()
    compiles = CompileConfig(backend="eager", mode=None, fullgraph=False)
    compiles._compile_all_devices = True
    options = {**GREEDY, "max_new_tokens": 4, "cache_implementation": "static", "compile_config": compiles}
    reft = shifting(model, "generated")
    assert torch.equal(reft.generate(BATCH, **options), reft.generate(BATCH, **{**GREEDY, "max_new_tokens": 4}))


@pytest.mark.parametrize("config", [MambaConfig, FalconMambaConfig], ids=lambda config: config.model_type)
@pytest.mark.parametrize("where", ["f2", "generated"])
def test_recurrent_states_count_the_tokens_that_they_have_read(config: Any, where: str) -> None:
    settings = {"vocab_size": 23, "hidden_size": D_MODEL, "num_hidden_layers": 2, "state_size": 4, "pad_token_id": 0}
    model = randomised(AutoModelForCausalLM.from_config(config(**settings))).double().eval()
    model.generation_config.eos_token_id = None
    batch, v = prompts([5, 5], "none"), torch.linspace(-2, 2, D_MODEL).double()
    site = cr.Site.at("backbone.layers.0", positions=where)
    graph = cr.InterventionGraph(edit=cr.Interchange(site, cr.Identity(D_MODEL), cr.Shift(cr.Constant(v))))
    reft = cr.IntervenedModel(model, graph)
    options = {**GREEDY, "max_new_tokens": 4, "return_dict_in_generate": True, "output_scores": True}
    cells = slice(0, 2) if where == "f2" else slice(5, None)

    def hook(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        return torch.cat([output[:, : cells.start], output[:, cells] + v, output[:, cells.stop or 99 :]], 1)

    handle = model.backbone.layers[0].register_forward_hook(hook)
    wanted = model.generate(**batch, use_cache=False, **options)
    handle.remove()
    found, plain = reft.generate(batch, **options), model.generate(**batch, **options)
    torch.testing.assert_close(found.scores, wanted.scores, rtol=1e-4, atol=1e-5)  # the state is in float32
    assert float((plain.scores[-1] - wanted.scores[-1]).abs().max()) > 1e-3
    state = model(**batch, use_cache=True).cache_params
    with pytest.raises(RunError, match="cache_params that hold some tokens"):
        reft(batch, cache_params=state)


def test_a_memory_that_does_not_say_what_it_holds_is_refused() -> None:
    model = XLNetLMHeadModel(XLNetConfig(vocab_size=23, d_model=D_MODEL, n_layer=1, n_head=2, d_inner=24))
    edit = cr.Interchange(cr.Site.at("transformer.layer.0"), cr.Identity(D_MODEL), cr.Constant(0.0))
    with pytest.raises(RunError, match="a memory of its own"):
        cr.IntervenedModel(model, cr.InterventionGraph(edit=edit)).generate(BATCH)
