"""Scores of single examples: exact match, log-odds, logit difference and KL to the target run; all "rows" of float64.

    iia               1 where every token of the expected answer is the argmax over the *full* vocabulary, else 0
    (where the
                      encoding names choices: the argmax of these)
    log_odds          log p / (1 - p) of the whole expected answer, p = the product over its tokens
    logit_difference  logit of the expected answer - logit of the answer without the interchange, at the first token in
                      which they differ; nan where the interchange changes nothing
    kl                KL(target run || patched run) in nats, mean over the answer's tokens; the target run is the
                      network's own run on a setting that gives the expected answer without any interchange (nan: none)

`cause` is iia over rows in which the interchange changes the answer, `isolate` over rows in which it must not although
the source's own answer is another one; `disentangle` is the mean of the two (after RAVEL; Huang et al. 2024, whose own
choice of rows and averages are in `tasks.ravel_scores`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from causal_reft.causal import CounterfactualDataset
from causal_reft.causal.counterfactuals import TEXT
from causal_reft.errors import DataError
from causal_reft.execution import TargetLogits
from causal_reft.tensors import Tensor

METRICS = ("iia", "log_odds", "logit_difference", "kl")
CAUSE, ISOLATE, NEUTRAL = "cause", "isolate", "neutral"


def row_metrics(
    scored: TargetLogits,
    n_rows: int,
    base_answers: Sequence[tuple[int, int] | None],
    choices: Sequence[tuple[int, ...]] | None = None,
) -> dict[str, np.ndarray]:
    """`iia`, `log_odds` and `logit_difference` of one batch; `choices` has the tokens of each row's choices.

    Raises:
        DataError: labels that are numbers and no classes.
    """
    if scored.targets.is_floating_point():
        raise DataError(f"The labels are numbers ({scored.targets.dtype}), and {', '.join(METRICS)} are of classes.")
    logits, rows = scored.logits.double(), scored.reads.rows.to(scored.logits.device)
    log_p = logits.log_softmax(-1).gather(1, scored.targets[:, None])[:, 0]
    wrong = (_answered(logits, choices) != scored.targets).double()
    total = logits.new_zeros(n_rows).index_add(0, rows, log_p)
    right = (logits.new_zeros(n_rows).index_add(0, rows, wrong) == 0).double()
    return {
        "iia": right.cpu().numpy(),
        "log_odds": log_odds(total).cpu().numpy(),
        "logit_difference": _logit_difference(logits, scored, n_rows, base_answers),
    }


def _answered(logits: Tensor, choices: Sequence[tuple[int, ...]] | None) -> Tensor:
    """The token that the network prefers, of all or of each row's choices."""
    if choices is None:
        return logits.argmax(-1)
    tokens = torch.tensor(choices, device=logits.device)
    return tokens.gather(1, logits.gather(1, tokens).argmax(-1, keepdim=True))[:, 0]


def log_odds(log_p: Tensor) -> Tensor:
    """log p / (1 - p) from log p, exact at both ends; a p that rounds to 1 counts as 1 - 1e-16."""
    log_p = log_p.clamp(max=-1e-16)
    return log_p - torch.log(-torch.expm1(log_p))


def row_kl(patched: TargetLogits, target: TargetLogits, n_rows: int) -> np.ndarray:
    """`kl` of the rows of one batch; both must read the same tokens of the same rows."""
    p, q = target.logits.double().log_softmax(-1), patched.logits.double().log_softmax(-1)
    return patched.per_row((p.exp() * (p - q)).sum(-1), n_rows).cpu().numpy()


def _logit_difference(
    logits: Tensor, scored: TargetLogits, n_rows: int, base_answers: Sequence[tuple[int, int] | None]
) -> np.ndarray:
    first = torch.searchsorted(scored.reads.rows, torch.arange(n_rows))
    found = np.full(n_rows, np.nan)
    compared = [
        (row, int(first[row]) + base_answer[0], base_answer[1])
        for row, base_answer in enumerate(base_answers)
        if base_answer is not None
    ]
    if compared:
        at, reads, tokens = map(list, zip(*compared, strict=True))
        expected = logits[reads, scored.targets[reads]]
        found[at] = (expected - logits[reads, tokens]).cpu().numpy()
    return found


def row_kinds(data: CounterfactualDataset) -> np.ndarray:
    """What each row asks for: "cause", "isolate", or "neutral" (base, source and expected answer agree)."""
    expected, base = _outputs(data.labels, data.labels), _outputs(data.base, data.labels)
    others = [_outputs(frame, data.labels) for run, frame in data.runs.items() if run != "base"]
    changed = _differ(expected, base)
    elsewhere = np.logical_or.reduce([_differ(expected, other) for other in others])
    return np.where(changed, CAUSE, np.where(elsewhere, ISOLATE, NEUTRAL))


def summary(values: Mapping[str, np.ndarray], kinds: np.ndarray) -> dict[str, float]:
    """Means over rows (nan rows left out), and cause, isolate and disentangle; nan where there is no such row."""
    means = {name: _mean(rows) for name, rows in values.items()}
    cause, isolate = (_mean(values["iia"][kinds == kind]) for kind in (CAUSE, ISOLATE))
    return means | {"cause": cause, "isolate": isolate, "disentangle": (cause + isolate) / 2}


def _mean(values: np.ndarray) -> float:
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else float("nan")


def _outputs(frame: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    return frame[[name for name in labels if name != TEXT and name in frame]]


def _differ(one: pd.DataFrame, two: pd.DataFrame) -> np.ndarray:
    shared = [name for name in one if name in two]
    return np.logical_or.reduce([one[name].to_numpy() != two[name].to_numpy() for name in shared])
