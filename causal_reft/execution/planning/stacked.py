"""Many subspaces of one site at once: a hundred random controls are a hundred rows of one reduced forward.

scores = stacked(model, examples, site, frames, score)        (frame, row)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from causal_reft.execution.examples import Examples
from causal_reft.execution.intervened_model import IntervenedModel
from causal_reft.execution.planning.plan import plan_all
from causal_reft.featurizers import Subspace, computed_once
from causal_reft.graph import Collect, Interchange, InterventionGraph
from causal_reft.sites import Site
from causal_reft.tensors import Float, Tensor

Score = Callable[[Tensor, Tensor], Tensor]


@torch.no_grad()
def stacked(
    model: nn.Module,
    examples: Examples,
    site: Site,
    frames: Float[Tensor, "frame rank d_model"],
    score: Score,
    *,
    source: str = "source",
    batch_size: int = 8,
    **options: object,
) -> Float[Tensor, "frame row"]:
    """A score of every example under the interchange of every subspace.

    Args:
        model: the base model.
        examples: the dataset.
        site: where.
        frames: rows that span each subspace; they are orthonormalised.
        score: (logits (read, classes), targets (read,)) -> one value for each logit that is read; the mean over a
            row's reads is kept. `training.losses.Loss` has this form.
        source: the run whose state is put in.
        batch_size: rows of the dataset at once (each under all frames).
        options: of the plan (see `Options`).
    """
    interchanges = [Interchange(site, Subspace.from_rows(rows), Collect(source)) for rows in frames]
    models = [IntervenedModel(model, InterventionGraph(control=node)).train(False) for node in interchanges]
    joint = plan_all(models, examples, **options)
    scores = torch.zeros(len(frames), len(examples), dtype=torch.float64)
    with computed_once():
        for rows in examples.batches(batch_size):
            for number, scored in enumerate(joint.scored(rows)):
                values = score(scored.logits, scored.targets).double()
                scores[number, rows] = scored.per_row(values, len(rows)).cpu()
    return scores
