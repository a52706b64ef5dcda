"""Five planted networks without and with inert copies of the variable: IIA, angle to the truth, the illusion report.

python benchmarks/planted_truth.py [number of secrets]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import pandas as pd

from causal_reft.featurizers import principal_angles
from tests.alignment import planted
from tests.alignment.test_planted import RECIPE, REPORTED


def main(secrets: int = 5) -> None:
    """One row for each secret and kind, and the range of every column."""
    rows = []
    for kind in ("independent", "copies"):
        for secret in range(secrets):
            network, found = planted.Planted(kind, secret), planted.alignment(seed=secret)
            found.fit(network, planted.counterfactuals(4000, secret), planted.ENCODING, recipe=RECIPE, progress=False)
            learned = found.graph.edits["left"].featurizer.rotation.detach()
            report = found.illusion(network, REPORTED, planted.ENCODING)
            rows.append({
                "rest": kind,
                "secret": secret,
                "iia": found.records(network, REPORTED, planted.ENCODING)["iia"].mean(),
                "degrees": float(principal_angles(learned, network.direction)),
                "share read": report.share_read,
                "far": report.far,
            })  # fmt: skip
    table = pd.DataFrame(rows)
    print(table.round(3).to_string(index=False))
    print(table.drop(columns="secret").groupby("rest").agg(["min", "max"]).round(3).to_string())


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
