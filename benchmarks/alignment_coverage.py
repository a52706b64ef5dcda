"""Does the 95 % interval hold chance when labels are permuted? 200 simulated studies, each with a fit of its own.

    python benchmarks/alignment_coverage.py [--studies 200]

Each study draws a planted network's data, permutes the labels of training and report rows, fits a rank-2 subspace, and
asks whether the interval of its IIA holds the agreement that is expected of these answers and labels by chance.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from causal_reft.alignment.rows import clusters_of
from causal_reft.alignment.scoring import score_rows
from causal_reft.alignment.statistics import binomial_interval, mean_interval
from causal_reft.seeds import numpy_stream
from causal_reft.training import Recipe
from tests.alignment import planted

RECIPE = Recipe(epochs=2, batch_size=64, lr=2e-2)


def simulated(seed: int) -> tuple[bool, float]:
    """Whether chance is inside the interval, and the interval's width."""
    network = planted.Planted("independent", seed % 5)
    train, report = (_permuted(planted.counterfactuals(n, 2 * seed + i), seed) for i, n in enumerate((256, 200)))
    found = planted.alignment(rank=2, seed=seed)
    found.fit(network, train, planted.ENCODING, recipe=replace(RECIPE, seed=seed), progress=False)
    examples = planted.ENCODING.examples(report)
    right = score_rows(network, found.graph_for(report), examples)["iia"]
    labels = examples.labels.numpy()
    answers = np.where(right == 1, labels, 1 - labels)
    chance = sum((answers == k).mean() * (labels == k).mean() for k in (0, 1))
    interval = mean_interval(right, clusters_of(report), seed)
    return bool(interval.low <= chance <= interval.high), interval.high - interval.low


def _permuted(data, seed: int):
    order = numpy_stream(seed, "permuted").permutation(len(data))
    return replace(data, labels=data.labels.iloc[order].reset_index(drop=True))


def main() -> None:
    """Simulate and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = [simulated(seed) for seed in range(options.studies)]
    covered = sum(inside for inside, _ in found)
    low, high = binomial_interval(covered, len(found))
    print(
        f"chance lies inside the 95 % interval in {covered} of {len(found)} studies: {covered / len(found):.3f} "
        f"[{low:.3f}, {high:.3f}]; mean width {np.mean([width for _, width in found]):.3f}"
    )


if __name__ == "__main__":
    main()
