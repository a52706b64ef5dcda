"""Models inside wrappers: PEFT, torch.compile, half precision, checkpointing, offload, quantisation, classification."""

from __future__ import annotations

import gc
import weakref
from copy import deepcopy

import pytest
import torch
import transformers
from torch import nn
from torch.utils.checkpoint import checkpoint

import causal_reft as cr
from causal_reft.errors import GraphError, PositionError, RunError
from tests.families import FAMILIES, inputs_of, model_of, output_of, padded, randomised

# peft asks transformers by a name that is going away
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def edit(
    layer: int = 1, component: str = "block_output", positions="last", seed: int = 0, d_model: int = 16
) -> cr.Interchange:
    """A LoReFT edit that does something from the start."""
    return cr.Interchange(
        cr.Site(layer, component, positions),
        cr.Subspace(d_model, 2, seed=seed),
        cr.LearnedSource(2, d_model, init="random", seed=seed),
    )


def own(name: str) -> nn.Module:
    return deepcopy(model_of(name))


def n_hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


# --- PEFT ------------------------------------------------------------------------------------------------------------


def with_lora(name: str = "llama") -> nn.Module:
    peft = pytest.importorskip("peft")
    torch.manual_seed(3)
    return peft.get_peft_model(
        own(name), peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    ).double()


def test_lora_and_loreft_train_together_and_each_alone():
    inputs = inputs_of("llama")
    labels = torch.where(
        (inputs["attention_mask"].cumsum(1) > 2) & inputs["attention_mask"].bool(), inputs["input_ids"], -100
    )
    for lora, loreft in ((True, True), (True, False), (False, True)):
        reft = cr.IntervenedModel(with_lora(), cr.InterventionGraph(edit=edit()))
        for name, parameter in reft.base_model.named_parameters():
            parameter.requires_grad_(lora and "lora_" in name)
        reft.interventions.requires_grad_(loreft)
        trained = [p for p in reft.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(trained, 1e-2)
        losses = []
        for _ in range(8):
            loss = reft(**inputs, labels=labels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        assert losses[-1] < losses[0] - 0.01
        assert all(p.grad is None for p in reft.parameters() if not p.requires_grad)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_peft_wrapper_around_nothing_new_changes_nothing(side):
    """Position ids of left-padded rows, windows of generation, keywords of the model inside: all as without the
    wrapper."""
    peft = pytest.importorskip("peft")
    graph, inputs = cr.InterventionGraph(edit=edit(positions="last+generated")), inputs_of("llama", side=side)
    wrapped = peft.get_peft_model(own("llama"), peft.LoraConfig(r=2, target_modules=["q_proj"])).double()
    plain, peft_model = cr.IntervenedModel(model_of("llama"), graph), cr.IntervenedModel(wrapped, graph)
    kept = {"logits_to_keep": 2} if side == "left" else {}
    torch.testing.assert_close(peft_model(inputs, **kept).logits, plain(inputs, **kept).logits, rtol=0, atol=0)
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(peft_model.generate(**inputs, **options), plain.generate(**inputs, **options))


# --- torch.compile ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["torch.compile", "module.compile", "a compiled block"])
def test_a_compiled_model_is_edited(way):
    model, inputs, graph = own("llama"), inputs_of("llama"), cr.InterventionGraph(edit=edit())
    wanted = cr.IntervenedModel(model_of("llama"), graph)(inputs).logits
    if way == "torch.compile":
        compiled = torch.compile(model, backend="eager")
    else:
        compiled = model
        (model if way == "module.compile" else model.model.layers[1]).compile(backend="eager")
    before = output_of(compiled(**inputs))
    reft = cr.IntervenedModel(compiled, graph)
    torch.testing.assert_close(reft(inputs).logits, wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(output_of(compiled(**inputs)), before, rtol=0, atol=0)
    options = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(
        reft.generate(**inputs, **options), cr.IntervenedModel(model_of("llama"), graph).generate(**inputs, **options)
    )
    torch.compiler.reset()


# --- precision -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_of_half_precision_is_edited_in_single_and_returns_half(dtype):
    model, inputs = own("llama").to(dtype), inputs_of("llama")
    inside, outside = cr.Collect("base", cr.Site(0)), cr.Collect("base", cr.Site(1, positions="last"))
    where = edit(0, positions="last")
    reft = cr.IntervenedModel(model, cr.InterventionGraph(edit=where, seen=inside, after=outside))
    output = reft(inputs)
    assert output.logits.dtype == output.collected["seen"].dtype == dtype
    h = cr.IntervenedModel(model, cr.InterventionGraph(h=cr.Collect("base", cr.Site(0, positions="last")))).collect(
        inputs
    )["h"][:, 0]
    rows, source = where.featurizer.rotation, where.source
    z = h.float() @ source.weight.T + source.bias
    wanted = (h.float() + (z - h.float() @ rows.T) @ rows).to(dtype)
    ends = inputs["attention_mask"].sum(1) - 1
    torch.testing.assert_close(output.collected["seen"][torch.arange(3), ends], wanted)
    output.logits.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in reft.trainable_parameters())


# --- gradient checkpointing ------------------------------------------------------------------------------------------


def gradients(
    model: nn.Module, graph: cr.InterventionGraph, inputs: dict, calls: int = 1, **runs
) -> list[torch.Tensor]:
    graph.modules.double()
    reft = cr.IntervenedModel(model, graph)
    losses = [
        reft({**inputs, "input_ids": (inputs["input_ids"] + i) % 40}, **runs).logits.pow(2).mean() for i in range(calls)
    ]
    graph.modules.zero_grad()
    sum(losses).backward()
    return [p.grad.clone() for p in graph.parameters() if p.grad is not None]


def checkpointed(name: str, reentrant: bool) -> nn.Module:
    model = own(name).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for key in ("attention_dropout", "attn_pdrop", "resid_pdrop", "embd_pdrop", "dropout", "hidden_dropout"):
        if hasattr(model.config, key):
            setattr(model.config, key, 0.0)
    cr.IntervenedModel(model, cr.InterventionGraph()).activation_checkpointing_enable({"use_reentrant": reentrant})
    return model


@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("component", ["block_output", "block_input", "mlp_output", "attention_head_output"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "falcon"])
def test_checkpointing_gives_the_same_gradients(name, component, reentrant, calls):
    """Also with two forwards waiting for one backward, and with one rotation at both layers."""
    first, second = edit(0, component), edit(1, "mlp_output")
    graph = cr.InterventionGraph(
        a=first, b=second, c=cr.Interchange(cr.Site(1, component), first.featurizer, first.source)
    )
    inputs = inputs_of(name)
    wanted = gradients(model_of(name), graph, inputs, calls)
    model = checkpointed(name, reentrant)
    hooks = n_hooks(model)
    found = gradients(model, graph, inputs, calls)
    assert len(found) == len(wanted) == 6
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    assert n_hooks(model) == hooks


@pytest.mark.parametrize("options", [{}, {"every_n_layers": 2}], ids=str)
def test_the_trainer_turns_checkpointing_on_and_learns_the_same(options, tmp_path):
    records = [{"input_ids": [3, 4, 5, 6 + i], "labels": [-100, -100, 5, 6 + i], "prompt_lengths": 2} for i in range(4)]
    learned = []
    for on in (False, True):
        reft = cr.IntervenedModel(own("llama").train(), cr.InterventionGraph(edit=edit(0), late=edit(1, "mlp_output")))
        arguments = transformers.TrainingArguments(
            str(tmp_path), max_steps=3, learning_rate=1e-2, report_to="none", save_strategy="no", disable_tqdm=True,
            use_cpu=True, activation_checkpointing=on, activation_checkpointing_kwargs=options,
            logging_strategy="no",
        )  # fmt: skip
        cr.ReftTrainer(reft, arguments, records, data_collator=cr.ReftCollator(0)).train()
        assert reft.base_model.is_activation_checkpointing is on
        learned.append([p.detach().clone() for p in reft.graph.parameters()])
    torch.testing.assert_close(learned[1], learned[0], rtol=0, atol=1e-6)


def test_a_module_without_checkpointing_says_so():
    with pytest.raises(RunError, match=r"has no activation checkpointing"):
        cr.IntervenedModel(OwnCheckpointing(), cr.InterventionGraph()).activation_checkpointing_enable()


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_interchanges_train_their_rotation(reentrant):
    R = cr.Subspace(16, 3)
    graph = cr.InterventionGraph(das=cr.Interchange(cr.Site(0, "mlp_output", "last"), R, cr.Collect("source")))
    runs = {"source": inputs_of("llama", 9)}
    wanted = gradients(model_of("llama"), graph, inputs_of("llama"), **runs)
    torch.testing.assert_close(
        gradients(checkpointed("llama", reentrant), graph, inputs_of("llama"), **runs), wanted, rtol=0, atol=1e-12
    )


def test_checkpointed_edits_of_two_graphs_do_not_mix():
    model, inputs = checkpointed("llama", False), inputs_of("llama")
    one, two = (cr.InterventionGraph(edit=edit(1, "mlp_output", seed=seed)) for seed in (1, 2))
    one.modules.double(), two.modules.double()

    def run(model):
        loss = sum(cr.IntervenedModel(model, graph)(inputs).logits.pow(2).mean() for graph in (one, two))
        loss.backward()
        return [p.grad.clone() for graph in (one, two) for p in graph.parameters()], [
            graph.modules.zero_grad() for graph in (one, two)
        ]

    wanted, found = run(model_of("llama"))[0], run(model)[0]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_a_source_read_in_another_checkpointed_layer_keeps_its_gradient():
    read = cr.Collect("base", cr.Site(0, "mlp_output", "last"))
    source = cr.LearnedSource(2, 16, reads=read, init="random")
    graph = cr.InterventionGraph(
        first=edit(0, "mlp_input"), edit=cr.Interchange(cr.Site(1, "mlp_output", "last"), cr.Subspace(16, 2), source)
    )
    wanted = gradients(model_of("llama"), graph, inputs_of("llama"))
    torch.testing.assert_close(
        gradients(checkpointed("llama", False), graph, inputs_of("llama")), wanted, rtol=0, atol=1e-12
    )
    with pytest.raises(GraphError, match="use_reentrant=False"):
        gradients(checkpointed("llama", True), graph, inputs_of("llama"))


def test_what_checkpointing_keeps_goes_with_the_output():
    model, graph = checkpointed("llama", False), cr.InterventionGraph(edit=edit(1, "mlp_output"))
    output = cr.IntervenedModel(model, graph)(inputs_of("llama"))
    held = weakref.ref(output.logits)
    del output
    gc.collect()
    assert held() is None


class OwnCheckpointing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(self.inner, x, use_reentrant=False)


def test_a_models_own_checkpointing_is_refused_instead_of_losing_the_edit():
    graph = cr.InterventionGraph(edit=cr.Interchange(cr.Site.at("inner"), cr.Subspace(4, 2), cr.LearnedSource(2, 4)))
    reft = cr.IntervenedModel(OwnCheckpointing(), graph)
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    with pytest.raises(GraphError, match=r"torch.utils.checkpoint"):
        reft(x)
    with torch.no_grad():
        assert reft(x).shape == (3, 4)


# --- accelerate ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["cpu_offload", "disk", "two devices"])
def test_a_model_that_accelerate_moves_about_gives_the_same(way, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    model, inputs = own("llama"), inputs_of("llama")
    graph = cr.InterventionGraph(
        edit=cr.Interchange(cr.Site(1, "mlp_output", "last"), cr.Subspace(16, 3), cr.Collect("source")),
        seen=cr.Collect("base", cr.Site(1)),
    )
    graph.modules.double()
    wanted = cr.IntervenedModel(model_of("llama"), graph)(inputs, source=inputs_of("llama", 4))
    if way == "cpu_offload":
        accelerate.cpu_offload(model, execution_device="cpu")
    else:
        second = "disk" if way == "disk" else "cpu"
        parts = {
            "model.embed_tokens": "cpu",
            "model.layers.0": "cpu",
            "model.layers.1": second,
            "model.norm": "cpu",
            "model.rotary_emb": "cpu",
            "lm_head": second,
        }
        accelerate.dispatch_model(model, parts, main_device="cpu", offload_dir=str(tmp_path), force_hooks=True)
    assert any(hasattr(m, "_hf_hook") for m in model.modules())
    reft = cr.IntervenedModel(model, graph)
    output = reft(inputs, source=inputs_of("llama", 4))
    torch.testing.assert_close(output.logits, wanted.logits, rtol=0, atol=0)
    torch.testing.assert_close(output.collected, wanted.collected, rtol=0, atol=0, equal_nan=True)
    (output.logits.pow(2).mean()).backward()
    found = [p.grad.clone() for p in graph.parameters()]
    torch.testing.assert_close(
        found, gradients(model_of("llama"), graph, inputs, source=inputs_of("llama", 4)), rtol=0, atol=1e-12
    )
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    texts = [
        r.generate(**inputs, source=inputs_of("llama", 4), **options)
        for r in (reft, cr.IntervenedModel(model_of("llama"), graph))
    ]
    assert torch.equal(*texts)


# --- quantisation ----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*quantize.*deprecated.*")
def test_a_dynamically_quantised_model_is_edited_and_trains():
    model = own("llama").float()
    torch.backends.quantized.engine = next(
        e for e in ("x86", "fbgemm", "qnnpack") if e in torch.backends.quantized.supported_engines
    )
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    assert type(quantised.model.layers[0].mlp.down_proj) is not nn.Linear
    # activations are quantised by the range of the whole batch, so no token may stay unpatched
    inputs, source = (inputs_of("llama", seed, lengths=(5, 5)) for seed in (0, 5))
    patched = cr.IntervenedModel(
        quantised, cr.InterventionGraph(edit=cr.Interchange(cr.Site(1), cr.Identity(16), cr.Collect("source")))
    )
    mask = inputs["attention_mask"].bool()
    torch.testing.assert_close(
        patched(inputs, source=source).logits[mask], quantised(**source).logits[mask], rtol=0, atol=1e-5
    )
    collected = cr.IntervenedModel(
        quantised, cr.InterventionGraph(seen=cr.Collect("base", cr.Site(0, "attention_value", head=1)))
    ).collect(inputs)["seen"]
    value = quantised.model.layers[0].self_attn.v_proj(
        quantised.model.layers[0].input_layernorm(quantised.model.embed_tokens(inputs["input_ids"]))
    )
    torch.testing.assert_close(collected[mask], value[..., 4:8][mask])


# --- heads and encoders ----------------------------------------------------------------------------------------------


def classifier(kind: str) -> tuple[nn.Module, dict]:
    config = deepcopy(model_of(kind).config)
    config.num_labels, config.pad_token_id = 3, 0
    auto = (
        transformers.AutoModelForImageClassification
        if FAMILIES[kind].kind == "image"
        else transformers.AutoModelForSequenceClassification
    )
    return randomised(auto.from_config(config)).double().eval(), inputs_of(kind)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert", "roberta", "distilbert", "vit"])
def test_classifiers_train_under_edits(kind):
    model, inputs = classifier(kind)
    model.requires_grad_(False)
    reft = cr.IntervenedModel(model, cr.InterventionGraph(edit=edit(0, positions="first")))
    optimizer, labels, losses = torch.optim.Adam(reft.trainable_parameters(), 3e-2), torch.tensor([0, 1, 2]), []
    for _ in range(15):
        loss = reft(**inputs, labels=labels).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] - 0.05


def test_a_pooled_state_has_no_positions():
    model, inputs = classifier("bert")
    site = cr.Site.at("bert.pooler")
    source = inputs_of("bert", 5)
    reft = cr.IntervenedModel(
        model, cr.InterventionGraph(edit=cr.Interchange(site, cr.Identity(16), cr.Collect("source")))
    )
    torch.testing.assert_close(reft(inputs, source=source).logits, model(**source).logits, rtol=0, atol=0)
    with pytest.raises(PositionError, match="no positions"):
        cr.IntervenedModel(
            model, cr.InterventionGraph(seen=cr.Collect("base", cr.Site.at("bert.pooler", positions="last")))
        ).collect(inputs)


def test_labels_of_a_masked_model_do_not_cut_the_text():
    model = transformers.BertForMaskedLM(model_of("bert").config).double().eval()
    inputs = padded([torch.arange(3, 9)], "right")
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[0, 2] = 7
    reft = cr.IntervenedModel(model, cr.InterventionGraph(seen=cr.Collect("base", cr.Site(0))))
    assert reft(**inputs, labels=labels).collected["seen"].shape == (1, 6, 16)
