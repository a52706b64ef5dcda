"""Metrics of single examples against few-line references, for answers of one and of several tokens."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from causal_reft.alignment.metrics import log_odds, row_kinds, row_kl, row_metrics, summary
from causal_reft.causal import CausalModel
from causal_reft.execution import TargetLogits, TargetPositions

LOGITS = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
ROWS = torch.tensor([0, 0, 1, 2, 2])


def scored(targets, logits=LOGITS, rows=ROWS):
    return TargetLogits(logits, TargetPositions(rows, torch.zeros_like(rows), torch.tensor(targets)))


def test_an_answer_of_several_tokens_is_right_only_as_a_whole():
    best = LOGITS.argmax(-1).tolist()
    wrong_once = [best[0], (best[1] + 1) % 7, *best[2:]]
    assert row_metrics(scored(best), 3, [None] * 3)["iia"].tolist() == [1, 1, 1]
    assert row_metrics(scored(wrong_once), 3, [None] * 3)["iia"].tolist() == [0, 1, 1]


def test_log_odds_are_those_of_the_whole_answer():
    found = row_metrics(scored([1, 2, 3, 4, 5]), 3, [None] * 3)["log_odds"]
    p = LOGITS.softmax(-1)
    expected = [p[0, 1] * p[1, 2], p[2, 3], p[3, 4] * p[4, 5]]
    assert found == pytest.approx([float(torch.log(x / (1 - x))) for x in expected])
    assert log_odds(torch.tensor([0.0], dtype=torch.float64)).isfinite().all()


def test_the_logit_difference_is_taken_where_the_answers_first_differ():
    found = row_metrics(scored([1, 2, 3, 4, 5]), 3, [(1, 6), None, (0, 2)])["logit_difference"]
    assert found[0] == pytest.approx(float(LOGITS[1, 2] - LOGITS[1, 6]))
    assert np.isnan(found[1])
    assert found[2] == pytest.approx(float(LOGITS[3, 4] - LOGITS[3, 2]))


def test_among_choices_only_these_compete():
    logits = torch.tensor([[9.0, 1.0, 2.0], [9.0, 3.0, 2.0]])
    pair = scored([2, 2], logits, torch.tensor([0, 1]))
    assert row_metrics(pair, 2, [None] * 2)["iia"].tolist() == [0, 0]
    assert row_metrics(pair, 2, [None] * 2, [(1, 2), (1, 2)])["iia"].tolist() == [1, 0]


def test_kl_is_from_the_target_run_to_the_patched_one():
    other = torch.randn(5, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = row_kl(scored([0] * 5, other), scored([0] * 5), 3)
    p, q = LOGITS.softmax(-1), other.softmax(-1)
    each = (p * (p / q).log()).sum(-1)
    assert found == pytest.approx([float(each[:2].mean()), float(each[2]), float(each[3:].mean())])
    assert row_kl(scored([0] * 5), scored([0] * 5), 3) == pytest.approx(np.zeros(3))


def test_kinds_say_what_a_row_asks_for():
    model = CausalModel(
        inputs={"x": range(3), "y": range(3), "asked": ("x", "y")},
        mechanisms={"answer": lambda x, y, asked: np.where(asked == "x", x, y)},
    )
    data = model.counterfactuals("x", None, 0, "exhaustive")
    kinds = row_kinds(data)
    expected, base, source = data.labels["answer"], data.base["answer"], data.sources["x"]["answer"]
    assert (kinds == "cause").tolist() == (expected != base).tolist()
    assert (kinds == "isolate").tolist() == ((expected == base) & (source != expected)).tolist()
    assert set(kinds[data.base["asked"] == "y"]) == {"isolate", "neutral"}


def test_disentangle_is_the_mean_of_cause_and_isolate():
    values = {"iia": np.array([1, 0, 1, 1, 0, 1.0])}
    found = summary(values, np.array(["cause", "cause", "isolate", "isolate", "isolate", "neutral"]))
    assert (found["cause"], found["isolate"]) == (0.5, 2 / 3)
    assert found["disentangle"] == (0.5 + 2 / 3) / 2
    assert np.isnan(summary(values, np.array(["cause"] * 6))["disentangle"])
    assert pd.isna(summary({"iia": np.ones(1), "kl": np.array([np.nan])}, np.array(["cause"]))["kl"])
