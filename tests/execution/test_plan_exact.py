"""The plan gives the logits and the gradients of full passes: every decoder family, padding, layer, position and
component.

Float64 models with float64 masters; the bound is 1e-12 relative. The reference is `FullPasses`: every run in full
under hooks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

import causal_reft as cr
from causal_reft.execution import Examples, FullPasses, IntervenedModel, TargetLogits, plan, plan_all
from causal_reft.execution.planning.joint_passes import JointPasses
from causal_reft.featurizers import computed_once
from tests.families import DECODERS, VOCABULARY, inputs_of, model_of

LAYERS, POSITIONS = (0, 1, 2), ("last", -3, "f2+l1")
COMPONENTS = ("block_output", "attention_output", "mlp_output", "attention_head_output")
LENGTHS = (7, 5, 6, 7)
LONGER = (15, 12, 13, 15)  # eight and more tokens that no edit touches
BOUND = 1e-12
IN_FLOAT32 = {"gptj": 1e-7}  # queries times keys, whatever the model's dtype: rounded by the shape of the batch
NAN_BEHIND_LEFT_PADDING = ("bloom", "gemma2")  # their eager attention, by itself


@cache
def three_blocks(name: str) -> torch.nn.Module:
    """The family's tiny model with three blocks."""
    config = model_of(name).config
    settings = {
        key: value
        for key, value in config.to_dict().items()
        if key not in ("layer_types", "num_hidden_layers", "n_layer")
    }
    deeper = type(config)(**settings, num_hidden_layers=3)
    torch.manual_seed(2)
    model = transformers.AutoModelForCausalLM.from_config(deeper, experts_implementation="eager").double().eval()
    for key, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, float(parameter.ndim == 1 and not key.endswith("bias")), 0.3)
    return model.requires_grad_(False)


def examples(name: str, padding: str, texts: tuple[int, ...] = LENGTHS, **more: object) -> Examples:
    """Four rows of base and source, one class each. Mixed: rows without padding, padded on the left, padded on the
    right."""
    if padding == "mixed" and name in NAN_BEHIND_LEFT_PADDING:
        padding = "right"
    lengths = texts if padding != "no" else (texts[0],) * 4
    runs = {}
    for seed, run in enumerate(("base", "source", "other")):
        inputs = inputs_of(name, seed, lengths, "left" if padding == "left" else "right")
        if padding == "mixed":
            inputs = {key: torch.stack([value[0], value[1].roll(2), *value[2:]]) for key, value in inputs.items()}
        runs[run] = {**inputs, **more}
    return Examples(runs, torch.tensor([3, 1, 2, 7]))


def double(graph: cr.InterventionGraph) -> cr.InterventionGraph:
    graph.modules.double()
    return graph


def widths(name: str) -> dict[str, int]:
    """Width of some components in a family's model."""
    config = model_of(name).config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    whole = dict.fromkeys((*COMPONENTS, "block_input", "attention_input"), config.hidden_size)
    return whole | dict.fromkeys(("attention_head_output", "attention_query"), head * config.num_attention_heads)


def gradients(models: Sequence[IntervenedModel], losses: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The gradient of each model's own loss; the models share no parameters."""
    parameters = [list(model.trainable_parameters()) for model in models]
    found = iter(
        torch.autograd.grad(sum(losses, torch.zeros(())), [p for own in parameters for p in own], retain_graph=True)
    )
    return [torch.cat([next(found).flatten() for _ in own]) for own in parameters]


def assert_equal(
    models: Sequence[IntervenedModel],
    data: Examples,
    fast: Sequence[TargetLogits],
    rows: torch.Tensor,
    bound: float = BOUND,
) -> None:
    """Loss and gradient of every model within the bound of full passes."""
    full = [FullPasses(model, data).scored(rows) for model in models]
    mine, theirs = ([torch.nn.functional.cross_entropy(s.logits, s.targets) for s in scored] for scored in (fast, full))
    for a, b in zip(fast, full, strict=True):
        assert torch.equal(a.targets, b.targets)
        assert torch.equal(a.reads.rows, b.reads.rows)
    for a, b in zip(mine, theirs, strict=True):
        assert abs(float((a - b).detach())) <= bound * float(b.detach())
    for model, a, b in zip(models, gradients(models, mine), gradients(models, theirs), strict=True):
        assert float((a - b).norm()) <= bound * max(float(b.norm()), 1e-3), model.graph


@pytest.mark.parametrize("name", DECODERS)
def test_every_family(name: str) -> None:
    """Every pair of component and layer, component and position, layer and position."""
    base, width = three_blocks(name), widths(name)
    models = [
        IntervenedModel(
            base, double(cr.das(cr.Site(layer, component, positions=where), width[component], 3, seed=layer))
        )
        for number, component in enumerate(COMPONENTS)
        for layer in LAYERS
        for where in [POSITIONS[(number + layer) % len(POSITIONS)]]
    ]
    together(models, examples(name, "mixed"))
    for padding in ("no", "left"):
        if padding == "no" or name not in NAN_BEHIND_LEFT_PADDING:
            together(models[::4], examples(name, padding))


@pytest.mark.parametrize("name", DECODERS)
def test_untouched_tokens_keep_their_queries_keys_and_values(name: str) -> None:
    """Of the first block that runs: edits at three tokens of up to fifteen, every layer and component."""
    base, width = three_blocks(name), widths(name)
    models = [
        IntervenedModel(base, double(cr.das(cr.Site(layer, component, positions="f2+l1"), width[component], 3)))
        for component in width
        for layer in LAYERS
    ]
    halves = {"mixed": models} if name in NAN_BEHIND_LEFT_PADDING else {"mixed": models[::2], "left": models[1::2]}
    for padding, some in halves.items():
        data, rows = examples(name, padding, LONGER), torch.tensor([2, 0, 1])
        with plan_all(some, data, check=False) as joint, computed_once():
            assert_equal(some, data, joint.scored(rows), rows, IN_FLOAT32.get(name, BOUND))
            blocks = {block for block, _, path in joint.chosen.joint_passes.to_record.entries if path}
        assert blocks >= {0, 1}  # for edits inside block 0 and at its output
        assert blocks <= {0, 1, 2}


def together(models: Sequence[IntervenedModel], data: Examples) -> None:
    """All graphs in one joint plan, every position a staircase of its own."""
    rows = torch.tensor([2, 0, 1])
    with plan_all(models, data, check=False) as joint, computed_once():
        assert_equal(models, data, joint.scored(rows), rows)
        chosen = joint.chosen
    assert not chosen.refused
    assert chosen.joint_passes is not None
    assert chosen.joint_passes.uses_prefix
    assert len(chosen.joint_passes.groups) == min(len(models), len(POSITIONS))


def check_alone(base: torch.nn.Module, graph: cr.InterventionGraph, data: Examples, **options: object):
    """One graph through a plan of its own, kept open and not; what was chosen comes back."""
    model, some = IntervenedModel(base, double(graph)).train(), (torch.tensor([3, 1]), torch.arange(4))
    with plan(model, data, **options) as passes:
        for rows in some:
            assert_equal([model], data, [passes.scored(rows)], rows)
        chosen = passes.joint.chosen
    assert_equal([model], data, [passes.scored(some[0])], some[0])
    return chosen


KINDS = {
    "two sites": lambda d: cr.das([cr.Site(0, positions=-3), cr.Site(2, "mlp_output", positions="last")], d, 3),
    "two sources": lambda d: cr.InterventionGraph(
        left=cr.Interchange(cr.Site(1, positions=-2), cr.Subspace(d, 3), cr.Collect("source")),
        right=cr.Interchange(cr.Site(1, positions="last"), cr.Subspace(d, 2, seed=1), cr.Collect("other")),
    ),
    "another site's state": lambda d: cr.InterventionGraph(
        edit=cr.Interchange(
            cr.Site(2, positions="last"), cr.Subspace(d, 3), cr.Collect("source", cr.Site(0, positions=1))
        )
    ),
    "path patching": lambda d: cr.InterventionGraph(
        first=cr.Interchange(cr.Site(0, positions=-2), cr.Identity(d), cr.Collect("source"), run="other"),
        second=cr.Interchange(cr.Site(1, positions="last"), cr.Subspace(d, 3), cr.Collect("other")),
    ),
    "reads its own run": lambda d: cr.InterventionGraph(
        edit=cr.Interchange(
            cr.Site(2, positions="last"), cr.Subspace(d, 3),
            cr.LearnedSource(3, d, reads=cr.Collect("base", cr.Site(1, positions="first")), init="random"),
        )
    ),
    "boundless": lambda d: cr.boundless_das(cr.Site(1, positions="last"), d),
    "mask of neurons": lambda d: cr.dbm(cr.Site(1, "mlp_output", positions=-2), cr.Identity(d)),
    "loreft": lambda d: cr.loreft(cr.site_grid([0, 1, 2], ["f2+l2"]), d, 3, init="random"),
    "loreft, suffix": lambda d: cr.loreft(cr.site_grid([0, 1, 2], ["l2"]), d, 3, init="random"),
    "direft": lambda d: cr.direft(cr.site_grid([1, 2], ["last"]), d, 3, init="random"),
    "embeddings": lambda d: cr.das(cr.Site(component="embeddings", positions=-2), d, 3),
    "block input": lambda d: cr.das(cr.Site(2, "block_input", positions=-2), d, 3),
    "final norm": lambda d: cr.das(cr.Site(component="final_norm", positions="last"), d, 3),
    "one head": lambda d: cr.das(cr.Site(1, "attention_head_output", positions="last", head=1), d // 4, 2),
    "a key": lambda d: cr.das(cr.Site(1, "attention_key", positions=-3), d, 3),
    "a module by its path": lambda d: cr.das(cr.Site.at("transformer.h.1.mlp", positions="last"), d, 3),
}  # fmt: skip


@pytest.mark.parametrize("padding", ["no", "left", "right"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_graph(kind: str, padding: str) -> None:
    chosen = check_alone(three_blocks("gpt2"), KINDS[kind](16), examples("gpt2", padding))
    assert not chosen.refused


@pytest.mark.parametrize("name", ["gpt2", "mistral"])
@pytest.mark.parametrize("padding", ["no", "left", "right"])
def test_spans_differ_by_row(name: str, padding: str) -> None:
    data = examples(name, padding, spans={"subject": [[1, 2], [0], [2, 3, 4], [3]]})
    graph = cr.das([cr.Site(1, positions="subject"), cr.Site(0, "attention_output", positions="subject")], 16, 3)
    chosen = check_alone(three_blocks(name), graph, data)
    assert chosen.graphs[0].windows.prefix.tolist() == [1, 0, 2, 3]


@pytest.mark.parametrize("padding", ["no", "left", "right"])
def test_several_answer_tokens(padding: str) -> None:
    """Token labels after a prompt: reads at several columns, edits of prompt tokens only."""
    data = examples("qwen2", padding)
    mask = data.runs["base"]["attention_mask"]
    real = mask.cumsum(1) * mask
    labels = torch.where(real > 4, data.runs["base"]["input_ids"], -100)
    runs = {run: {**inputs, "prompt_lengths": [4, 4, 4, 4]} for run, inputs in data.runs.items()}
    check_alone(
        three_blocks("qwen2"), cr.loreft(cr.site_grid([0, 1], ["f1+l1"]), 16, 3, init="random"), Examples(runs, labels)
    )
    check_alone(three_blocks("qwen2"), cr.das(cr.Site(1, positions="last"), 16, 3), Examples(runs, labels))


def test_rows_where_an_edit_is_off() -> None:
    data = examples("llama", "left", active={"edit": [True, False, True, True]})
    check_alone(three_blocks("llama"), cr.loreft(cr.Site(1, positions=-2), 16, 3, init="random"), data)


@pytest.mark.parametrize("memory", [0, 1000, 1 << 30])
def test_a_budget_changes_no_number(memory: int) -> None:
    chosen = check_alone(
        three_blocks("gemma3"), cr.das(cr.Site(1, positions="last"), 16, 3), examples("gemma3", "left"), memory=memory
    )
    assert chosen.joint_passes.rebuilds == (memory < 1 << 30)
    assert chosen.joint_passes.bytes <= memory


def test_what_saves_little_is_given_up_before_all_is_recorded_again() -> None:
    base, data = three_blocks("llama"), examples("llama", "right", LONGER)
    graph = cr.das(cr.Site(0, positions="f2+l1"), 16, 3)
    roomy = check_alone(base, graph, data).joint_passes
    tight = check_alone(base, graph, data, memory=roomy.bytes - 1).joint_passes
    assert {path for *_, path in roomy.to_record.entries} > {""} == {path for *_, path in tight.to_record.entries}
    assert 0 < tight.bytes < roomy.bytes
    assert not tight.rebuilds
    assert flops(roomy) < flops(tight)


def test_what_does_not_fit_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing could be given up, the first rows are not recorded a second time before the batch's own."""
    calls, own = [], JointPasses._record
    monkeypatch.setattr(JointPasses, "_record", lambda self, rows: calls.append(len(rows)) or own(self, rows))
    model = IntervenedModel(three_blocks("llama"), double(cr.das(cr.Site(1, positions="last"), 16, 3)))
    with plan(model, examples("llama", "right"), check=False, memory=0) as passes:
        passes.scored(torch.arange(2))
    assert calls == [4, 2]


def flops(passes: JointPasses) -> int:
    """Of one forward of all rows, recorded before."""
    with FlopCounterMode(display=False) as counter:
        list(passes.parts(torch.arange(4), [True]))
    return counter.get_total_flops()


def test_the_vocabulary_is_the_models() -> None:
    passes = plan(
        IntervenedModel(three_blocks("opt"), double(cr.das(cr.Site(1, positions="last"), 16, 3))), examples("opt", "no")
    )
    assert passes.scored(torch.arange(2)).logits.shape == (2, VOCABULARY)
