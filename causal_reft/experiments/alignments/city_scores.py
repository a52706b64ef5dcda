"""What methods score on RAVEL's cities: means over seeds, what separates from the controls, in words and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from causal_reft.alignment.metrics import Means
from causal_reft.alignment.statistics import holm, separation
from causal_reft.causal import CAUSE, ISOLATE, row_kinds, scored_rows
from causal_reft.display import counted
from causal_reft.experiments.alignments.city_rows import Setting

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCORES = ("cause", "isolate", "disentangle")
RANDOM, WHOLE, PCA = "random subspace", "whole vector", "PCA of differences"
CONTROLS, ALPHA = (RANDOM, PCA), 0.05


def over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, and the lowest and highest disentangle of a seed."""
    grouped = table.groupby(["layer", "method"], sort=False)
    reach = grouped["disentangle"].agg(lowest="min", highest="max", seeds="size")
    return grouped[list(SCORES)].mean().join(reach).reset_index()


def separations(setting: Setting, right: Mapping[tuple[int, str], Sequence[np.ndarray]]) -> pd.DataFrame:
    """For each layer and method how far its disentangle is above the best control's: no edit, random subspaces, PCA.

    `separation` with its 95 % interval, and p corrected for all methods of all layers (Holm); rows are pairs of a base
    and a source prompt, which share cities.

    Args:
        setting: whose test rows were scored.
        right: for each layer and method what is right, "rows" of each seed.
    """
    data, model = setting.test, setting.task.causal_model
    kinds, weights = scored_rows(data, model)
    source = data.sources[setting.attribute]["entity"]
    pairs = data.base["entity"] + " / " + source + " / " + data.base["wording"].astype(str)
    clusters = {"pair": pairs.to_numpy(), "base": data.base["entity"].to_numpy(), "source": source.to_numpy()}
    codes = {name: pd.factorize(labels)[0] for name, labels in clusters.items()}
    rows = []
    for (layer, method), scores in right.items():
        if method in CONTROLS:
            continue
        controls = {"no edit": (kinds == ISOLATE)[None].astype(float)}
        controls |= {name: np.stack(right[layer, name]).astype(float) for name in CONTROLS}
        found = separation(np.stack(scores), controls, codes, means=Means.of("disentangle", kinds, weights))
        interval = {"separation": found.value, "separation_low": found.low, "separation_high": found.high}
        rows.append({"layer": layer, "method": method, "best_control": found.best_control, **interval, "p": found.p})
    table = pd.DataFrame(rows)
    return table.drop(columns="p").assign(p_corrected=holm(table["p"].to_numpy()))


def counted_rows(setting: Setting) -> str:
    """How many rows each score is over, and of how many prompts."""
    kinds, wordings = row_kinds(setting.test, setting.task.causal_model), setting.test.base["wording"]
    of = {"Cause": wordings[kinds == CAUSE], "Isolate": wordings[kinds == ISOLATE]}
    parts = (f"{name} over {counted(len(x), 'row')} of {counted(x.nunique(), 'prompt')}" for name, x in of.items())
    return f"Scored: {', '.join(parts)}. Both cities of every row are cities about which the model answers its prompt."


def headline(found: pd.DataFrame) -> str:
    """The best method and layer, and which of all separate from their best control."""
    best = found.loc[found["disentangle"].idxmax()]
    apart = (found["p_corrected"] < ALPHA) & (found["separation_low"] > 0)
    compared = found["separation"].notna()
    names = found["method"] + " at block " + found["layer"].astype(str)
    same = found[found["layer"] == best["layer"]].set_index("method")["disentangle"]
    return (
        f"Highest Disentangle, on the rows that are reported: {best['method']} at block {best['layer']}, "
        f"{best['disentangle']:.3f} (Cause {best['cause']:.3f}, Isolate {best['isolate']:.3f}). There the whole vector "
        f"has {same[WHOLE]:.3f}, a random subspace {same[RANDOM]:.3f}: an edit that changes "
        f"nothing has 0.5. By Disentangle {_listed(names[apart])} separate from the best control (no edit, random "
        f"subspaces, principal directions; p corrected for all, alpha {ALPHA}), {_listed(names[compared & ~apart])} do "
        "not. Lowest and highest are of seeds; the intervals of the separation are over other rows and seeds."
    )


def figure(part: pd.DataFrame) -> Axes:
    """The scores of the methods at one layer."""
    from causal_reft.plots import behaviour_table

    long = part.melt(["method"], list(SCORES), "score", "value")
    return behaviour_table(long, subset="method", behaviour="score", title="Cause, Isolate and Disentangle")


def _listed(names: pd.Series) -> str:
    return ", ".join(names) or "none"
