"""The columns of a study's tables, in their order, and what each of them means; the documentation prints them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

COLUMNS = {
    "variable": "what was interchanged",
    "layer": "layer of the site; missing for sites by path",
    "component": "component of the site",
    "positions": "positions of the site",
    "site": "the site's short name",
    "featurizer": "label of the featurizer",
    "rank": "coordinates that were written (what a hard mask left of them)",
    "seed": "of initialisation and data order (table only)",
    "seeds": "how many seeds (grid only)",
    "rows": "report rows that were scored",
    "clusters": "different base/source pairs among them: the units of chance",
    "iia": "interchange intervention accuracy: exact match over the full vocabulary",
    "iia_low": "lower end of its 95 % interval (over other rows; in the grid over other seeds too)",
    "iia_high": "upper end",
    "cause": "iia over rows whose answer the interchange changes",
    "cause_low": "lower end of its 95 % interval",
    "cause_high": "upper end",
    "isolate": "iia over rows whose answer it must leave although a leak would change it",
    "isolate_low": "lower end of its 95 % interval",
    "isolate_high": "upper end",
    "disentangle": "mean of cause and isolate",
    "disentangle_low": "lower end of its 95 % interval",
    "disentangle_high": "upper end",
    "log_odds": "mean log-odds of the expected answer",
    "logit_difference": "mean logit of the expected answer minus that of the answer without the interchange",
    "kl": "mean KL divergence from the target run, in nats",
    "metric": "what the study chooses and compares by (`Study(metric=...)`): the score in all columns that follow",
    "score_sd": "standard deviation of the score over seeds (grid only)",
    "selection": "score on the selection rows, by which `best` chooses",
    "no_edit": "score of the identity patch",
    "random_mean": "mean score of random subspaces of the same rank",
    "random_best": "score of the best of them",
    "random_percentile": "percentage of them that the score beats",
    "pca": "score of as many principal directions",
    "permuted": "score of fits to permuted labels, on permuted labels",
    "shuffled": "score of fits on networks with shuffled weights",
    "full_patch": "score of the whole vector: a reference, not a control",
    "whole_share": "cause of the whole vector as a share of the cause here; below .5 the subspace does more",
    "best_control": "name of the best control",
    "control": "score of the best control",
    "separation": "score minus control: the headline",
    "separation_low": "lower end of its 95 % interval",
    "separation_high": "upper end",
    "p": "one-sided paired p-value of the separation (grid: seeds too, their variance pooled over the cells)",
    "p_corrected": "the same corrected for all cells of the variable (Holm; grid only)",
    "seed_angle": "mean largest principal angle between the subspaces of two seeds, in degrees (grid only)",
    "warning": "why the interval may be too short; empty: no reason known (grid only)",
    "steps": "optimizer steps (table only)",
    "final_loss": "last training loss (table only)",
}

_NAMES = list(COLUMNS)
COMPARED = _NAMES[_NAMES.index("no_edit") : _NAMES.index("p") + 1]
PLACE = ("variable", "layer", "component", "positions", "site", "featurizer", "seed")


def ordered(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """A table with these rows, its columns in the order of `COLUMNS`."""
    table = pd.DataFrame(list(rows))
    return table[[name for name in COLUMNS if name in table]]
