"""`generate` under random options, against the model's own `generate` without a cache under plain hooks."""

from __future__ import annotations

import random
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, StaticCache, StoppingCriteria, StoppingCriteriaList

import causal_reft as cr
from causal_reft.errors import RunError
from tests.by_hand import Edit, Which, by_hand, either, first, generated, last
from tests.models import ARCHITECTURES, D_MODEL, VOCABULARY, prompts, same_prompts

PLACES: dict[str, Which] = {
    "f1": first(1),
    "f2+l1": either(first(2), last(1)),
    "last": last(1),
    "l2": last(2),
    "all": lambda mask, width: first(99)(mask, width),
    "generated": generated,
    "last+generated": either(last(1), generated),
}
REFUSED: dict[str, Any] = {
    "cache_implementation": "paged",
    "dola_layers": "low",
    "force_words_ids": [[5]],
    "guidance_scale": 1.5,
    "num_beam_groups": 2,
    "penalty_alpha": 0.6,
    "token_healing": True,
    "use_mtp": True,
}


class AtLength(StoppingCriteria):
    """Stops when the text has this many columns."""

    def __init__(self, columns: int) -> None:
        self.columns = columns

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.full((len(input_ids),), input_ids.shape[1] >= self.columns)


@cache
def model_of(family: str) -> nn.Module:
    """A tiny model of this family that does not stop by itself."""
    model = ARCHITECTURES[family]().requires_grad_(False)
    model.generation_config.eos_token_id = None
    return model


@cache
def assistant() -> nn.Module:
    """A smaller model of the same vocabulary."""
    return ARCHITECTURES["llama"](seed=9, n_layers=1).requires_grad_(False)


def an_edit(draw: random.Random, layer: int) -> tuple[cr.Interchange, Edit]:
    """A shift or a LoReFT edit, and its formula."""
    where, seed = draw.choice(sorted(PLACES)), draw.randrange(1000)
    site = cr.Site(layer, positions=where)
    if draw.random() < 0.5:
        v = 2 * torch.randn(D_MODEL, generator=torch.Generator().manual_seed(seed)).double()
        shift = cr.Interchange(site, cr.Identity(D_MODEL), cr.Shift(cr.Constant(v)))
        return shift, (layer, PLACES[where], lambda h: h + v)
    R, source = cr.Subspace(D_MODEL, 3, seed=seed).double(), cr.LearnedSource(3, D_MODEL, init="random", seed=seed)
    source.double().bias.data += 4.0
    rows, w, b = R.rotation.detach(), source.weight.detach(), source.bias.detach()
    return cr.Interchange(site, R, source), (layer, PLACES[where], lambda h: h + (h @ w.T + b - h @ rows.T) @ rows)


def decoding(draw: random.Random, columns: int) -> dict[str, Any]:
    """Options that change which tokens come."""
    options: dict[str, Any] = {"max_new_tokens": draw.randint(1, 6), "do_sample": False, "pad_token_id": 0}
    loops: list[dict[str, Any]] = [
        {},
        {"num_beams": 3, "num_return_sequences": draw.randint(1, 3), "length_penalty": draw.choice([0.3, 1.0])},
        {
            "do_sample": True,
            "top_k": draw.choice([0, 5]),
            "temperature": 0.8,
            "num_return_sequences": draw.randint(1, 3),
        },
        {"do_sample": True, "top_p": 0.9, "num_beams": 2, "num_return_sequences": draw.randint(1, 2)},
    ]
    extras: list[dict[str, Any]] = [
        {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2},
        {"bad_words_ids": [[5], [6]], "suppress_tokens": [7]},
        {"eos_token_id": draw.randrange(3, VOCABULARY), "min_new_tokens": 1},
        {"stopping_criteria": StoppingCriteriaList([AtLength(columns + 2)])},
        {"prefix_allowed_tokens_fn": lambda row, ids: [3 + row % 2, 5, 6, 7]},
        {"return_dict_in_generate": True, "output_scores": True, "output_hidden_states": True},
    ]
    for more in (draw.choice(loops), *draw.sample(extras, draw.randint(0, 2))):
        options |= more
    return options


def caching(draw: random.Random, model: nn.Module, greedy: bool, rows: int) -> dict[str, Any]:
    """Options that change how the same tokens are computed."""
    ways: list[dict[str, Any]] = [
        {},
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"prefill_chunk_size": draw.randint(1, 4)},
        {"past_key_values": DynamicCache(config=model.config)},
        {"past_key_values": StaticCache(config=model.config, max_cache_len=64)},
    ]
    if greedy and rows == 1:
        ways += 2 * [{"prompt_lookup_num_tokens": draw.randint(1, 3)}, {"assistant_model": assistant()}]
    return draw.choice(ways)


def generation_options(draw: random.Random) -> str:
    """The same sequences and scores, or a refusal: of what must be refused, and of nothing else."""
    model = model_of(draw.choice(sorted(ARCHITECTURES)))
    lengths = [draw.randint(1, 6) for _ in range(draw.randint(1, 4))]
    batch = prompts(lengths, "left", seed=draw.randrange(1000))
    edits = [an_edit(draw, layer) for layer in draw.sample(range(3), draw.randint(1, 2))]
    reft = cr.IntervenedModel(model, cr.InterventionGraph(**{f"e{i}": node for i, (node, _) in enumerate(edits)}))
    options = decoding(draw, max(lengths))
    given = same_prompts(batch, draw.choice(["left", "right"]), extra=0)
    if draw.random() < 0.1:
        name = draw.choice(sorted(REFUSED))
        return assert_refused(lambda: reft.generate(given, **{**options, name: REFUSED[name]}), name)
    if draw.random() < 0.1:
        cache = DynamicCache(config=model.config)
        model(**{key: value[:, :1] for key, value in batch.items()}, past_key_values=cache, use_cache=True)
        return assert_refused(lambda: reft.generate(given, past_key_values=cache, **options), "a filled cache")
    with by_hand(model, [formula for _, formula in edits], batch["attention_mask"]):
        wanted = sampled(model.generate, **batch, **{**deepcopy(options), "use_cache": False})
    greedy = not options["do_sample"] and "num_beams" not in options and "return_dict_in_generate" not in options
    how = caching(draw, model, greedy, len(lengths))
    found = sampled(reft.generate, given, **options, **how)
    if "return_dict_in_generate" in options:
        for mine, theirs in zip(found.scores, wanted.scores, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
        found, wanted = found.sequences, wanted.sequences
    assert torch.equal(found, wanted), f"{reft.graph!r}\n{lengths} {options} {how}\n{found}\n{wanted}"
    return "equal"


def sampled(generate: Callable[..., Any], *args: Any, **options: Any) -> Any:
    torch.manual_seed(5)
    return generate(*args, **options)


def assert_refused(call: Callable[[], object], what: str) -> str:
    try:
        call()
    except RunError:
        return "refused"
    raise AssertionError(f"{what} is accepted")
