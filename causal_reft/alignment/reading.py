"""What the rest of a network reads of the states at a site: rows of a reading matrix, given, looked up or estimated.

Given by the caller; looked up where the site is the input of a linear layer (its weight); otherwise estimated from
gradients: the directions along which the logits of the expected answers change anywhere in the data, those whose
singular value is at least 1 % of the largest (active subspaces; Constantine 2015). A change orthogonal to the rows
changes nothing after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from causal_reft.errors import FeaturizerError
from causal_reft.execution import Examples, FullPasses, IntervenedModel
from causal_reft.featurizers import Featurizer
from causal_reft.graph import Constant, Interchange, InterventionGraph
from causal_reft.sites import Site, locate
from causal_reft.tensors import Coordinates, Float, Hidden, Rows, Tensor
from causal_reft.training import frozen

THRESHOLD = 1e-2

Keep = int | float | None


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
        return _orthonormal(given, site, "the given reading matrix")
    return readings_of(network, {site: d_model}, examples, batch_size=batch_size)[site]


def readings_of(
    network: nn.Module, widths: Mapping[Site, int], examples: Examples, keep: Keep = None, batch_size: int = 64
) -> dict[Site, Reading]:
    """The readings of sites with these widths, all gradients from the same passes; `keep` is that of `principal_rows`.

    Raises:
        FeaturizerError: nothing is read at a site, or in fewer directions than shall be kept.
    """
    weights = {site: found for site in widths if (found := _weight_after(network, site)) is not None}
    probed = {site: width for site, width in widths.items() if site not in weights}
    gradients = logit_gradients(network, probed, examples, batch_size) if probed else {}
    found = weights | {site: (rows, "gradients of the logits over the data") for site, rows in gradients.items()}
    return {site: _orthonormal(rows, site, origin, keep) for site, (rows, origin) in found.items()}


def logit_gradients(
    network: nn.Module, widths: Mapping[Site, int], examples: Examples, batch_size: int = 64
) -> dict[Site, Tensor]:
    """d(logit of the expected answer - mean logit) / d(state) at each named token of the base runs: "token d_model"."""
    probes = {site: _Probe(width) for site, width in widths.items()}
    graph = InterventionGraph(
        **{f"probe_{n}": Interchange(site, probe, Constant(0.0)) for n, (site, probe) in enumerate(probes.items())}
    )
    with frozen(network):
        passes = FullPasses(IntervenedModel(network, graph), Examples({"base": examples.runs["base"]}, examples.labels))
        for rows in examples.batches(batch_size):
            scored = passes.scored(rows)
            expected = scored.logits.gather(1, scored.targets[:, None])[:, 0]
            if (total := (expected - scored.logits.mean(-1)).sum()).requires_grad:
                total.backward()
    return {site: torch.cat(probe.gradients) for site, probe in probes.items()}


def principal_rows(matrix: Float[Tensor, "row d_model"], keep: Keep = None, least: float = 0.0) -> Rows:
    """Principal directions (about zero) of the rows of a matrix, largest first, orthonormal, in float64.

    Args:
        keep: how many, or below 1 the share of the squared norm that the first ones hold (0.95: as few as hold 95 %);
            by default all whose singular value is at least 1 % of the largest. There may be fewer, or none.
        least: singular values of at most this are rounding.
    """
    found = torch.linalg.svd(matrix.detach().double(), full_matrices=False)
    there = found.Vh[(THRESHOLD * found.S.max() < found.S) & (least < found.S)]
    if keep is None or isinstance(keep, int):
        return there[:keep]
    held = (found.S**2).cumsum(0) / (found.S**2).sum()
    return there[: int((held < keep).sum()) + 1]


def checked_keep(keep: Keep, name: str) -> None:
    """Refuse what `principal_rows` cannot keep.

    Raises:
        FeaturizerError: neither None, nor a whole number from 1 on, nor a share between 0 and 1.
    """
    whole = isinstance(keep, int) and not isinstance(keep, bool) and keep >= 1
    if keep is not None and not whole and not (isinstance(keep, float) and 0 < keep < 1):
        raise FeaturizerError(
            f"{name}={keep!r}: how many directions to keep ({name}=8), or the share that they hold, between 0 and 1 "
            f"({name}=0.95)."
        )


def _weight_after(network: nn.Module, site: Site) -> tuple[Tensor, str] | None:
    """The weight that a site's states are multiplied by next, where the site is the input of a linear layer."""
    location = locate(network, site)
    weight = getattr(location.module, "weight", None)
    if location.port != "input" or not isinstance(location.module, nn.Linear) or location.layout != "whole":
        return None
    if weight is None:
        return None
    mine = location.features(weight.shape[1])  # of a single head
    return (weight if mine is None else weight[:, mine]).detach(), f"the weight of {location.path}"


def _orthonormal(matrix: Tensor, site: Site, origin: str, keep: Keep = None) -> Reading:
    rows = principal_rows(matrix, keep)
    if not len(rows):
        raise FeaturizerError(
            f"By {origin}, nothing is read at {site!r}: every direction is dormant. Choose an earlier site or position."
        )
    if isinstance(keep, int) and len(rows) < keep:
        raise FeaturizerError(
            f"By {origin}, {len(rows)} directions are read at {site!r}, so {keep} cannot be kept. Keep at most "
            f"{len(rows)}."
        )
    return Reading(rows, f"{origin} ({len(rows)} of {matrix.shape[1]} dimensions)")


class _Probe(Featurizer):
    """Lets the state pass unchanged, and remembers it for its gradient."""

    is_lens = False

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.d_model = self.rank = d_model
        self.seen: list[Tensor] = []

    @property
    def gradients(self) -> list[Tensor]:
        """Of each state that was seen; zero where nothing came of it."""
        return [torch.zeros_like(h) if h.grad is None else h.grad for h in self.seen]

    def read(self, h: Hidden) -> Coordinates:
        return h

    def write(self, h: Hidden, z: Coordinates) -> Hidden:
        h = h if h.requires_grad else h.detach().requires_grad_()
        h.retain_grad()
        self.seen.append(h)
        return h

    def config(self) -> dict[str, object]:
        raise FeaturizerError("A probe exists while gradients are collected, and is not stored.")
