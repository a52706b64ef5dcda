"""Training curves: what `History` records is what is drawn, and a loss that was not finite is said."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from causal_reft import History
from causal_reft.errors import DataError
from causal_reft.plots import training_curve


def test_a_history_plots_itself():
    ax = History(steps=[{"step": 0.0, "loss": 0.7}, {"step": 1.0, "loss": 0.3}]).plot()
    assert ax.lines[0].get_xydata().tolist() == [[0, 0.7], [1, 0.3]]
    assert ax.get_title(loc="left") == "Training: loss 0.70 to 0.30 in 2 steps"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("training step", "loss (nats)")


def test_an_untrained_history_says_so():
    with pytest.raises(DataError, match="nothing has been trained"):
        History().plot()
    assert plt.get_fignums() == []


def test_validation_loss_and_score_are_drawn_where_they_were_measured():
    table = pd.DataFrame(
        {
            "step": range(4),
            "loss": [0.4, 0.3, 0.2, 0.1],
            "validation_loss": [np.nan, 0.35, np.nan, 0.2],
            "iia": [np.nan, 0.6, np.nan, 0.9],
        }
    )
    ax = training_curve(table)
    right = next(other for other in ax.figure.axes if other is not ax)
    assert [line.get_label() for line in ax.lines] == ["loss", "validation loss"]
    assert ax.lines[1].get_xydata().tolist() == [[1, 0.35], [3, 0.2]]
    assert right.lines[0].get_xydata().tolist() == [[1, 0.6], [3, 0.9]]
    assert right.get_ylabel() == "IIA (share of pairs)" and right.get_ylim() == (-0.03, 1.03)


def test_long_runs_have_their_mean_on_top_and_large_falls_a_logarithm():
    ax = training_curve(pd.DataFrame({"step": range(200), "loss": np.geomspace(10, 0.01, 200)}))
    assert [line.get_label() for line in ax.lines] == ["loss", "loss (mean of 8 steps)"]
    assert ax.get_yscale() == "log"
    assert training_curve(pd.DataFrame({"step": [0, 1], "loss": [2.0, 1.0]})).get_yscale() == "linear"


def test_losses_that_are_not_finite_are_gaps_and_are_said(texts):
    ax = training_curve(pd.DataFrame({"step": range(4), "loss": [0.4, 0.3, np.inf, np.nan]}))
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [0.4, 0.3, np.nan, np.nan])
    assert "not finite (gaps): 2 of 4 losses, the first at step 2" in texts(ax)


def test_a_run_without_any_finite_loss_is_refused():
    with pytest.raises(DataError, match="none of 1 losses is finite"):
        training_curve(pd.DataFrame({"step": [0], "loss": [np.nan]}))


def test_a_missing_loss_column():
    with pytest.raises(DataError, match=r"needs a column 'loss' for loss=.*Did you mean 'los'"):
        training_curve(pd.DataFrame({"step": [0], "los": [1.0]}))
