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
a leak would be seen, `disentangle` the mean of the two (RAVEL; Huang et al. 2024); which rows these are and how they
are averaged says `causal.kinds`. On rows that the network solves the expected answer to the base is its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from causal_reft.causal import CAUSE, ISOLATE
from causal_reft.errors import DataError
from causal_reft.execution import TargetLogits
from causal_reft.tensors import Tensor

METRICS = ("iia", "log_odds", "logit_difference", "kl")
SHARES = ("iia", "cause", "isolate", "disentangle")
CHOSEN_BY = ("iia", "cause", "disentangle")


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


@dataclass(frozen=True, eq=False)
class Means:
    """A score as a mean of row scores: over all rows (`iia`), over rows of one kind, or the mean of two such means.

    Attributes:
        metric: one of `SHARES`.
        weights: for each part "rows", zero outside it; None for all rows alike.
    """

    metric: str
    weights: tuple[np.ndarray, ...] | None

    @staticmethod
    def of(metric: str, kinds: np.ndarray, weights: np.ndarray) -> Means:
        """The score with this name of rows of these kinds and weights (`causal.kinds`)."""
        parts = {"cause": (CAUSE,), "isolate": (ISOLATE,), "disentangle": (CAUSE, ISOLATE)}.get(metric)
        return Means(metric, None if parts is None else tuple(np.where(kinds == kind, weights, 0) for kind in parts))

    @property
    def is_known(self) -> bool:
        """Whether each part has a row."""
        return all(part.any() for part in self.weights or ())

    @property
    def rows(self) -> np.ndarray | slice:
        """The rows that count: a mask, or a slice of all."""
        return np.logical_or.reduce([part > 0 for part in self.weights]) if self.weights else np.s_[:]

    def value(self, scores: np.ndarray) -> np.ndarray:
        """The score of each series "... rows"; nan where a part has no row."""
        if not self.is_known:
            return np.full(scores.shape[:-1], np.nan)
        return np.asarray(np.mean([np.average(scores, -1, part) for part in self.weights or (None,)], axis=0))

    def contributions(self, scores: np.ndarray) -> np.ndarray:
        """What each row that counts adds, "... rows": the mean is the score, and deviations from it are how far each
        row moves it (its influence), so that what holds for a mean of rows holds for this one.
        """
        if self.weights is None:
            return scores
        means = [np.average(scores, -1, part)[..., None] for part in self.weights]
        pairs = zip(self.weights, means, strict=True)
        moved = np.mean([part * (scores - mean) for part, mean in pairs], axis=0)[..., self.rows]
        return np.mean(means, axis=0) + moved.shape[-1] * moved


def summary(values: Mapping[str, np.ndarray], kinds: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """Means over rows (nan rows left out), and cause, isolate and disentangle; nan where there is no such row."""
    means = {name: _mean(rows) for name, rows in values.items()}
    return means | {name: float(Means.of(name, kinds, weights).value(values["iia"])) for name in SHARES[1:]}


def shown(means: Mapping[str, float]) -> str:
    """Cause, isolate and disentangle in words."""
    missing = "not measured (the data has no such rows)"
    return ", ".join(f"{x} {missing if np.isnan(means[x]) else f'{means[x]:.3f}'}" for x in SHARES[1:])


def _mean(values: np.ndarray) -> float:
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else float("nan")
