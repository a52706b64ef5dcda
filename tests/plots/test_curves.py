"""Lines: the points are the table's, bands are its intervals, gaps stay gaps, and every group is told apart."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from causal_reft.errors import DataError
from causal_reft.plots import curves_with_intervals, iia_against_rank, panel_grid, points_with_intervals


def band(collection) -> tuple[float, float]:
    """Lowest and highest y of a band."""
    y = collection.get_paths()[0].vertices[:, 1]
    return float(y.min()), float(y.max())


def test_each_group_is_a_line_with_its_band(texts):
    table = pd.DataFrame({"t": [2, 1, 1, 2], "who": ["a", "a", "b", "b"], "ms": [4.0, 2.0, 1.0, 3.0]})
    table = table.assign(ms_low=table["ms"] - 0.5, ms_high=table["ms"] + 0.5)
    ax = curves_with_intervals(table, "t", "ms", "who")
    assert {line.get_label(): line.get_xydata().tolist() for line in ax.lines} == {
        "a": [[1, 2], [2, 4]],
        "b": [[1, 1], [2, 3]],
    }
    assert [band(collection) for collection in ax.collections] == [(1.5, 4.5), (0.5, 3.5)]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    assert ax.get_legend().get_title().get_text() == "who" and "band: interval" in texts(ax)


def test_a_missing_point_is_a_gap():
    ax = curves_with_intervals(pd.DataFrame({"x": [0, 1, 2], "y": [1.0, np.inf, 3.0]}), "x", "y")
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [1.0, np.nan, 3.0])


def test_a_missing_x_has_no_place():
    with pytest.raises(DataError, match=r"dropna\(subset=\['x'\]\)"):
        curves_with_intervals(pd.DataFrame({"x": [0, np.nan], "y": [1.0, 2.0]}), "x", "y")


def test_text_on_x_is_drawn_at_equal_steps_in_the_order_of_the_table():
    ax = curves_with_intervals(pd.DataFrame({"position": ["name", "last"], "iia": [0.9, 0.5]}), "position", "iia")
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["name", "last"]
    assert ax.lines[0].get_xdata().tolist() == [0, 1]


def test_logarithmic_axes_show_what_was_measured():
    ax = curves_with_intervals(pd.DataFrame({"T": [16, 64, 256], "ms": [1.0, 4.0, 16.0]}), "T", "ms", log="xy")
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["16", "64", "256"]


def test_28_groups_look_different():
    table = pd.DataFrame({"x": [0, 1] * 28, "y": 0.5, "g": np.repeat(np.arange(28), 2)})
    ax = curves_with_intervals(table, "x", "y", "g")
    assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in ax.lines}) == 28


def test_the_band_of_the_controls_spans_groups_and_intervals(texts):
    rows = [(r, g, 0.9, *((0.5, 0.4, 0.6) if g == "a" else (0.6, 0.5, 0.7))) for r in (1, 2, 8) for g in "ab"]
    table = pd.DataFrame(rows, columns=["rank", "layer", "iia", "control", "control_low", "control_high"])
    ax = iia_against_rank(table, group="layer")
    assert [line.get_label() for line in ax.lines] == ["best control", "a", "b"]
    assert ax.lines[0].get_ydata().tolist() == [0.6, 0.6, 0.6]
    assert band(ax.collections[0]) == (0.4, 0.7)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "2", "8"] and ax.get_xscale() == "log"


def test_ranks_must_be_numbers():
    with pytest.raises(DataError, match="'rank' must hold numbers"):
        iia_against_rank(pd.DataFrame({"rank": ["one"], "iia": [0.9]}))


def test_a_panel_for_each_length_a_line_for_each_text():
    rows = [
        (n, layer, t, s, n / 1000 + layer / 100 + s / 10)
        for n in (256, 128, 512)
        for layer in (0, 1)
        for t in ("book", "random")
        for s in (0, 1)
    ]
    table = pd.DataFrame(rows, columns=["n", "layer", "text", "seed", "recovery"])
    axes = panel_grid(table, columns=2)
    figure = axes[0].figure
    assert [ax.get_title(loc="left") for ax in axes] == ["n = 128", "n = 256", "n = 512"]
    assert [len(ax.lines) for ax in axes] == [2, 2, 2]
    np.testing.assert_allclose(axes[1].lines[0].get_ydata(), [0.306, 0.316])
    np.testing.assert_allclose(band(axes[1].collections[0]), (0.256, 0.366))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["book", "random"]
    assert "mean and range (band) of 2 rows" in figure.get_supxlabel()
    assert len(figure.axes) == 4 and not figure.axes[3].get_visible()


def test_a_failing_call_opens_no_figure():
    for call in (
        lambda t: curves_with_intervals(t, "x", "y"),
        lambda t: iia_against_rank(t),
        lambda t: panel_grid(t),
        lambda t: panel_grid(t.assign(n=1, layer=0, recovery=0.5)),
    ):
        with pytest.raises(DataError, match="needs a column"):
            call(pd.DataFrame({"z": [1.0]}))
    assert plt.get_fignums() == []


@example([(0, 0.0, name) for name in ("$", "_hidden", "", "a" * 60, "b")])
@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(st.integers(-3, 3), st.floats(width=32), st.sampled_from(["$", "_hidden", "", "a" * 60, "b"])),
        min_size=1,
        max_size=15,
    )
)
def test_odd_tables_draw(rows):
    plt.close("all")
    table = pd.DataFrame(rows, columns=["x", "y", "group"])
    ax = curves_with_intervals(table, "x", "y", "group")
    ax.figure.canvas.draw()
    assert len(ax.lines) == len(ax.get_legend().get_texts()) == table["group"].nunique()


def test_points_by_their_own_name_stand_at_equal_steps_without_a_legend():
    table = pd.DataFrame({"rank": [4, 1], "score": [0.5, 0.6], "score_low": [0.4, 0.5], "score_high": [0.6, 0.7]})
    ax = points_with_intervals(table, "rank", "score", "rank")
    ax.figure.canvas.draw()
    assert [text.get_text() for text in ax.get_xticklabels()] == ["4", "1"] and ax.get_legend() is None
    assert [float(bars[0].get_ydata()[0]) for bars in ax.containers] == [0.5, 0.6]
