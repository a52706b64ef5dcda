"""How well does a hypothesis of hierarchical equality align with a network? A distribution over networks, not one
number.

For each trained network, each hypothesis, layer, rank k and DAS seed: learn k orthonormal rows for every variable
(slices of one rotation), and report the interchange intervention accuracy (IIA) on fresh counterfactuals, beside what
random subspaces of the same rank and a network with random weights reach. One seed of this experiment is noise: the
replication of Sutter et al. 2025 has "both relations", layer 1, k=8 at 0.842 +- 0.082 over ten networks.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn
from tqdm.auto import tqdm

from causal_reft.alignment.controls import random_scores
from causal_reft.alignment.scoring import score_rows
from causal_reft.execution import Examples, IntervenedModel
from causal_reft.featurizers import Subspace
from causal_reft.graph import Collect, Interchange, InterventionGraph
from causal_reft.seeds import derive
from causal_reft.sites import Site
from causal_reft.tasks.equality import (
    Hypothesis,
    equality_counterfactuals,
    equality_inputs,
    equality_labels,
    hypothesis,
)
from causal_reft.tasks.equality_network import EqualityNetwork, Recipe, train_network
from causal_reft.training import fit

TESTED = ("both relations", "left only", "identity of first argument")


@dataclass(frozen=True)
class Effort:
    """How much is spent on each alignment."""

    train_rows: int = 64_000
    test_rows: int = 6_400
    batch_size: int = 1024
    steps: int = 500
    lr: float = 2e-2
    random_subspaces: int = 100


def alignment_graph(what: Hypothesis, layer: int, frame: Subspace) -> InterventionGraph:
    """One node for each variable: its slice of the frame takes the value of that variable's source run."""
    several = len(what.variables) > 1
    parts = frame.split(**dict.fromkeys(what.variables, frame.rank // len(what.variables)))
    runs = {name: f"source_{name}" if several else "source" for name in what.variables}
    site = Site.at(f"blocks.{layer}")
    return InterventionGraph(**{name: Interchange(site, part, Collect(runs[name])) for name, part in parts.items()})


def counterfactual_examples(what: Hypothesis, n: int, seed: int) -> Examples:
    """Network inputs of every run, and the class that the hypothesis expects."""
    data = equality_counterfactuals(what, n, seed)
    return Examples(equality_inputs(data, seed), equality_labels(data))


def align(network: nn.Module, what: Hypothesis, layer: int, k: int, seed: int, effort: Effort) -> dict[str, float]:
    """One DAS fit: IIA on fresh counterfactuals, and the spread of random subspaces on the same ones."""
    width = k * len(what.variables)
    model = IntervenedModel(network, alignment_graph(what, layer, Subspace(EqualityNetwork().width, width, seed)))
    train = counterfactual_examples(what, effort.train_rows, derive(seed, "train"))
    test = counterfactual_examples(what, effort.test_rows, derive(seed, "test"))
    epochs = -(-effort.steps * effort.batch_size // len(train))
    fit(
        model, train, epochs=epochs, max_steps=effort.steps, batch_size=effort.batch_size, lr=effort.lr,
        schedule="cosine", warmup=0.0, seed=seed, progress=False,
    )  # fmt: skip
    random = random_scores(network, model.graph, test, effort.random_subspaces, seed, rows_at_once=200_000)["iia"].mean(
        1
    )
    return {
        "iia": float(score_rows(network, model.graph, test, batch_size=6_400)["iia"].mean()),
        "random_subspaces_mean": float(random.mean()),
        "random_subspaces_95": float(np.quantile(random, 0.95)),
    }


def alignment_distribution(
    n_networks: int,
    n_das_seeds: int,
    folder: str | os.PathLike[str],
    hypotheses: Sequence[str] = TESTED,
    layers: Sequence[int] = (0, 1, 2),
    ranks: Sequence[int] = (8, 2, 1),
    effort: Effort | None = None,
    recipe: Recipe | None = None,
) -> pd.DataFrame:
    """A tidy table with one row for each network x hypothesis x layer x k x DAS seed, and random-weight networks
    beside.

    Columns: network_seed, weights ("trained" or "random"), task_accuracy, hypothesis, layer (1 is the first), k,
    das_seed, iia, random_subspaces_mean, random_subspaces_95. Finished networks are kept in `folder` and not computed
    again.
    """
    effort, recipe = effort or Effort(), recipe or Recipe()
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    frames = []
    for seed in tqdm(range(n_networks), desc="networks"):
        file = target / f"network{seed}_{_digest(n_das_seeds, hypotheses, layers, ranks, effort, recipe)}.csv"
        if not file.exists():
            rows = _one_network(seed, n_das_seeds, hypotheses, layers, ranks, effort, recipe)
            pd.DataFrame(rows).to_csv(scratch := file.with_suffix(".part"), index=False)
            os.replace(scratch, file)
        frames.append(pd.read_csv(file))
    return pd.concat(frames, ignore_index=True)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean, spread over networks, range, and controls for each hypothesis, layer and k."""
    grouped = table.groupby(["weights", "hypothesis", "layer", "k"], sort=False)
    over_networks = table.groupby(["weights", "hypothesis", "layer", "k", "network_seed"], sort=False)["iia"].mean()
    spread = over_networks.groupby(level=[0, 1, 2, 3], sort=False).std(ddof=1)
    return pd.DataFrame(
        {
            "iia": grouped["iia"].mean(),
            "sd_over_networks": spread,
            "lowest": grouped["iia"].min(),
            "highest": grouped["iia"].max(),
            "random_subspaces_95": grouped["random_subspaces_95"].mean(),
            "networks": grouped["network_seed"].nunique(),
            "fits": grouped["iia"].size(),
        }
    ).reset_index()


def _one_network(seed, n_das_seeds, hypotheses, layers, ranks, effort, recipe) -> list[dict[str, object]]:
    trained = train_network(seed, recipe)
    rows: list[dict[str, object]] = []
    for name in hypotheses:
        for layer in layers:
            for k in ranks:
                for das_seed in range(n_das_seeds):
                    scores = align(trained.network, hypothesis(name), layer, k, das_seed, effort)
                    rows.append(_row(seed, "trained", trained.accuracy, name, layer, k, das_seed, scores))
    for name in hypotheses:
        untrained = EqualityNetwork(seed=derive(seed, "random weights"))
        scores = align(untrained, hypothesis(name), layers[0], ranks[0], 0, effort)
        rows.append(_row(seed, "random", float("nan"), name, layers[0], ranks[0], 0, scores))
    return rows


def _row(seed, weights, accuracy, name, layer, k, das_seed, scores) -> dict[str, object]:
    settings = {"network_seed": seed, "weights": weights, "task_accuracy": accuracy, "hypothesis": name}
    return {**settings, "layer": layer + 1, "k": k, "das_seed": das_seed, **scores}


def _digest(n_das_seeds, hypotheses, layers, ranks, effort: Effort, recipe: Recipe) -> str:
    """Eight letters that change with every setting, so that a folder never mixes two experiments."""
    settings = (n_das_seeds, tuple(hypotheses), tuple(layers), tuple(ranks), asdict(effort), asdict(recipe))
    return f"{derive(0, *settings):016x}"[:8]
