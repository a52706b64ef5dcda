"""Random controls: counts, percentile and p value are those of the table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from causal_reft.errors import DataError
from causal_reft.plots import random_controls


def test_the_score_is_marked_with_its_percentile_and_p_value(texts):
    ax = random_controls(pd.DataFrame({"iia": [0.4, 0.5, 0.6, 0.7]}), 0.6, low=0.55, high=0.65)
    assert ax.get_title(loc="left") == "0.60 lies above 2 of 4 random subspaces"
    said = texts(ax)
    assert "this subspace 0.60\npercentile 50" in said
    assert "at least as high: p = 0.6, (1 + 2) / (1 + 4)" in said
    assert ax.lines[0].get_xdata() == [0.6, 0.6]
    span = ax.patches[-1]
    assert (span.get_x(), span.get_x() + span.get_width()) == pytest.approx((0.55, 0.65))


def test_every_control_is_in_the_histogram_and_missing_ones_are_said(texts):
    ax = random_controls(pd.DataFrame({"iia": [*np.linspace(0.3, 0.7, 99), np.nan]}), 1)
    assert sum(bar.get_height() for bar in ax.patches) == 99
    assert any("1 controls without a score left out" in text for text in texts(ax))


@pytest.mark.parametrize(
    ("arguments", "letter"),
    [
        ({"score": float("nan")}, "must be a finite number"),
        ({"score": 0.5, "low": 0.4}, "both ends"),
        ({"score": 0.5, "low": 0.6, "high": 0.4}, "both ends"),
        ({"score": 0.5, "value": "score"}, "needs a column 'score' for value="),
    ],
)
def test_errors(arguments, letter):
    with pytest.raises(DataError, match=letter):
        random_controls(pd.DataFrame({"iia": [0.5]}), **arguments)


def test_no_finite_control():
    with pytest.raises(DataError, match="no control has a finite score"):
        random_controls(pd.DataFrame({"iia": [np.nan]}), 0.5)


@settings(max_examples=20)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=10), st.floats(-1e6, 1e6))
def test_odd_scores_draw(scores, score):
    ax = random_controls(pd.DataFrame({"iia": scores}), score)
    ax.figure.canvas.draw()
    assert sum(bar.get_height() for bar in ax.patches) == len(scores)
    ax.figure.clear()
    import matplotlib.pyplot as plt

    plt.close(ax.figure)
