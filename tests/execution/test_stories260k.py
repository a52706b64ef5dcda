"""Everything on a real model that wrote stories before it came here: every backend, generation, wrappers, serving."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
import transformers
from nnsight import NNsight
from torch import nn

import causal_reft as cr
from causal_reft.sites import ARCHITECTURES, find_blocks
from tests.by_hand import by_hand, either, generated, last

D, PROMPTS = 64, ("Once upon a time", "Lily", "The big dog was very", "Tom and Anna went to the", "One day a")
OTHERS = ("Ben had a red ball", "Mom", "A little bird sat in the", "The cat and", "It was a sunny day")
Batch = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def stories(shared) -> transformers.PreTrainedModel:
    """In float64, frozen; shared by all tests here, so nobody may change it."""
    folder = shared / "models" / "stories260K-llama"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).double().eval().requires_grad_(False)
    model.generation_config.pad_token_id = 0
    return model


@pytest.fixture(scope="module")
def tokens(shared) -> Callable[..., Batch]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(shared / "models" / "stories260K-llama")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.unk_token

    def of(texts: tuple[str, ...], side: str = "right") -> Batch:
        encoded = tokenizer(list(texts), padding=True, padding_side=side, return_tensors="pt")
        return {key: encoded[key] for key in ("input_ids", "attention_mask")}

    return of


def loreft(seed: int = 0, rank: int = 4, width: int = D) -> tuple[cr.Subspace, cr.LearnedSource]:
    """An edit that does something from the start."""
    return cr.Subspace(width, rank, seed=seed), cr.LearnedSource(rank, width, init="random", seed=seed)


def orthonormal(R: cr.Subspace) -> torch.Tensor:
    """The rows as a model in float64 sees them, by Gram and Schmidt."""
    q, r = torch.linalg.qr(R.basis.master.detach().double().T)
    return (q * r.diagonal().sign()).T


def formula(R: cr.Subspace, source: cr.LearnedSource) -> Callable[[torch.Tensor], torch.Tensor]:
    """The same edit by its equation."""
    rows = orthonormal(R)
    w, b = source.weight.detach().double(), source.bias.detach().double()
    return lambda h: h + (h @ w.T + b - h @ rows.T) @ rows


def scored(inputs: Batch) -> torch.Tensor:
    """Labels for all but the first two tokens of each text."""
    read = (inputs["attention_mask"].cumsum(1) > 2) & inputs["attention_mask"].bool()
    return torch.where(read, inputs["input_ids"], -100)


def outcome(model: nn.Module, graph: cr.InterventionGraph, backend: str, base: Batch, **runs: Batch):
    """Logits, collected states and gradients."""
    graph.modules.double().zero_grad()
    output = cr.IntervenedModel(model, graph, backend=backend)(base, **runs)
    output.logits.pow(2).mean().backward()
    return [output.logits.detach(), dict(output.collected), [p.grad.clone() for p in graph.parameters()]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_hooks_and_nnsight_agree_at_every_component(stories, tokens, side):
    nodes = {}
    for i, component in enumerate(ARCHITECTURES["llama"].components):
        site = cr.Site(None if component in ("embeddings", "final_norm") else 2, component)
        seen = cr.InterventionGraph(seen=cr.Collect("base", site))
        width = cr.IntervenedModel(stories, seen).collect(tokens(PROMPTS))["seen"].shape[-1]
        R, source = loreft(i, 2, width)
        nodes[f"learned{i}"] = cr.Interchange(site.moved(positions="first"), R, source)
        swapped = cr.Subspace(width, 2, seed=99 - i)
        nodes[f"swapped{i}"] = cr.Interchange(site.moved(positions="last"), swapped, cr.Collect("source"))
        nodes[f"seen{i}"] = cr.Collect("base", site)
    graph, base, source = cr.InterventionGraph(**nodes), tokens(PROMPTS, side), tokens(OTHERS, side)
    wanted = outcome(stories, graph, "hooks", base, source=source)
    found = outcome(NNsight(deepcopy(stories)), graph, "nnsight", base, source=source)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12, equal_nan=True)
    assert all(gradient.abs().max() > 0 for gradient in wanted[2])


@pytest.mark.parametrize("side", ["left", "right"])
def test_an_interchange_is_the_equation_at_a_plain_hook(stories, tokens, side):
    base, source, R = tokens(PROMPTS, side), tokens(OTHERS, side), cr.Subspace(D, 4, seed=1)
    rows = orthonormal(R)
    ends = [batch["attention_mask"].cumsum(1).argmax(1) for batch in (base, source)]
    kept: list[torch.Tensor] = []

    def swap(module: nn.Module, args: object, h: torch.Tensor) -> torch.Tensor:
        h, at = h.clone(), torch.arange(len(h))
        if not kept:
            kept.append(h[at, ends[1]])
        else:
            h[at, ends[0]] += ((kept[0] - h[at, ends[0]]) @ rows.T) @ rows
        return h

    handle = find_blocks(stories).modules[2].register_forward_hook(swap)
    ids = [{**b, "position_ids": (b["attention_mask"].cumsum(1) - 1).clamp_min(0)} for b in (source, base)]
    _, wanted = (stories(**each).logits for each in ids)
    handle.remove()
    site = cr.Site(2, positions="last")
    graph = cr.InterventionGraph(edit=cr.Interchange(site, R, cr.Collect("source")), seen=cr.Collect("source", site))
    found = cr.IntervenedModel(stories, graph)(base, source=source)
    real = base["attention_mask"].bool()
    torch.testing.assert_close(found.logits[real], wanted[real], rtol=0, atol=1e-12)
    torch.testing.assert_close(found.collected["seen"][:, 0], kept[0], rtol=0, atol=1e-12)


WAYS = {
    "greedy": {"do_sample": False},
    "beams": {"do_sample": False, "num_beams": 3, "num_return_sequences": 2},
    "sampling": {"do_sample": True, "top_k": 0, "temperature": 0.8, "num_return_sequences": 2},
}


@pytest.mark.parametrize("way", WAYS)
def test_tokens_are_those_of_a_slow_loop(stories, tokens, way):
    """No cache, plain hooks; five unequal prompts on either side; edits of the prompt and of what is generated."""
    (R, source), (R2, source2) = loreft(0), loreft(1)
    graph = cr.InterventionGraph(
        prompt=cr.Interchange(cr.Site(1, positions="last"), R, source),
        later=cr.Interchange(cr.Site(3, positions="last+generated"), R2, source2),
    )
    edits = [(1, last(1), formula(R, source)), (3, either(last(1), generated), formula(R2, source2))]
    options, left = {**WAYS[way], "max_new_tokens": 8}, tokens(PROMPTS, "left")

    def slow(edits: list) -> torch.Tensor:
        torch.manual_seed(5)
        with by_hand(stories, edits, left["attention_mask"]):
            return stories.generate(**left, use_cache=False, **options)

    wanted = slow(edits)
    for side in ("left", "right"):
        torch.manual_seed(5)
        found = cr.IntervenedModel(stories, graph).generate(**tokens(PROMPTS, side), **options)
        assert torch.equal(found[:, -8:], wanted[:, -8:])
    assert not torch.equal(slow([]), wanted)


def test_64_served_rows_of_16_graphs_are_64_single_calls(stories, tokens):
    server = cr.Served(stories)
    for i in range(16):
        sites = [cr.Site(i % 4, positions="last"), cr.Site(4, positions="f2+l2")]
        server.add(f"g{i}", cr.loreft(sites, D, 2 + i % 3, seed=i, init="random"))
    texts = [PROMPTS[i % 5] for i in range(64)]
    inputs, names = tokens(tuple(texts)), [(None, *server.graphs)[7 * i % 17] for i in range(64)]
    together = server(inputs, graphs=names).logits
    for i, name in enumerate(names):
        graph = cr.InterventionGraph() if name is None else server.graphs[name]
        with torch.no_grad():
            alone = cr.IntervenedModel(stories, graph)(tokens((texts[i],))).logits[0]
        torch.testing.assert_close(together[i, : len(alone)], alone, rtol=0, atol=1e-10)


def test_lora_and_loreft_train_together(stories, tokens):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = peft.get_peft_model(deepcopy(stories), config).double()
    graph = cr.loreft(cr.Site(2, positions="f1+l1"), D, 4)
    reft, inputs = cr.IntervenedModel(model, graph), tokens(OTHERS)
    trained = {name: p for name, p in reft.named_parameters() if p.requires_grad}
    assert any("lora_" in name for name in trained) and any("interventions" in name for name in trained)
    before, losses = {name: p.detach().clone() for name, p in trained.items()}, []
    optimizer = torch.optim.Adam(trained.values(), 5e-3)
    for _ in range(10):
        loss = reft(**inputs, labels=scored(inputs)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    assert all(not torch.equal(p, before[name]) for name, p in trained.items())


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_gives_the_same_gradients(stories, tokens, reentrant):
    (R, source), inputs = loreft(), tokens(PROMPTS)
    graph = cr.InterventionGraph(
        inner=cr.Interchange(cr.Site(2, "mlp_output", "last"), R, source),
        swapped=cr.Interchange(cr.Site(3, "attention_output", "last"), cr.Subspace(D, 3), cr.Collect("source")),
    )
    wanted = outcome(stories, graph, "hooks", inputs, source=tokens(OTHERS))
    model = deepcopy(stories).train()
    cr.IntervenedModel(model, graph).activation_checkpointing_enable({"use_reentrant": reentrant})
    assert model.is_activation_checkpointing
    found = outcome(model, graph, "hooks", inputs, source=tokens(OTHERS))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12, equal_nan=True)


def test_a_model_in_two_places_gives_equal_logits(stories, tokens, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    model, inputs = deepcopy(stories), tokens(PROMPTS)
    halves = {f"model.layers.{i}": "cpu" if i < 2 else "disk" for i in range(5)}
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    accelerate.dispatch_model(model, places | halves, main_device="cpu", offload_dir=str(tmp_path), force_hooks=True)
    graph = cr.das(cr.Site(3, "mlp_output", "last"), D, 3)
    wanted = outcome(stories, graph, "hooks", inputs, source=tokens(OTHERS))
    found = outcome(model, graph, "hooks", inputs, source=tokens(OTHERS))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
