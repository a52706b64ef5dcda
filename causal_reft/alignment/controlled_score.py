"""A score with what makes it readable: its rows, its interval, its controls, and its distance from the best of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn

from causal_reft.alignment.controls import full_patch, pca_graph, random_scores
from causal_reft.alignment.encoding import Encoding
from causal_reft.alignment.metrics import shown, summary
from causal_reft.alignment.row_facts import factors_of, kinds_of
from causal_reft.alignment.row_scores import NO_EDIT, score_rows
from causal_reft.alignment.statistics import Interval, Separation, mean_interval, percentile, separation
from causal_reft.causal import CausalModel, CounterfactualDataset, Task
from causal_reft.graph import InterventionGraph


@dataclass(frozen=True)
class Score:
    """IIA of one alignment on one dataset. `float(score)` is the IIA; print it to see what it is worth.

    Attributes:
        iia: mean, interval, rows and clusters.
        means: the mean of every metric, and cause, isolate, disentangle.
        controls: name -> IIA of the control (random: the best draw); `full_patch` is a reference and no control.
        random: the IIA of every random subspace.
        separation: the IIA minus that of the best control.
        seed: of the random subspaces.
    """

    iia: Interval
    means: dict[str, float]
    controls: dict[str, float]
    random: tuple[float, ...]
    separation: Separation
    seed: int

    def __float__(self) -> float:
        return self.iia.value

    def __repr__(self) -> str:
        percent = percentile(self.iia.value, np.array(self.random))
        controls = ", ".join(f"{name} {value:.3f}" for name, value in self.controls.items())
        return (
            f"IIA {self.iia} over {self.iia.rows} rows ({self.iia.clusters} pairs); "
            f"{shown(self.means)}\n"
            f"  controls: {controls}\n"
            f"  {percent:.0f}th percentile of {len(self.random)} random subspaces of the same rank (seed {self.seed})\n"
            f"  separation from the best control ({self.separation.best_control}): {self.separation.value:+.3f} "
            f"[{self.separation.low:+.3f}, {self.separation.high:+.3f}], p = {self.separation.p:.2g}"
            + (f"\n  read the intervals with care: {self.iia.warning}" if self.iia.warning else "")
        )


def controlled_score(
    network: nn.Module,
    graph: InterventionGraph,
    data: CounterfactualDataset,
    encoding: Encoding,
    model: CausalModel | Task,
    draws: int,
    seed: int,
    batch_size: int,
) -> Score:
    """Score a graph and, on the same rows, the graph with other featurizers at the same sites."""
    examples, clusters = encoding.examples(data), factors_of(data)
    values = score_rows(network, graph, examples, batch_size)
    rivals = {"no_edit": score_rows(network, NO_EDIT, examples, batch_size)["iia"][None]}
    rivals["random"] = random_scores(network, graph, examples, draws, seed)["iia"]
    directions, full = pca_graph(network, graph, examples), full_patch(graph)
    if directions is not None:
        rivals["pca"] = score_rows(network, directions, examples, batch_size)["iia"][None]
    whole = {} if full is None else {"full_patch": float(score_rows(network, full, examples, batch_size)["iia"].mean())}
    found = {name: float(rows.mean(1).max()) for name, rows in rivals.items()} | whole
    return Score(
        iia=mean_interval(values["iia"], clusters),
        means=summary(values, *kinds_of(data, model)),
        controls=found,
        random=tuple(rivals["random"].mean(1).tolist()),
        separation=separation(values["iia"][None], rivals, clusters),
        seed=seed,
    )
