"""The demo's first part: networks that solve hierarchical equality, aligned by DAS, controls beside every score."""

from __future__ import annotations

import pandas as pd

from causal_reft.experiments.equality import TRAINED, Effort, alignment_distribution, summary
from causal_reft.experiments.page import Page

RANK = 8
HYPOTHESES = ("both relations", "identity of first argument")


def show_equality(page: Page, n_networks: int = 3, n_das_seeds: int = 2, seed: int = 0) -> pd.DataFrame:
    """Train networks, align two hypotheses with every layer, and show the distribution."""
    from causal_reft.plots import curves_with_intervals

    page.heading("Does a network compute the variables that we think it computes?")
    page.text(
        "The task: are w = x and y = z the same? Each network is asked where it holds both relations (a true "
        "hypothesis), and where it holds which vector w is (a false one). Interchange intervention accuracy (IIA) is "
        "how often the network, with the found subspace swapped in from another input, answers as the hypothesis says; "
        "guessing is right half of the time."
    )
    seeds = range(seed, seed + n_networks), range(seed, seed + n_das_seeds)
    effort = Effort(train_rows=16_000, batch_size=512, steps=200, random_subspaces=20)
    table = alignment_distribution(*seeds, page.folder / "equality", HYPOTHESES, ranks=(RANK,), effort=effort)
    found = summary(table)
    page.table("equality", found)
    trained = found[found["weights"] == TRAINED].copy()
    half = 1.96 * trained["sd_over_networks"] / trained["networks"] ** 0.5
    trained["iia_low"], trained["iia_high"] = trained["iia"] - half, (trained["iia"] + half).clip(upper=1)
    title = f"Alignment by layer, {n_networks} networks x {n_das_seeds} DAS seeds, k = {RANK}"
    ax = curves_with_intervals(trained, x="layer", y="iia", group="hypothesis", title=title)
    ax.axhline(trained["random_subspaces_95"].max(), color="0.6", linestyle=":", linewidth=1)
    page.figure(
        "equality",
        ax,
        "IIA by layer and hypothesis, 95 % intervals over networks; dotted: the best 5 % of random subspaces.",
    )
    return table
