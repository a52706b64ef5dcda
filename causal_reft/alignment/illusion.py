"""Does a subspace work through what the network reads, or beside it? A diagnostic with words, never a verdict.

A learned direction may combine a part that the rest of the network reads with a dormant part that it does not: the
dormant part may only be correlated with the variable in the data, and still an interchange along the whole direction
moves the answer (Makelov et al. 2024). Such a result can also be a fair description (Wu et al. 2024, reply), so what
follows is evidence to weigh: how much of the subspace is read, what each part does alone beside the whole vector, and
how far patched states lie from any state that the network has by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isnan, nan

import pandas as pd
import torch
from torch import nn

from causal_reft.alignment.controls import full_patch
from causal_reft.alignment.reading import reading_of
from causal_reft.alignment.row_scores import NO_EDIT, score_rows, states_at
from causal_reft.alignment.statistics import UNBOUNDED, Interval, mean_interval
from causal_reft.alignment.variance import Clusters
from causal_reft.errors import GraphError
from causal_reft.execution import Examples
from causal_reft.featurizers import Featurizer, Subspace
from causal_reft.graph import Collect, Interchange, InterventionGraph
from causal_reft.tensors import Float, Rows, Tensor

INDEPENDENT, FAR, TOLERANCE = 0.05, 0.99, 1.01
SMALL, MOSTLY = 0.1, 0.95
PER_DIMENSION = 2


@dataclass(frozen=True)
class IllusionReport:
    """Print it to read it.

    Attributes:
        variable: the aligned variable.
        reading: where the reading matrix comes from and how many dimensions it reads.
        share_read: share of the subspace's squared norm that lies in the row space of the reading matrix, in [0, 1].
        effects: one row for each patch (`subspace`, `part read`, `part not read`, `whole vector`, `no edit`): IIA with
            its interval, mean logit difference.
        far: share of patched states farther (by 1 % at least) from the natural states than 99 % of natural states are;
            nan where there are fewer than two different natural states to a dimension.
        distance: median Mahalanobis distance of patched states, in units of that of natural states; nan likewise.
        states: how many different natural states the distances are fitted to, and in how many dimensions.
        projections: histogram data: `state` (base, source, patched), `direction` (subspace, read, not read), `value`.
    """

    variable: str
    reading: str
    share_read: float
    effects: pd.DataFrame
    far: float
    distance: float
    states: Sequence[int]
    projections: pd.DataFrame

    @property
    def text(self) -> str:
        """What the figures say, in sentences."""
        effects = self.effects.set_index("patch")
        return "\n".join([self._read_sentence(), *self._effect_sentences(effects), self._distance_sentence()])

    def _read_sentence(self) -> str:
        head = (
            f"{self.variable}: {self.share_read:.1%} of the subspace lies where the network reads, by {self.reading}."
        )
        if self.share_read >= MOSTLY:
            return head + " It is nearly all used."
        return (
            head
            + f" {1 - self.share_read:.1%} of it lies where nothing is read: a dormant part, "
            + "which a good score does not need."
        )

    def _effect_sentences(self, effects: pd.DataFrame) -> list[str]:
        iia = {str(name): float(value) for name, value in effects["iia"].items()}
        shown = "; ".join(
            f"{name} {row.iia:.3f} [{row.iia_low:.3f}, {row.iia_high:.3f}]" for name, row in effects.iterrows()
        )
        sentences = [f"IIA: {shown}."]
        gain = iia["subspace"] - iia["no edit"]
        if gain <= SMALL:
            return [*sentences, "The subspace does hardly more than no edit: there is no effect to explain."]
        share = {name: (value - iia["no edit"]) / gain for name, value in iia.items()}
        reads_little, whole_little = (share.get(name, 1.0) < 0.5 for name in ("part read", "whole vector"))
        if reads_little:
            sentences.append(
                "The part that is read does less than half of it alone: the dormant part sets how far that part moves."
            )
            if whole_little:
                sentences.append("The whole vector does less than half of it too: this is the mark of an illusion.")
            elif "whole vector" in share:
                sentences.append(
                    f"But the whole vector does {share['whole vector']:.0%} of it: this component carries the "
                    "variable, in another subspace."
                )
        elif "part read" in iia and self.share_read < MOSTLY:
            sentences.append(
                f"The part that is read does {share['part read']:.0%} of it alone: the variable is there, but this "
                "subspace is not where it is; its dormant part is not needed for that."
            )
        if whole_little and not reads_little:
            sentences.append(
                "The whole vector does less than half of it: it brings the source's other variables along, or the "
                "subspace sets states that swapping the whole never reaches"
                + ("." if isnan(self.distance) else " (the distance below tells which).")
            )
        return sentences

    def _distance_sentence(self) -> str:
        if isnan(self.distance):
            count, width = self.states
            return (
                f"How far patched states lie from natural ones is not measured: there are {count} different natural "
                f"states in {width} dimensions, and a distance needs at least {PER_DIMENSION * width}."
            )
        head = (
            f"Patched states: median distance {self.distance:.2f} times that of natural states; "
            f"{100 * self.far:.1f} % lie farther out than 99 % of natural states"
        )
        return head + (
            ": they look like states of the network."
            if self.far < 0.1
            else ": many are states that the network never has by itself."
        )

    def __repr__(self) -> str:
        return self.text


def illusion_report(
    network: nn.Module,
    graph: InterventionGraph,
    examples: Examples,
    clusters: Clusters,
    given: Rows | None = None,
    batch_size: int = 64,
) -> IllusionReport:
    """The report of a graph with one interchange in linear coordinates.

    Raises:
        GraphError: several edits, or coordinates that are not linear.
    """
    if len(graph.edits) != 1 or (rows := next(iter(graph.edits.values())).featurizer.rows()) is None:
        raise GraphError(
            "An illusion report is about one variable in linear coordinates. Report each variable alone: "
            "alignment.illusion(network, data of one variable, ...)."
        )
    (name, node), rows = next(iter(graph.edits.items())), _orthonormal_rows(rows)
    assert isinstance(node.source, Collect)
    reading = reading_of(network, node.site, node.featurizer.d_model, examples, given, batch_size)
    if reading.rows.shape[1] != node.featurizer.d_model:
        raise GraphError(
            f"The reading matrix has width {reading.rows.shape[1]}, but {node.site!r} has {node.featurizer.d_model}. "
            f"Give it as (outputs, d_model)."
        )
    parts = {"part read": reading.part_read(rows), "part not read": rows - reading.part_read(rows)}
    patches: dict[str, InterventionGraph | None] = {"subspace": graph}
    patches |= {patch: _patched(graph, name, node, part) for patch, part in parts.items()}
    patches |= {"whole vector": full_patch(graph), "no edit": NO_EDIT}
    effects = [
        _effect(network, patch, edit, examples, clusters, batch_size)
        for patch, edit in patches.items()
        if edit is not None
    ]
    states = states_at(network, node.site, examples, ["base", node.source.run], batch_size)
    base, source = states["base"], states[node.source.run]
    patched = node.featurizer.write(base, node.featurizer.read(source)).detach()
    natural = torch.cat([base, source])
    far, distance = off_manifold(natural, patched)
    directions = {
        "subspace": rows,
        "read": _independent(parts["part read"]),
        "not read": _independent(parts["part not read"]),
    }
    return IllusionReport(
        variable=name,
        reading=reading.origin,
        share_read=float((parts["part read"] ** 2).sum() / (rows**2).sum()),
        effects=pd.DataFrame(effects),
        far=far,
        distance=distance,
        states=[_different(natural[::2]), natural.shape[1]],
        projections=_projections({"base": base, "source": source, "patched": patched}, directions),
    )


def off_manifold(
    natural: Float[Tensor, "natural d_model"], patched: Float[Tensor, "patched d_model"]
) -> tuple[float, float]:
    """Share of patched states beyond 99 % of natural ones, and the ratio of median distances.

    Mahalanobis distances from half of the natural states (every other one), compared with the other half. nan where
    that half holds fewer than two different states to a dimension: few states say little of where others lie.
    """
    if _different(natural[::2]) < PER_DIMENSION * natural.shape[1]:
        return nan, nan
    fitted, held_out = natural[::2].double(), natural[1::2].double()
    mean = fitted.mean(0)
    found = torch.linalg.svd(fitted - mean, full_matrices=False)
    scale = (found.S / len(fitted) ** 0.5).clamp_min(1e-3 * float(found.S.max()) / len(fitted) ** 0.5)

    def distances(states: Tensor) -> Tensor:
        inside = (states.double() - mean) @ found.Vh.mT
        outside = ((states.double() - mean) - inside @ found.Vh).norm(dim=-1) / scale.min()
        return ((inside / scale) ** 2).sum(-1).add(outside**2).sqrt()

    usual, ours = distances(held_out), distances(patched)
    return float((ours > TOLERANCE * usual.quantile(FAR)).double().mean()), float(ours.median() / usual.median())


def _different(states: Tensor) -> int:
    """How many different ones, up to rounding."""
    return len((states / states.abs().max().clamp_min(1e-30)).mul(1e5).round().unique(dim=0))


def _orthonormal_rows(rows: Tensor) -> Tensor:
    return torch.linalg.svd(rows.detach().double().cpu(), full_matrices=False).Vh


def _independent(directions: Tensor) -> Tensor:
    """Orthonormal rows spanning the directions, without those that hardly exist."""
    found = torch.linalg.svd(directions, full_matrices=False)
    return found.Vh[found.S > INDEPENDENT]


def _patched(graph: InterventionGraph, name: str, node: Interchange, part: Tensor) -> InterventionGraph | None:
    rows = _independent(part)
    if not len(rows) or len(rows) == rows.shape[1]:
        return None
    featurizer: Featurizer = Subspace.from_rows(rows.to(torch.float32))
    return graph.replace(**{name: replace(node, featurizer=featurizer)})


def _effect(
    network: nn.Module, patch: str, graph: InterventionGraph, examples: Examples, clusters: Clusters, batch_size: int
) -> dict[str, object]:
    found = score_rows(network, graph, examples, batch_size)
    iia: Interval = mean_interval(found["iia"], clusters)
    difference = mean_interval(found["logit_difference"], clusters, bounds=UNBOUNDED, missing=True)
    return {
        "patch": patch,
        "iia": iia.value,
        "iia_low": iia.low,
        "iia_high": iia.high,
        "logit_difference": difference.value,
        "rows": iia.rows,
    }


def _projections(states: dict[str, Tensor], directions: dict[str, Tensor]) -> pd.DataFrame:
    """Long table of every state's coordinates along each direction."""
    parts = [
        pd.DataFrame(
            {"state": state, "direction": name, "coordinate": i, "value": (h.double() @ row.to(h.device)).cpu().numpy()}
        )
        for state, h in states.items()
        for name, rows in directions.items()
        for i, row in enumerate(rows)
    ]
    return pd.concat(parts, ignore_index=True)
