"""NaN, infinity, labels and settings that are no numbers or no classes stop with a reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import causal_reft as cr
from causal_reft.errors import CausalReftError, DataError, RunError
from causal_reft.execution import Examples, FullPasses, IntervenedModel, plan
from tests.models import ARCHITECTURES, D_MODEL, ToyMLP, gpt2, prompts

BATCH = prompts([5, 4, 3], "right")
CLASSES = torch.tensor([4, 5, 6])


def learning(model: nn.Module) -> IntervenedModel:
    source = cr.LearnedSource(2, D_MODEL, init="random")
    edit = cr.Interchange(cr.Site(1, positions="last"), cr.Subspace(D_MODEL, 2), source)
    return IntervenedModel(model, cr.InterventionGraph(edit=edit))


@pytest.mark.parametrize("passes", [FullPasses, plan])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_logits_that_are_no_numbers_do_not_count_as_class_0(family: str, value: float, passes: Any) -> None:
    model = ARCHITECTURES[family]().requires_grad_(False)
    head = model.get_output_embeddings()
    handle = head.register_forward_hook(lambda m, a, out: out.index_fill(out.ndim - 1, torch.tensor([3]), value))
    with pytest.raises(RunError, match=r"logits of row 0 of the batch, column .* hold NaN or infinity"):
        passes(learning(model), Examples({"base": BATCH}, CLASSES)).scored(torch.arange(3))
    handle.remove()


def test_classes_that_a_model_suppresses_may_be_minus_infinity() -> None:
    model = gpt2().requires_grad_(False)
    handle = model.lm_head.register_forward_hook(
        lambda m, a, out: out.index_fill(out.ndim - 1, torch.tensor([3]), -float("inf"))
    )
    scored = FullPasses(learning(model), Examples({"base": BATCH}, CLASSES)).scored(torch.arange(3))
    with pytest.raises(RunError, match=r"The loss of step 0 is inf"):
        cr.fit(learning(model), Examples({"base": BATCH}, torch.tensor([4, 3, 6])), passes=FullPasses, progress=False)
    handle.remove()
    assert scored.logits[:, 3].isneginf().all()


def test_collected_states_that_are_no_numbers_name_the_site_the_run_and_the_row() -> None:
    graph = cr.InterventionGraph(seen=cr.Collect("source", cr.Site.at("first")), edit=cr.Interchange(
        cr.Site.at("first"), cr.Identity(8), cr.Collect("source")))  # fmt: skip
    source = torch.zeros(3, 6).double()
    source[1, 2] = float("nan")
    with pytest.raises(RunError, match=r"'seen'.*'first'.*run 'source' holds NaN or infinity in row 1"):
        IntervenedModel(ToyMLP(), graph)(torch.zeros(3, 6).double(), source=source)


BAD_LABELS = {
    "floats for tokens": (torch.ones(3, 5), "torch.float32.*labels.long"),
    "booleans": (torch.tensor([True, False, True]), "torch.bool"),
    "negative": (torch.tensor([1, -3, 2]), "Label -3 is no class"),
    "ignored rows": (torch.tensor([1, -100, 2]), "Label -100 is no class"),
    "negative tokens": (torch.full((3, 5), -7), "Label -7 is no class.*-100 marks"),
}


@pytest.mark.parametrize("name", BAD_LABELS)
def test_labels_that_are_no_classes_are_refused(name: str) -> None:
    labels, said = BAD_LABELS[name]
    with pytest.raises(DataError, match=f"(?s){said}"):
        Examples({"base": BATCH}, labels)


@pytest.mark.parametrize("passes", [FullPasses, plan])
def test_a_label_beyond_the_vocabulary_is_refused(passes: Any) -> None:
    model = gpt2().requires_grad_(False)
    with pytest.raises(DataError, match=r"Label 23 is no class: the model has classes 0 to 22"):
        passes(learning(model), Examples({"base": BATCH}, torch.tensor([4, 23, 6]))).scored(torch.arange(3))


@pytest.mark.parametrize("key", ["logits_to_keep", "return_dict"])
def test_arguments_that_move_the_logits_are_refused_in_examples(key: str) -> None:
    with pytest.raises(DataError, match=f"takes no '{key}'"):
        Examples({"base": {**BATCH, key: 1}}, CLASSES)


@pytest.mark.parametrize("passes", [FullPasses, plan])
def test_a_misspelt_run_of_examples_is_named(passes: Any) -> None:
    graph = cr.patch(cr.Site(1, positions="last"), D_MODEL)
    with pytest.raises(DataError, match=r"needs run 'source', and the examples lack it. Did you mean 'sorce'"):
        passes(IntervenedModel(gpt2(), graph), Examples({"base": BATCH, "sorce": BATCH}, CLASSES))


def test_one_row_of_position_ids_in_examples_is_refused_by_the_plan_too() -> None:
    base = {**BATCH, "position_ids": torch.arange(5)[None]}
    with pytest.raises(CausalReftError, match=r"position_ids"):
        plan(learning(gpt2().requires_grad_(False)), Examples({"base": base}, CLASSES)).scored(torch.arange(3))


BAD_SETTINGS = {
    "batch_size": 0, "accumulate": 0, "epochs": 0, "lr": float("nan"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_settings_that_are_no_numbers_are_refused(name: str) -> None:
    with pytest.raises(DataError, match=name):
        cr.fit(learning(gpt2()), Examples({"base": BATCH}, CLASSES), progress=False, **{name: BAD_SETTINGS[name]})


@pytest.mark.parametrize("lr", [-1e-3, float("inf"), {"featurizer": 1e-3, "source": -1.0}], ids=str)
def test_negative_and_infinite_learning_rates_are_refused(lr: Any) -> None:
    with pytest.raises(DataError, match=r"must be finite and not negative"):
        cr.fit(learning(gpt2()), Examples({"base": BATCH}, CLASSES), progress=False, lr=lr)


def test_what_is_printed_of_the_base_model_is_true(capsys: pytest.CaptureFixture[str]) -> None:
    model = gpt2()
    count = sum(p.numel() for p in model.parameters())
    learning(model).print_trainable_parameters()
    assert f"{count:,} of them ask for gradients" in capsys.readouterr().out
    learning(model.requires_grad_(False)).print_trainable_parameters()
    assert f"{count:,} (frozen)" in capsys.readouterr().out


def test_eval_switches_the_base_models_dropout_off_too() -> None:
    model = gpt2().train()
    reft = learning(model).train()
    assert model.training, "train() leaves the base model as its owner set it"
    reft.eval()
    assert not any(module.training for module in reft.modules())
