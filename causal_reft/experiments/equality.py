"""How well does a hypothesis of hierarchical equality align with a network? A distribution over networks, not one
number.

For each trained network, each hypothesis, layer, rank k and DAS seed: learn k orthonormal rows for every variable
(slices of one rotation), and report the interchange intervention accuracy (IIA) on fresh counterfactuals, beside what
random subspaces of the same rank and a network with random weights reach. One seed of this experiment is noise: the
replication of Sutter et al. 2025 has "both relations", layer 1, k=8 at 0.842 +- 0.082 over ten networks.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import causal_reft as cr
from causal_reft.alignment import random_scores, score_rows
from causal_reft.experiments.options import at_least
from causal_reft.seeds import derive
from causal_reft.sweeps import Result, Store, run, table_of
from causal_reft.tasks.equality import (
    Hypothesis,
    equality_counterfactuals,
    equality_inputs,
    equality_labels,
    hypothesis,
)
from causal_reft.tasks.equality_network import EqualityNetwork, Recipe, TrainedNetwork, train_network

TESTED = ("both relations", "left only", "identity of first argument")
TRAINED, RANDOM = "trained", "random"


@dataclass(frozen=True)
class Effort:
    """How much is spent on each alignment."""

    train_rows: int = 64_000
    test_rows: int = 6_400
    batch_size: int = 1024
    steps: int = 500
    lr: float = 2e-2
    random_subspaces: int = 100


@dataclass(frozen=True)
class EqualityCell:
    """One DAS fit: a hypothesis at a layer (1 is the first) of a network, with k rows for every variable."""

    network_seed: int
    weights: str
    hypothesis: str
    layer: int
    k: int
    das_seed: int


def alignment_graph(what: Hypothesis, layer: int, frame: cr.Subspace) -> cr.InterventionGraph:
    """One node for each variable: its slice of the frame takes the value of that variable's source run."""
    several = len(what.variables) > 1
    parts = frame.split(**dict.fromkeys(what.variables, frame.rank // len(what.variables)))
    sources = {name: cr.Collect(f"source_{name}" if several else "source") for name in what.variables}
    site = cr.Site.at(f"blocks.{layer - 1}")
    return cr.InterventionGraph(**{name: cr.Interchange(site, part, sources[name]) for name, part in parts.items()})


def counterfactual_examples(what: Hypothesis, n: int, seed: int) -> cr.Examples:
    """Network inputs of every run, and the class that the hypothesis expects."""
    data = equality_counterfactuals(what, n, seed)
    return cr.Examples(equality_inputs(data, seed), equality_labels(data))


def align(
    network: EqualityNetwork, what: Hypothesis, layer: int, k: int, seed: int, effort: Effort
) -> dict[str, float]:
    """One DAS fit: IIA on fresh counterfactuals, and the spread of random subspaces on the same ones."""
    width = k * len(what.variables)
    model = cr.IntervenedModel(network, alignment_graph(what, layer, cr.Subspace(network.width, width, seed)))
    train = counterfactual_examples(what, effort.train_rows, derive(seed, "train"))
    test = counterfactual_examples(what, effort.test_rows, derive(seed, "test"))
    epochs = -(-effort.steps * effort.batch_size // len(train))
    cr.fit(
        model, train, epochs=epochs, max_steps=effort.steps, batch_size=effort.batch_size, lr=effort.lr,
        schedule="cosine", warmup=0.0, seed=seed, progress=False, interruptible=False,
    )  # fmt: skip
    drawn = random_scores(network, model.graph, test, effort.random_subspaces, seed, rows_at_once=200_000)["iia"]
    return {
        "iia": float(score_rows(network, model.graph, test, batch_size=6_400)["iia"].mean()),
        "random_subspaces_mean": float(drawn.mean(1).mean()),
        "random_subspaces_95": float(np.quantile(drawn.mean(1), 0.95)),
    }


def alignment_distribution(
    networks: Sequence[int],
    das_seeds: Sequence[int],
    folder: str | os.PathLike[str] | None = None,
    hypotheses: Sequence[str] = TESTED,
    layers: Sequence[int] = (1, 2, 3),
    ranks: Sequence[int] = (8, 2, 1),
    effort: Effort = Effort(),
    recipe: Recipe = Recipe(),  # noqa: B008 - frozen
    progress: bool = True,
) -> pd.DataFrame:
    """A row for each network x hypothesis x layer x k x DAS seed, and random-weight networks beside.

    Args:
        networks, das_seeds: their seeds.
        folder: where finished fits are kept; the same call goes on there, also with further networks or seeds.
        hypotheses, layers, ranks: what is fitted where; layer 1 is the first.
        effort, recipe: of every alignment and of every network's training.
        progress: whether to show a bar.

    Returns:
        The fields of `EqualityCell`, task_accuracy, iia, random_subspaces_mean, random_subspaces_95.
    """
    versions = {"causal_reft": cr.__version__, "torch": str(torch.__version__)}
    description = {"what": "equality", "versions": versions, "effort": asdict(effort), "recipe": asdict(recipe)}
    cells = [cell for seed in networks for cell in _cells(seed, das_seeds, hypotheses, layers, ranks)]
    compute = partial(_compute, effort=effort, recipe=recipe)
    return table_of(run(cells, compute, Store.claim(folder, description), progress=progress, name="alignments"))


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean, spread over networks, range, and controls for each hypothesis, layer and k."""
    keys = ["weights", "hypothesis", "layer", "k"]
    grouped = table.groupby(keys, sort=False)
    over_networks = table.groupby([*keys, "network_seed"], sort=False)["iia"].mean()
    return pd.DataFrame(
        {
            "iia": grouped["iia"].mean(),
            "sd_over_networks": over_networks.groupby(level=keys, sort=False).std(ddof=1),
            "lowest": grouped["iia"].min(),
            "highest": grouped["iia"].max(),
            "random_subspaces_95": grouped["random_subspaces_95"].mean(),
            "networks": grouped["network_seed"].nunique(),
            "fits": grouped["iia"].size(),
        }
    ).reset_index()


def _cells(
    network: int, das_seeds: Sequence[int], hypotheses: Sequence[str], layers: Sequence[int], ranks: Sequence[int]
) -> Iterator[EqualityCell]:
    """All fits of a trained network, and one of each hypothesis on a network with random weights."""
    for name in hypotheses:
        for layer in layers:
            for k in ranks:
                yield from (EqualityCell(network, TRAINED, name, layer, k, seed) for seed in das_seeds)
    yield from (EqualityCell(network, RANDOM, name, layers[0], ranks[0], 0) for name in hypotheses)


def _compute(cell: EqualityCell, effort: Effort, recipe: Recipe) -> Result:
    if cell.weights == TRAINED:
        trained = _trained(cell.network_seed, recipe)
        network, accuracy = trained.network, trained.accuracy
    else:
        network, accuracy = EqualityNetwork(seed=derive(cell.network_seed, "random weights")), float("nan")
    found = align(network, hypothesis(cell.hypothesis), cell.layer, cell.k, cell.das_seed, effort)
    return Result(facts={"rows": [{"task_accuracy": accuracy, **found}]})


@lru_cache(maxsize=1)
def _trained(seed: int, recipe: Recipe) -> TrainedNetwork:
    """Every fit of a network trains it again in a process that has not done so: it takes about a second."""
    return train_network(seed, recipe)


# The command -------------------------------------------------------------------------------------------------------


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m causal_reft equality`."""
    parser.add_argument("--networks", type=at_least(1), default=10, help="how many networks are trained")
    parser.add_argument("--seeds", "--das-seeds", type=at_least(1), default=3, help="how many DAS fits of each")
    parser.add_argument("--steps", type=at_least(1), default=Effort().steps, help="of every DAS fit")


def run_command(options: argparse.Namespace) -> Path:
    """The full distribution: three hypotheses x three layers x k = 8, 2, 1."""
    effort, folder = Effort(steps=options.steps), Path(options.folder)
    table = alignment_distribution(range(options.networks), range(options.seeds), folder, effort=effort)
    found = summary(table)
    table.to_csv(folder / "fits.csv", index=False)
    found.to_csv(folder / "summary.csv", index=False)
    print(found.round(3).to_string(index=False))
    return folder / "summary.csv"
