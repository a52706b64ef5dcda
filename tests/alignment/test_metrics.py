"""Metrics of single examples against few-line references, for answers of one and of several tokens."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from causal_reft.alignment.metrics import (
    CHOSEN_BY,
    METRICS,
    SHARES,
    Means,
    log_odds,
    row_kl,
    row_metrics,
    shown,
    summary,
)
from causal_reft.alignment.statistics import mean_interval
from causal_reft.causal import CausalModel, row_kinds, row_weights
from causal_reft.errors import DataError
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


def test_the_metrics_are_those_that_are_named_and_of_classes():
    found = row_metrics(scored([1, 2, 3, 4, 5]), 3, [None] * 3)
    assert (*found, "kl") == METRICS and set(CHOSEN_BY) < set(SHARES)
    with pytest.raises(DataError, match=r"labels are numbers \(torch.float32\), and iia, log_odds"):
        row_metrics(scored([1.0, 2.0, 3.0, 4.0, 5.0], LOGITS[:, :1]), 3, [None] * 3)


def test_scores_of_kinds_without_rows_are_said_to_be_not_measured():
    means = {"cause": 0.5, "isolate": np.nan, "disentangle": np.nan}
    missing = "not measured (the data has no such rows)"
    assert shown(means) == f"cause 0.500, isolate {missing}, disentangle {missing}"
    nothing = Means.of("isolate", KINDS[:2], WEIGHTS[:2])
    assert not nothing.is_known and np.isnan(nothing.value(np.ones((3, 2)))).tolist() == [True] * 3
    unknown = mean_interval(np.ones(2), np.arange(2), means=nothing)
    assert np.isnan([unknown.value, unknown.low, unknown.high]).all() and (unknown.rows, unknown.clusters) == (0, 0)
    assert Means.of("iia", KINDS, WEIGHTS).value(np.arange(6.0)) == 2.5
    assert Means.of("cause", KINDS, WEIGHTS).rows.tolist() == [True, True, False, False, False, False]


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
    kinds = row_kinds(data, model)
    changed = data.labels["answer"] != data.base["answer"]
    assert (kinds == "cause").tolist() == changed.tolist()
    assert set(kinds[data.base["asked"] == "y"]) == {"unscored"}, "x leaks nothing into y"


def test_a_row_isolates_where_the_base_about_the_sources_entity_has_another_answer():
    model = CausalModel(
        inputs={"entity": range(6), "asked": ("tens", "ones")},
        mechanisms={
            "tens": lambda entity: entity // 3,
            "ones": lambda entity: entity % 3,
            "answer": lambda tens, ones, asked: np.where(asked == "tens", tens, ones),
        },
    )
    data = model.counterfactuals("tens", None, 0, "exhaustive")
    base, source = data.base, data.sources["tens"]
    asks_ones, leaks = base["asked"] == "ones", base["ones"] != source["ones"]
    kinds = row_kinds(data, model)
    assert (kinds == "isolate").tolist() == (asks_ones & leaks).tolist()
    assert "isolate" not in row_kinds(data, None), "without the causal model no leak is known"


def test_rows_count_by_prompt_and_prompts_by_what_they_ask():
    kinds = np.array(["cause", "cause", "cause", "isolate", "unscored"])
    groups = pd.DataFrame({"asked": list("aabab"), "wording": [1, 2, 3, 1, 3]})
    assert row_weights(kinds, groups).tolist() == [0.25, 0.25, 0.5, 1, 0]
    assert row_weights(kinds, groups[[]]).tolist() == [1 / 3, 1 / 3, 1 / 3, 1, 0]


KINDS = np.array(["cause", "cause", "isolate", "isolate", "isolate", "unscored"])
WEIGHTS = row_weights(KINDS, pd.DataFrame(index=range(6)))


def test_disentangle_is_the_mean_of_cause_and_isolate():
    values = {"iia": np.array([1, 0, 1, 1, 0, 1.0])}
    found = summary(values, KINDS, WEIGHTS)
    assert (found["cause"], found["isolate"]) == (0.5, 2 / 3)
    assert found["disentangle"] == (0.5 + 2 / 3) / 2
    assert np.isnan(summary(values, np.array(["cause"] * 6), np.full(6, 1 / 6))["disentangle"])
    one = np.array(["cause"]), np.ones(1)
    assert pd.isna(summary({"iia": np.ones(1), "kl": np.array([np.nan])}, *one)["kl"])


def test_contributions_have_the_scores_mean_and_its_influence():
    means, scores = Means.of("disentangle", KINDS, WEIGHTS), np.array([1, 0, 1, 1, 0, 1.0])
    found = means.contributions(scores)
    assert found.mean() == pytest.approx(float(means.value(scores)))
    changed = scores + 0.01 * (np.arange(6) == 4)
    moved = float(means.value(changed) - means.value(scores)) / 0.01
    assert moved == pytest.approx(0.5 / 3) and (found[4] - found.mean()) / 5 == pytest.approx(moved * (0 - 2 / 3))
    uniform = mean_interval(scores[:2], np.arange(2), means=Means.of("cause", KINDS[:2], WEIGHTS[:2]))
    assert uniform == mean_interval(scores[:2], np.arange(2))
