"""What the rest of a network reads of the states at a site: rows of a reading matrix, given, looked up or estimated.

Given by the caller; looked up where the site is the input of a linear layer (its weight); otherwise estimated from
gradients: the directions along which the logits of the expected answers change anywhere in the data, those whose
singular value is at least 1 % of the largest (active subspaces; Constantine 2015). A change orthogonal to the rows
changes nothing after it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from causal_reft.errors import FeaturizerError
from causal_reft.execution import Examples, FullPasses, IntervenedModel
from causal_reft.featurizers import Featurizer
from causal_reft.graph import Constant, Interchange, InterventionGraph
from causal_reft.sites import Site, locate
from causal_reft.tensors import Coordinates, Hidden, Rows, Tensor
from causal_reft.training import frozen

THRESHOLD = 1e-2


@dataclass(frozen=True)
class Reading:
    """Orthonormal rows (read directions, d_model) in float64, and where they come from, in words."""

    rows: Rows
    origin: str

    def part_read(self, directions: Tensor) -> Tensor:
        """The projection of directions "... d_model" on what is read."""
        return directions.double() @ self.rows.mT @ self.rows


def reading_of(
    network: nn.Module, site: Site, d_model: int, examples: Examples, given: Rows | None, batch_size: int = 64
) -> Reading:
    """The reading of a site, by the first way that applies (see above).

    Raises:
        FeaturizerError: a given matrix of another width than the site; nothing is read at all.
    """
    if given is not None:
        return _orthonormal(given, "the given reading matrix")
    location = locate(network, site)
    weight = getattr(location.module, "weight", None)
    if (
        location.port == "input"
        and isinstance(location.module, nn.Linear)
        and location.layout == "whole"
        and weight is not None
    ):
        mine = location.features(weight.shape[1])  # of a single head
        read = weight.detach() if mine is None else weight.detach()[:, mine]
        return _orthonormal(read, f"the weight of {location.path}")
    return _orthonormal(
        logit_gradients(network, site, d_model, examples, batch_size), "gradients of the logits over the data"
    )


def logit_gradients(network: nn.Module, site: Site, d_model: int, examples: Examples, batch_size: int = 64) -> Tensor:
    """d(logit of the expected answer - mean logit) / d(state) at each named token of the base runs: "token d_model"."""
    probe = _Probe(d_model)
    graph = InterventionGraph(probe=Interchange(site, probe, Constant(0.0)))
    with frozen(network):
        passes = FullPasses(IntervenedModel(network, graph), Examples({"base": examples.runs["base"]}, examples.labels))
        for rows in examples.batches(batch_size):
            scored = passes.scored(rows)
            expected = scored.logits.gather(1, scored.targets[:, None])[:, 0]
            (expected - scored.logits.mean(-1)).sum().backward()
    return torch.cat([h.grad for h in probe.seen if h.grad is not None])


def _orthonormal(matrix: Tensor, origin: str) -> Reading:
    found = torch.linalg.svd(matrix.detach().double(), full_matrices=False)
    kept = THRESHOLD * found.S.max() < found.S
    if not bool(kept.any()):
        raise FeaturizerError(
            f"By {origin}, nothing is read at this site: every direction is dormant. Choose an earlier site or "
            "position."
        )
    return Reading(found.Vh[kept], f"{origin} ({int(kept.sum())} of {matrix.shape[1]} dimensions)")


class _Probe(Featurizer):
    """Lets the state pass unchanged and remembers it as a leaf that asks for a gradient."""

    is_lens = False

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.d_model = self.rank = d_model
        self.seen: list[Tensor] = []

    def read(self, h: Hidden) -> Coordinates:
        return h

    def write(self, h: Hidden, z: Coordinates) -> Hidden:
        self.seen.append(h.detach().requires_grad_())
        return self.seen[-1]

    def config(self) -> dict[str, object]:
        raise FeaturizerError("A probe exists while gradients are collected, and is not stored.")
