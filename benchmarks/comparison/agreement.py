"""Before anything is timed: our loss and gradient are those of pyvene and pyreft, on the same rotations."""

from __future__ import annotations

from typing import Any

import torch

import causal_reft as cr
from benchmarks.comparison import theirs
from benchmarks.comparison.cases import F5_L5
from benchmarks.comparison.setting import Setting, answers, model_of, texts
from causal_reft.execution import IntervenedModel, plan
from causal_reft.featurizers import computed_once
from causal_reft.training import cross_entropy


def agreement(setting: Setting, n_rows: int = 2) -> list[dict[str, object]]:
    """Relative differences of loss and gradient.

    Raises:
        AssertionError: they differ by more than float32 rounding explains.
    """
    found = [*_das(setting, n_rows), _loreft(setting, n_rows)]
    for row in found:
        assert row["gradient"] < 1e-3 and row["loss"] < 1e-5, row
    return found


def _das(setting: Setting, n_rows: int) -> list[dict[str, Any]]:
    """DAS against pyvene, the gradient with respect to the orthonormal rows."""
    model, examples, rows, layer = (
        model_of(setting),
        texts(setting, n_rows),
        torch.arange(n_rows),
        setting.n_layers // 2,
    )
    found = []
    for label, position in (("last", setting.T - 1), ("middle", setting.middle)):
        subspace = cr.Subspace(setting.d_model, setting.rank)
        intervenable = theirs.das_model(model, layer, setting.rank, subspace.rotation)
        their_loss = theirs.das_loss(intervenable, examples, rows, position)
        their_loss.backward()
        theirs_gradient = next(iter(intervenable.interventions.values())).rotate_layer.weight.grad.T
        graph = cr.InterventionGraph(edit=cr.Interchange(cr.Site(layer, positions=position), subspace, cr.Collect()))
        passes = plan(IntervenedModel(model, graph), examples, check=False)
        with computed_once():
            rotation = subspace.basis.rows(torch.float32)
            rotation.retain_grad()
            scored = passes.scored(rows)
            loss = cross_entropy(scored.logits, scored.targets).mean()
            loss.backward()
        assert rotation.grad is not None
        gap = float((rotation.grad - theirs_gradient).norm() / theirs_gradient.norm())
        difference = abs(loss.item() - their_loss.item()) / their_loss.item()
        found.append({"setting": f"{setting.name}, layer {layer}, {label}", "loss": difference, "gradient": gap})
    return found


def _loreft(setting: Setting, n_rows: int, rank: int = 4) -> dict[str, Any]:
    """LoReFT against pyreft at all layers, the gradient with respect to the learned sources."""
    model, rows, layers = model_of(setting), torch.arange(n_rows), range(setting.n_layers)
    examples = answers(setting, n_rows, 8)
    reft = theirs.loreft_model(model, setting, rank, len(F5_L5.sites))
    edits, interventions = {}, list(reft.interventions.values())
    for number, intervention in enumerate(interventions):
        site = cr.Site(layers[number % len(layers)], positions=F5_L5.sites[number // len(layers)])
        subspace = cr.Subspace.from_rows(intervention.rotate_layer.weight.detach().T.clone())
        source = cr.LearnedSource(rank, setting.d_model, init="random")
        with torch.no_grad():
            source.weight.copy_(intervention.learned_source.weight)
            source.bias.copy_(intervention.learned_source.bias)
        edits[f"edit_{number}"] = cr.Interchange(site, subspace, source)
    their_loss = theirs.loreft_loss(reft, examples, rows, F5_L5.columns(setting.T - 8), len(layers))
    their_loss.backward()
    scored = plan(IntervenedModel(model, cr.InterventionGraph(**edits)), examples, check=False).scored(rows)
    loss = cross_entropy(scored.logits, scored.targets).mean()
    loss.backward()
    mine = torch.cat([edit.source.weight.grad.flatten() for edit in edits.values()])
    other = torch.cat([one.learned_source.weight.grad.flatten() for one in interventions])
    gap, difference = float((mine - other).norm() / other.norm()), abs(loss.item() - their_loss.item())
    return {
        "setting": f"{setting.name}, LoReFT, f5+l5",
        "loss": difference / their_loss.item(),
        "gradient": gap,
    }
