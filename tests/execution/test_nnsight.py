"""The nnsight backend gives what the hook backend gives, and reaches what hooks do not."""

from __future__ import annotations

import os
import subprocess
import sys
from copy import deepcopy
from functools import cache

import nnsight
import pytest
import torch
from nnsight import NNsight

import causal_reft as cr
from causal_reft.errors import GraphError, PositionError, RunError, SiteError
from causal_reft.execution.nnsight import operations
from causal_reft.execution.remote import apply, train_in_session
from causal_reft.sites import ARCHITECTURES
from tests.families import FAMILIES, NAN_ON_LEFT_PADDING, inputs_of, model_of, output_of

# BERT has a module called `output`, which nnsight shows under another name and says so.
pytestmark = pytest.mark.filterwarnings("ignore:Module '.*' has a submodule named:UserWarning")


@cache
def wrapped(name: str) -> NNsight:
    """nnsight leaves its controllers on a module, so it gets a copy."""
    return NNsight(deepcopy(model_of(name)))


def components(name: str) -> list[str]:
    row = ARCHITECTURES[model_of(name).config.model_type]
    if row.decoder is None:
        return list(row.components)
    return [f"encoder.{c}" for c in row.components] + [f"decoder.{c}" for c in row.decoder.components]


def site(component: str, positions="all") -> cr.Site:
    return cr.Site(None if component.endswith(("embeddings", "final_norm")) else 1, component, positions)


@cache
def widths(name: str) -> dict[str, int]:
    graph = cr.InterventionGraph(**{f"n{i}": cr.Collect("base", site(c)) for i, c in enumerate(components(name))})
    got = cr.IntervenedModel(model_of(name), graph).collect(inputs_of(name))
    return {c: got[f"n{i}"].shape[-1] for i, c in enumerate(components(name))}


def outcomes(model, graph: cr.InterventionGraph, base: dict, backend: str, **runs) -> list[torch.Tensor]:
    """Logits, collected values, gradients."""
    graph.modules.double().zero_grad()
    output = cr.IntervenedModel(model, graph, backend=backend)(base, **runs)
    logits = output_of(output)
    seen = [torch.nan_to_num(value) for value in output.collected.values()]
    (torch.nan_to_num(logits).pow(2).mean() + sum(value.pow(2).mean() for value in seen)).backward()
    return [torch.nan_to_num(logits), *seen, *(p.grad for p in graph.parameters())]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", FAMILIES)
def test_logits_collected_values_and_gradients_are_those_of_hooks(name, side):
    """Every component has a LoReFT edit, an interchange and a collect of its own."""
    if FAMILIES[name].kind == "image" and side == "left":
        pytest.skip("images are not padded")
    nodes = {}
    for i, component in enumerate(components(name)):
        d = widths(name)[component]
        nodes[f"learned{i}"] = cr.Interchange(
            site(component, "f2"), cr.Subspace(d, 2, seed=i), cr.LearnedSource(2, d, init="random", seed=i)
        )
        nodes[f"swapped{i}"] = cr.Interchange(
            site(component, "last"), cr.Subspace(d, 2, seed=99 - i), cr.Collect("source")
        )
        nodes[f"seen{i}"] = cr.Collect("base", site(component))
    graph, base, source = cr.InterventionGraph(**nodes), inputs_of(name, 0, side=side), inputs_of(name, 1, side=side)
    hooked, traced = model_of(name), wrapped(name)
    if name in NAN_ON_LEFT_PADDING and side == "left":
        hooked, traced = deepcopy(hooked).float(), NNsight(deepcopy(hooked).float())
    wanted = outcomes(hooked, graph, base, "hooks", source=source)
    found = outcomes(traced, graph, base, "nnsight", source=source)
    assert all(torch.isfinite(value).all() for value in wanted)
    assert all(value.abs().max() > 0 for value in wanted)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt", "t5"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 2, "num_return_sequences": 2}, {"do_sample": True}], ids=str)
def test_generation_is_that_of_hooks(name, options):
    stack = "decoder." if name == "t5" else ""
    inputs = {key: value for key, value in inputs_of(name).items() if not key.startswith("decoder")}
    edits = {
        "prompt": cr.Interchange(
            cr.Site(0, f"{'encoder.' if stack else ''}mlp_output", "last"),
            cr.Subspace(16, 2),
            cr.LearnedSource(2, 16, init="random"),
        ),
        "later": cr.Interchange(
            cr.Site(1, f"{stack}block_output", "generated"),
            cr.Identity(16),
            cr.Shift(cr.Constant(torch.linspace(-3, 3, 16))),
        ),
    }
    texts = []
    for model, backend in ((model_of(name), "hooks"), (wrapped(name), "nnsight")):
        torch.manual_seed(0)
        reft = cr.IntervenedModel(model, cr.InterventionGraph(**edits), backend=backend)
        texts.append(reft.generate(**inputs, max_new_tokens=5, pad_token_id=0, **options))
    assert torch.equal(*texts)
    torch.manual_seed(0)
    assert not torch.equal(
        texts[0],
        cr.IntervenedModel(model_of(name), cr.InterventionGraph()).generate(
            **inputs, max_new_tokens=5, pad_token_id=0, **options
        ),
    )


def test_a_collect_stops_at_its_deepest_site():
    reached = []
    model = wrapped("llama")
    handle = model._module.lm_head.register_forward_hook(lambda *_: reached.append(1))
    try:
        reft = cr.IntervenedModel(model, cr.InterventionGraph(seen=cr.Collect("base", cr.Site(0))), backend="nnsight")
        wanted = cr.IntervenedModel(model_of("llama"), reft.graph).collect(inputs_of("llama"))
        torch.testing.assert_close(reft.collect(inputs_of("llama")), wanted, rtol=0, atol=0, equal_nan=True)
    finally:
        handle.remove()
    assert not reached


def test_a_plain_module_and_edits_stored_in_an_nnsight_model():
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    graph = cr.InterventionGraph(
        seen=cr.Collect("base", cr.Site.at("2", "input")),
        edit=cr.Interchange(cr.Site.at("0"), cr.Identity(4), cr.Shift(cr.Constant(1.0))),
    )
    nn_model = NNsight(net)
    reft = cr.IntervenedModel(nn_model, graph, backend="nnsight")
    torch.testing.assert_close(reft(x), net[2](torch.tanh(net[0](x) + 1)), rtol=0, atol=0)
    with nn_model.edit(inplace=True):
        nn_model[1].output = nn_model[1].output * 0
    torch.testing.assert_close(reft(x), net[2](torch.zeros(5, 4, dtype=torch.float64)), rtol=0, atol=0)


# --- values inside a forward -----------------------------------------------------------------------------------------

ATTENTION = "model.layers.1.self_attn"


def test_the_query_after_the_rotary_embedding():
    """Zero it by source, and attention is uniform: every head gives the mean of its values."""
    inputs = inputs_of("llama", lengths=(5, 5))
    after = cr.Site.at(ATTENTION, "source:apply_rotary_pos_emb_0[0]")
    graph = cr.InterventionGraph(
        edit=cr.Interchange(after, cr.Identity(16), cr.Constant(0.0)),
        value=cr.Collect("base", cr.Site(1, "attention_value")),
        out=cr.Collect("base", cr.Site(1, "attention_head_output")),
    )
    got = cr.IntervenedModel(wrapped("llama"), graph, backend="nnsight")(inputs).collected
    value = got["value"].view(2, 5, 2, 4).repeat_interleave(2, 2)
    means = value.cumsum(1) / torch.arange(1, 6).view(1, 5, 1, 1)
    torch.testing.assert_close(got["out"], means.flatten(2), rtol=0, atol=1e-7)


def test_the_rotary_query_of_the_first_token_is_the_projection_itself():
    inputs = inputs_of("llama", lengths=(6, 3))
    graph = cr.InterventionGraph(
        after=cr.Collect("base", cr.Site.at(ATTENTION, "source:apply_rotary_pos_emb_0[0]")),
        before=cr.Collect("base", cr.Site(1, "attention_query")),
    )
    got = cr.IntervenedModel(wrapped("llama"), graph, backend="nnsight").collect(inputs)
    torch.testing.assert_close(got["after"][:, 0], got["before"][:, 0], rtol=0, atol=0)
    assert (got["after"][0, 1] - got["before"][0, 1]).abs().max() > 1e-3


def test_the_attention_pattern_inside_the_attention_function():
    model = deepcopy(model_of("llama"))
    model.set_attn_implementation("eager")
    inputs = inputs_of("llama", lengths=(5, 5))
    pattern = cr.Site.at(ATTENTION, "source:attention_interface_1[1]", positions="last")
    got = cr.IntervenedModel(model, cr.InterventionGraph(p=cr.Collect("base", pattern)), backend="nnsight").collect(
        inputs
    )["p"]
    wanted = model(**inputs, output_attentions=True).attentions[1][:, :, -1].flatten(1)
    torch.testing.assert_close(got[:, 0], wanted, rtol=0, atol=0)
    inner = cr.Site.at(ATTENTION, "source:attention_interface_1.torch_matmul_0", positions="last")
    scores = cr.IntervenedModel(model, cr.InterventionGraph(p=cr.Collect("base", inner)), backend="nnsight").collect(
        inputs
    )["p"]
    torch.testing.assert_close((scores.view(2, 4, 5) / 2).softmax(-1).flatten(1), wanted, rtol=0, atol=1e-6)


def test_what_a_forward_offers_is_listed_and_anything_else_refused():
    assert "apply_rotary_pos_emb_0" in operations(wrapped("llama"), ATTENTION)
    with pytest.raises(SiteError, match="Did you mean 'apply_rotary_pos_emb_0'"):
        cr.IntervenedModel(
            wrapped("llama"),
            cr.InterventionGraph(p=cr.Collect("base", cr.Site.at(ATTENTION, "source:apply_rotary_emb_0"))),
            backend="nnsight",
        )
    with pytest.raises(SiteError, match=r"port='source:apply rotary' is not readable.*'source:operation_0\[1\]'"):
        cr.IntervenedModel(
            wrapped("llama"),
            cr.InterventionGraph(p=cr.Collect("base", cr.Site.at(ATTENTION, "source:apply rotary"))),
            backend="nnsight",
        )
    with pytest.raises(SiteError, match="no module"):
        operations(wrapped("llama"), "model.nowhere")
    with pytest.raises(SiteError, match="backend='nnsight'"):
        cr.IntervenedModel(
            model_of("llama"),
            cr.InterventionGraph(p=cr.Collect("base", cr.Site.at(ATTENTION, "source:apply_rotary_pos_emb_0"))),
        )
    ambiguous = cr.InterventionGraph(p=cr.Collect("base", cr.Site.at(ATTENTION, "source:apply_rotary_pos_emb_0[0]")))
    with pytest.raises(PositionError, match="two axes"):
        cr.IntervenedModel(wrapped("llama"), ambiguous, backend="nnsight").collect(inputs_of("llama", lengths=(4, 4)))


# --- refusals --------------------------------------------------------------------------------------------------------


def test_checkpointed_layers_are_refused_with_the_reason():
    model = deepcopy(model_of("llama")).train()
    for module in model.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = True
            module._gradient_checkpointing_func = torch.utils.checkpoint.checkpoint
    reft = cr.IntervenedModel(
        model,
        cr.InterventionGraph(edit=cr.Interchange(cr.Site(1, "mlp_output"), cr.Identity(16), cr.Constant(0.0))),
        backend="nnsight",
    )
    with pytest.raises(GraphError, match=r"recomput.*backend='hooks'"):
        reft(inputs_of("llama"))


def test_a_model_that_accelerate_moves_about_is_refused():
    accelerate = pytest.importorskip("accelerate")
    model = accelerate.cpu_offload(deepcopy(model_of("llama")), execution_device="cpu")
    with pytest.raises(GraphError, match=r"accelerate moves.*backend='hooks'"):
        cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2), backend="nnsight")(inputs_of("llama"))


def test_remote_needs_a_model_that_a_server_can_load():
    graph = cr.InterventionGraph(seen=cr.Collect("base", cr.Site(0)))
    with pytest.raises(RunError, match="TransformersModel"):
        cr.IntervenedModel(model_of("llama"), graph, backend="nnsight", remote=True)
    with pytest.raises(GraphError, match="backend='nnsight'"):
        cr.IntervenedModel(model_of("llama"), graph, remote=True)
    with pytest.raises(GraphError, match="backend='nnsight'"):
        cr.IntervenedModel(wrapped("llama"), graph)
    with pytest.raises(GraphError, match="Did you mean 'nnsight'"):
        cr.IntervenedModel(model_of("llama"), graph, backend="nnsigt")


# --- behind nnsight: a rehearsal of a server, and a user's own trace -------------------------------------------------

REHEARSAL = """
import sys, torch
import causal_reft as cr
from causal_reft.execution.remote import train_in_session
from nnsight import TransformersModel

torch.set_num_threads(1)
model = TransformersModel(sys.argv[1], task="text-generation", dispatch=True)
model._module.double()
tokens = model.tokenizer(["Once upon a time", "Lily"], return_tensors="pt", padding=True)
other = model.tokenizer(["The big dog was", "Tom"], return_tensors="pt", padding=True)
site, results = cr.Site(2, positions="last"), {}
swap = cr.Interchange(site, cr.Subspace(64, 4), cr.Collect("source"))
seen = cr.InterventionGraph(seen=cr.Collect("base", cr.Site(1)), edit=swap)

def loreft():
    return cr.InterventionGraph(edit=cr.Interchange(site, cr.Subspace(64, 4), cr.LearnedSource(4, 64)))

def steps():
    scored = tokens["attention_mask"].cumsum(1) > 1
    return [{"base": {**tokens, "labels": torch.where(scored, tokens["input_ids"] + i, -100)}} for i in range(5)]

ways = {"here": {}, "nnsight": {"backend": "nnsight"}, "remote": {"backend": "nnsight", "remote": "local"}}
for where, options in ways.items():
    base = model if options else model._module
    collect = cr.IntervenedModel(base, cr.InterventionGraph(seen=seen["seen"]), **options).collect(tokens)["seen"]
    output = cr.IntervenedModel(base, seen, **options)(tokens, source=other)
    trained, losses = cr.IntervenedModel(base, loreft(), **options), []
    if options:
        losses = train_in_session(trained, steps(), learning_rate=1e-2)
    else:
        optimizer = torch.optim.Adam(trained.trainable_parameters(), 1e-2)
        for batch in steps():
            loss = trained(batch["base"]).loss
            optimizer.zero_grad(); loss.backward(); optimizer.step()
            losses.append(loss.item())
    texts = cr.IntervenedModel(base, trained.graph, **options).generate(**tokens, max_new_tokens=5, do_sample=False)
    numbers = torch.tensor(losses)
    results[where] = [collect, output.logits, output.collected["seen"], numbers, *trained.graph.parameters(), texts]
for where in ("nnsight", "remote"):
    torch.testing.assert_close(results[where], results["here"], rtol=0, atol=1e-12, equal_nan=True)
assert results["here"][3][-1] != results["here"][3][0]
print("equal")
"""


def test_a_rehearsal_of_a_server_collects_interchanges_trains_and_generates_as_here(shared, repository, tmp_path):
    """In a process of its own: what is sent is source code, so the run-time type checker must not stand around it."""
    script = tmp_path / "rehearsal.py"
    script.write_text(REHEARSAL)
    folder = shared / "models" / "stories260K-llama"
    done = subprocess.run(
        [sys.executable, str(script), str(folder)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(repository)},
    )
    assert done.stdout.strip().endswith("equal"), done.stderr[-3000:]


def test_a_graph_inside_a_users_own_trace():
    model, base, source = wrapped("llama"), inputs_of("llama", 0), inputs_of("llama", 1)
    graph = cr.InterventionGraph(
        late=cr.Interchange(cr.Site(1, positions="last"), cr.Subspace(16, 2), cr.Collect("source")),
        seen=cr.Collect("base", cr.Site(0, "attention_value")),
        early=cr.Interchange(cr.Site(0, "mlp_output", "f2"), cr.Identity(16), cr.Constant(1.0)),
    )
    wanted = cr.IntervenedModel(model_of("llama"), graph)(base, source=source)
    with model.trace(**source):
        states = nnsight.save(apply(graph, model, source, run="source").states)
    with model.trace(**base):
        seen = nnsight.save(apply(graph, model, base, states=states).collected)
        logits = nnsight.save(model.output.logits)
    torch.testing.assert_close(logits, wanted.logits, rtol=0, atol=0)
    torch.testing.assert_close(seen, wanted.collected, rtol=0, atol=0, equal_nan=True)


BOTH = """
import sys, torch
import causal_reft as cr

net, graph = torch.nn.Sequential(torch.nn.Linear(3, 3)), cr.patch(cr.Site.at("0"), 3)
cr.IntervenedModel(net, graph)
assert "nnsight" not in sys.modules, "who uses hooks waits for no other library"
{first}
cr.IntervenedModel(net, graph, backend="nnsight")
import beartype
print("both")
"""


@pytest.mark.parametrize("first", ["", "import causal_reft.execution.remote"])
def test_beartype_is_imported_after_this_library_has_brought_nnsight(first, repository):
    command = [sys.executable, "-c", BOTH.format(first=first)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=repository)
    assert done.stdout.strip() == "both", done.stderr[-2000:]


@pytest.mark.parametrize("module", ["nnsight", "remote"])
def test_whoever_has_imported_nnsight_already_is_served_too(module, repository):
    command = [sys.executable, "-c", f"import nnsight, causal_reft.execution.{module}; print('both')"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=repository)
    assert done.stdout.strip() == "both", done.stderr[-2000:]


def test_training_in_a_session_needs_nnsight():
    with pytest.raises(GraphError, match="backend='hooks'"):
        train_in_session(cr.IntervenedModel(model_of("llama"), cr.InterventionGraph()), [])
