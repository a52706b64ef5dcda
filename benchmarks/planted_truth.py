"""Five planted networks without and with inert copies of the variable: IIA, angle to the truth, the illusion report.

Searched in all directions, and inside those that the network reads (`Subspace.within(read_directions(...), rank)`).
`other seed`: the IIA of a second seed; `between seeds`: the angle between the two subspaces. Angles are in degrees.

python benchmarks/planted_truth.py [number of secrets]
"""

from __future__ import annotations

import os
import sys
from itertools import product
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import pandas as pd
import torch

import causal_reft as cr
from causal_reft.featurizers import principal_angles
from tests.alignment import planted
from tests.alignment.test_planted import RECIPE, REPORTED

SEARCHES = ("everywhere", "within what is read")


def fitted(network: torch.nn.Module, search: str, secret: int, seed: int) -> cr.Alignment:
    """An alignment of `left`, fitted."""
    data = planted.counterfactuals(4000, secret)
    found = planted.alignment(seed=seed)
    if search == SEARCHES[1]:
        rows = cr.read_directions(network, planted.SITE, data, planted.ENCODING)
        found = cr.Alignment(found.causal_model, cr.InterventionGraph(
            left=cr.Interchange(planted.SITE, cr.Subspace.within(rows, 1, seed), cr.Collect())
        ))  # fmt: skip
    found.fit(network, data, planted.ENCODING, recipe=RECIPE, progress=False)
    return found


def rows_of(found: cr.Alignment) -> torch.Tensor:
    """The learned rows."""
    return found.graph.edits["left"].featurizer.rotation.detach()


def main(secrets: int = 5) -> None:
    """One row for each kind, search and secret, and the range of every column."""
    rows = []
    for kind, search, secret in product(("independent", "copies"), SEARCHES, range(secrets)):
        network = planted.Planted(kind, secret)
        found, again = (fitted(network, search, secret, seed) for seed in (secret, secret + 100))
        report = found.illusion(network, REPORTED, planted.ENCODING)
        iia, other = (one.records(network, REPORTED, planted.ENCODING)["iia"].mean() for one in (found, again))
        rows.append({
            "rest": kind,
            "search": search,
            "secret": secret,
            "iia": iia,
            "other seed": other,
            "to truth": float(principal_angles(rows_of(found), network.direction)),
            "between seeds": float(principal_angles(rows_of(found), rows_of(again))),
            "share read": report.share_read,
            "far": report.far,
        })  # fmt: skip
    table = pd.DataFrame(rows)
    print(table.round(3).to_string(index=False))
    print(table.drop(columns="secret").groupby(["rest", "search"]).agg(["min", "max"]).round(3).to_string())


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
