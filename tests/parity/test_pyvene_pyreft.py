"""Parity in fp32 with pyvene 0.1.8 and pyreft 0.0.7 where they are correct: each intervention on the same tensors and
weights, and whole calls on tiny models, one position for each row.

Where they are known to be wrong (dropout on the stream, PCA without complement, negative positions, padding), our own
formula is the reference; those are the stories of `tests/execution/test_stories.py`.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import causal_reft as cr
from tests.models import ARCHITECTURES, prompts
from tests.models import D_MODEL as D

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # their imports warn about matplotlib, pyparsing and transformers 4
    pv = pytest.importorskip("pyvene", reason="the parity extra is not installed")
    pyreft = pytest.importorskip("pyreft", reason="the parity extra is not installed")

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::UserWarning:pyvene")]

RANK = 3


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rotation_of(theirs: nn.Module) -> Tensor:
    """Their rotation as rows (rank, d_model); theirs is (d_model, rank)."""
    return theirs.rotate_layer.weight.detach().T


def swapped(F: cr.Featurizer) -> Any:
    return lambda h, s: F.write(h, F.read(s))


def das() -> tuple[nn.Module, Any]:
    theirs = pv.LowRankRotatedSpaceIntervention(embed_dim=D, low_rank_dimension=RANK)
    return theirs, swapped(cr.Subspace.from_rows(rotation_of(theirs)))


def partial_rotation() -> tuple[nn.Module, Any]:
    """The first coordinates of a full rotation."""
    theirs = pv.RotatedSpaceIntervention(embed_dim=D)
    theirs.set_interchange_dim(5)
    return theirs, swapped(cr.Subspace.from_rows(rotation_of(theirs)).split(mine=5, rest=D - 5)["mine"])


def boundless(temperature: float = 2.0) -> tuple[nn.Module, Any]:
    """pyvene's mask has a second factor, sigmoid(i / T), for a left boundary at 0; ours is the right boundary alone."""
    theirs = pv.BoundlessRotatedSpaceIntervention(embed_dim=D)
    theirs.set_temperature(torch.tensor(temperature))
    theirs.set_intervention_boundaries(0.4)
    ours = cr.Mask(cr.Subspace.from_rows(rotation_of(theirs)), temperature=temperature)
    ours.logits.data.fill_(0.4)
    left = torch.sigmoid(torch.arange(D) / temperature)

    def with_the_left_factor(h: Tensor, s: Tensor) -> Tensor:
        zh, zs = ours.read(h), ours.read(s)
        return ours.write(h, zh + left * (zs - zh))

    return theirs, with_the_left_factor


def dbm() -> tuple[nn.Module, Any]:
    theirs = pv.SigmoidMaskIntervention(embed_dim=D)
    theirs.mask.data.copy_(randn(D, seed=1))
    theirs.temperature.data.fill_(0.5)
    theirs.temperature.requires_grad_(False)
    ours = cr.Mask(cr.Identity(D), temperature=0.5)
    ours.logits.data.copy_(theirs.mask)
    return theirs, swapped(ours)


def rotated_mask() -> tuple[nn.Module, Any]:
    theirs = pv.SigmoidMaskRotatedSpaceIntervention(embed_dim=D)
    theirs.masks.data.copy_(randn(D, seed=1))
    theirs.set_temperature(torch.tensor(0.5))
    ours = cr.Mask(cr.Subspace.from_rows(rotation_of(theirs)), "coordinates", temperature=0.5)
    ours.logits.data.copy_(theirs.masks)
    return theirs, swapped(ours)


def vanilla() -> tuple[nn.Module, Any]:
    return pv.VanillaIntervention(embed_dim=D), swapped(cr.Identity(D))


def zero() -> tuple[nn.Module, Any]:
    return pv.ZeroIntervention(embed_dim=D), lambda h, s: cr.Identity(D).write(h, torch.zeros_like(h))


def addition() -> tuple[nn.Module, Any]:
    F = cr.Identity(D)
    return pv.AdditionIntervention(embed_dim=D), lambda h, s: F.write(h, F.read(h) + s)


INTERCHANGES = {f.__name__: f for f in (das, partial_rotation, boundless, dbm, rotated_mask, vanilla, zero, addition)}


@pytest.mark.parametrize("kind", INTERCHANGES)
def test_pyvenes_interventions_on_the_same_states(kind: str) -> None:
    theirs, ours = INTERCHANGES[kind]()
    for seed in range(3):
        h, s = randn(4, D, seed=10 + seed), randn(4, D, seed=20 + seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # DBM copies its temperature with torch.tensor(tensor)
            expected = theirs(h.clone(), s.clone())
        assert (expected - h).abs().max() > 1e-2
        torch.testing.assert_close(ours(h, s), expected, rtol=0, atol=1e-6 * float(expected.detach().abs().max() + 1))


def learned_from(theirs: nn.Module, activation: str | None = None) -> cr.LearnedSource:
    """Our source with their weights."""
    linear = theirs.learned_source
    ours = cr.LearnedSource(RANK, D, reads_input=isinstance(linear, nn.Linear), activation=activation, init="random")
    if isinstance(linear, nn.Linear):
        ours.weight.data.copy_(linear.weight)
    ours.bias.data.copy_(linear.bias if isinstance(linear, nn.Linear) else linear)
    return ours


def projection_of(theirs: nn.Module) -> cr.Projection:
    ours = cr.Projection(D, RANK)
    ours.weight.data.copy_(theirs.proj_layer.weight)
    return ours


REFT: dict[str, tuple[str, bool, bool, str | None]] = {
    # name -> their class, unconstrained rows, adds to what is there, activation
    "LoReFT": ("LoreftIntervention", False, False, None),
    "LoReFT with an activation": ("LoreftIntervention", False, False, "relu"),
    "ConsReFT": ("ConsreftIntervention", False, False, None),
    "LobiReFT": ("LobireftIntervention", False, True, None),
    "DiReFT": ("DireftIntervention", False, True, None),
    "NoReFT": ("NoreftIntervention", True, False, None),
    "NodiReFT": ("NodireftIntervention", True, True, None),
}


def reft_pair(name: str) -> tuple[nn.Module, cr.Featurizer, Any]:
    kind, free, adds, activation = REFT[name]
    theirs = getattr(pyreft, kind)(
        embed_dim=D, low_rank_dimension=RANK, dtype=torch.float32, add_bias=False, act_fn=activation, dropout=0.0
    )
    F = projection_of(theirs) if free else cr.Subspace.from_rows(rotation_of(theirs))
    learned = learned_from(theirs, activation)
    return theirs, F, cr.Shift(learned) if adds else learned


@pytest.mark.parametrize("name", REFT)
def test_pyrefts_interventions_inside_our_graph(name: str) -> None:
    """Their module called on the hidden states under a raw hook, ours as a graph on the same model."""
    theirs, F, source = reft_pair(name)
    model, batch = ARCHITECTURES["gpt2"](dtype=torch.float32), prompts([6, 6], "none")
    graph = cr.InterventionGraph(edit=cr.Interchange(cr.Site(1, positions=[1, -1]), F, source))
    ours = cr.IntervenedModel(model, graph)(batch).logits

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        hidden = (output if isinstance(output, Tensor) else output[0]).clone()
        hidden[:, [1, 5]] = theirs(hidden[:, [1, 5]])
        return hidden if isinstance(output, Tensor) else (hidden, *output[1:])

    handle = model.transformer.h[1].register_forward_hook(hook)
    expected = model(**batch).logits
    handle.remove()
    assert (expected - model(**batch).logits).abs().max() > 1e-2
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6 * float(expected.detach().abs().max() + 1))


@pytest.mark.parametrize("family", ARCHITECTURES)
@pytest.mark.parametrize("component", ["block_output", "mlp_output", "attention_output", "block_input"])
def test_whole_interchanges_through_pyvene(family: str, component: str) -> None:
    """pyvene's own model around the model: a DAS interchange at one position of each row, logits and gradients of R."""
    model = ARCHITECTURES[family](dtype=torch.float32)
    base, source = prompts([6, 6], "none", seed=1), prompts([6, 6], "none", seed=2)
    row = {
        "layer": 1, "component": component, "low_rank_dimension": RANK,
        "intervention_type": pv.LowRankRotatedSpaceIntervention,
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = pv.IntervenableModel(pv.IntervenableConfig([row]), model)
        theirs = next(iter(wrapped.interventions.values()))
        theirs = theirs[0] if isinstance(theirs, (tuple, list)) else theirs
        F = cr.Subspace.from_rows(rotation_of(theirs))
        _, output = wrapped(base, [source], {"sources->base": ([[[2], [2]]], [[[4], [4]]])})
    graph = cr.InterventionGraph(
        edit=cr.Interchange(
            cr.Site(1, component, positions=4), F, cr.Collect("source", cr.Site(1, component, positions=2))
        )
    )
    ours = cr.IntervenedModel(model, graph)(base, source=source).logits
    assert (ours - model(**base).logits).abs().max() > 1e-3
    torch.testing.assert_close(ours, output.logits, rtol=0, atol=1e-6 * float(ours.detach().abs().max() + 1))
