"""Before anything is timed: our loss and gradient are those of pyvene, on the same rotation."""

from __future__ import annotations

import torch

import causal_reft as cr
from benchmarks.comparison import theirs
from benchmarks.comparison.setting import Setting, model_of, texts
from causal_reft.execution import IntervenedModel, plan
from causal_reft.featurizers import computed_once
from causal_reft.training import cross_entropy


def agreement(setting: Setting, n_rows: int = 2) -> list[dict[str, object]]:
    """Relative differences of loss and of the gradient with respect to the orthonormal rows.

    Raises:
        AssertionError: they differ by more than float32 rounding explains.
    """
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
        assert gap < 1e-3 and difference < 1e-5, (setting, label, gap, difference)
        found.append({"setting": f"{setting.name}, layer {layer}, {label}", "loss": difference, "gradient": gap})
    return found
