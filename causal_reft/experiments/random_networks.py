"""How well does an alignment fit networks that were never trained? Hierarchical equality, by the width of the network.

The wider a network with random weights, the more its features offer to a rotation, so that IIA rises above one half
where no variable is represented (Geiger et al. 2023, random networks). Each of the two relations has half of the
coordinates after the first layer. Every IIA is on counterfactuals that were not fitted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import causal_reft as cr
from causal_reft.alignment import mean_interval
from causal_reft.experiments.equality import Effort, align
from causal_reft.experiments.options import above_zero, at_least
from causal_reft.experiments.page import Page
from causal_reft.seeds import derive
from causal_reft.sweeps import Result, Store, run
from causal_reft.tasks.equality import hypothesis
from causal_reft.tasks.equality_network import EqualityNetwork

WIDTHS = (16, 64, 256, 1028, 4096)
COLUMNS = ["width", "k", "iia", "lowest", "highest", "random_subspaces_95", "paper", "cost"]
PAPER = {16: 0.50, 64: 0.50, 256: 0.51, 1028: 0.55, 4096: 0.64}


@dataclass(frozen=True)
class RandomNetworkCell:
    """One DAS fit of both relations, each with half of the coordinates after the first layer of a random network."""

    width: int
    seed: int


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    usual = Effort()
    parser.add_argument("--widths", nargs="+", type=at_least(2), default=list(WIDTHS), help="of the hidden layers")
    parser.add_argument("--seeds", type=at_least(2), default=3, help="networks of each width, one DAS fit of each")
    parser.add_argument("--steps", type=at_least(1), default=usual.steps, help="of every DAS fit")
    parser.add_argument("--batch-size", type=at_least(1), default=usual.batch_size, help="rows of each step")
    parser.add_argument("--lr", type=above_zero, default=usual.lr, help="learning rate of every DAS fit")
    parser.add_argument(
        "--hours", type=above_zero, default=1.0, help="processor-hours; a width whose fits take more is not run"
    )


def run_command(options: argparse.Namespace) -> Path:
    """All widths that fit into the time, as a page."""
    effort = Effort(steps=options.steps, batch_size=options.batch_size, lr=options.lr, random_subspaces=20)
    table = random_networks(options.widths, options.seeds, effort, options.hours, options.folder)
    page = Page(options.folder, options.command)
    page.heading("Both relations of hierarchical equality in networks with random weights")
    page.text(f"{effort}; {options.seeds} networks of each width, 95 % intervals over them.")
    page.table("random_networks", table)
    return page.write(
        "Alignments of random networks", ["The same hypotheses in trained networks: python -m causal_reft equality"]
    )


def random_networks(
    widths: Sequence[int], seeds: int, effort: Effort, hours: float = 1.0, folder: Path | None = None
) -> pd.DataFrame:
    """One row for each width.

    Args:
        widths: of the three hidden layers; each relation has half of the first one's coordinates.
        seeds: how many networks of each width; each has one DAS fit.
        effort: of every fit.
        hours: of processor time; a width whose fits would take more, by its first steps, is not run, and its row says
            how many.
        folder: where finished fits are kept; the same call goes on there.

    Columns: `width`, `k` (coordinates of each relation), `iia` with its interval over networks, `lowest`,
        `highest`, `random_subspaces_95` (what 95 % of random subspaces of the same size stay below), `paper` (IIA of
        Geiger et al. 2023), `cost`.
    """
    versions = {"causal_reft": cr.__version__, "torch": str(torch.__version__)}
    store = Store.claim(folder, {"what": "random networks", "versions": versions, "effort": asdict(effort)})
    rows = []
    for width in widths:
        cells = [RandomNetworkCell(width, seed) for seed in range(seeds)]
        missing = seeds - len(store.get(cells))
        needed = missing * _seconds(width, effort) / 3600 if missing else 0.0
        row = {"width": width, "k": width // 2, "paper": PAPER.get(width, float("nan"))}
        if needed > hours:
            rows.append({**row, "cost": f"not run: about {needed:.1f} processor-hours"})
            continue
        found = run(cells, partial(_compute, effort=effort), store, name=f"width {width}")
        table = pd.DataFrame([result.facts for result in found.values()])
        rows.append(
            {
                **row,
                "iia": str(mean_interval(table["iia"].to_numpy(), np.arange(seeds))),
                "lowest": table["iia"].min(),
                "highest": table["iia"].max(),
                "random_subspaces_95": float(table["random_subspaces_95"].mean()),
                "cost": f"{table['seconds'].mean():.0f} processor-seconds a fit",
            }
        )
    return pd.DataFrame(rows).reindex(columns=COLUMNS)


def _compute(cell: RandomNetworkCell, effort: Effort) -> Result:
    started = time.process_time()
    network = EqualityNetwork(cell.width, seed=derive(cell.seed, "random weights"))
    found = align(network, hypothesis("both relations"), 1, cell.width // 2, cell.seed, effort)
    return Result(facts={**found, "seconds": time.process_time() - started})


def _seconds(width: int, effort: Effort) -> float:
    """Of one fit with its scores, from the time of one step and of three."""
    times = []
    for steps in (1, 3):
        few = replace(effort, steps=steps, random_subspaces=1)
        times.append(_compute(RandomNetworkCell(width, 0), few).facts["seconds"])
    return times[0] + effort.steps * (times[1] - times[0]) / 2
