"""Token strips in both forms, and the bars of benchmarks."""

from __future__ import annotations

import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from causal_reft.errors import DataError
from causal_reft.plots import ratio_bars, token_strip, token_strip_html


def boxes(ax) -> list[Rectangle]:
    return [patch for patch in ax.patches if isinstance(patch, Rectangle)]


def test_tokens_stand_in_order_on_the_colour_of_their_number(texts):
    table = pd.DataFrame({"token": ["Once", " upon", " $a$", "\n", " time"], "z": [-2.0, 0.0, 2.0, np.nan, 1.0]})
    ax = token_strip(table)
    assert texts(ax)[:5] == ["Once", "·upon", "·$a$", "↵", "·time"]
    colours = colormaps["RdBu_r"]
    expected = [colours(0.0), colours(0.5), colours(1.0), colours(0.75)]
    shown = [box.get_facecolor() for i, box in enumerate(boxes(ax)) if i != 3]
    np.testing.assert_allclose(shown, expected, atol=0.01)
    assert to_hex(boxes(ax)[3].get_facecolor()) == "#eeeeee" and "grey: no number" in texts(ax)


def test_lines_wrap_and_a_newline_ends_one():
    table = pd.DataFrame({"token": ["aaaa", "bbbb", "cc", "\n", "dd"], "z": 1.0})
    places = [(round(box.get_x()), int(box.get_y())) for box in boxes(token_strip(table, characters=9))]
    assert places == [(0, 0), (4, 0), (0, 1), (2, 1), (0, 2)]


def test_each_row_is_a_strip_of_its_own(texts):
    table = pd.DataFrame({"token": ["a", "b"] * 2, "z": [1.0, -1.0, 0.5, 0.0], "c": ["z0", "z0", "z1", "z1"]})
    ax = token_strip(table, row="c")
    assert texts(ax) == ["a", "b", "a", "b", "z0", "z1"]
    assert [int(box.get_y()) for box in boxes(ax)] == [0, 0, 1, 1]


def test_html_escapes_and_tells_every_number():
    page = token_strip_html(pd.DataFrame({"token": ["<b>", "&"], "z": [0.25, -1.0]}), limit=1)
    assert "&lt;b&gt;" in page and "&amp;" in page and "<b>" not in page
    assert re.findall(r"title='([^']*)'", page) == ["0.25", "-1.00"]
    assert page._repr_html_() == page
    assert re.findall(r"background:(#\w+)", page)[1] == to_hex(colormaps["RdBu_r"](0.0))


@pytest.mark.parametrize("draw", [token_strip, token_strip_html])
def test_strip_errors(draw):
    table = pd.DataFrame({"token": ["a"], "z": [1.0]})
    with pytest.raises(DataError, match="needs a column 'w' for value="):
        draw(table, value="w")
    with pytest.raises(DataError, match="must be positive"):
        draw(table, limit=0)
    assert plt.get_fignums() == []


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(max_codepoint=0x17F, categories=["L", "N", "P", "S", "Zs"]), max_size=100),
            st.floats(width=32),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_odd_tokens_draw(rows):
    plt.close("all")
    table = pd.DataFrame(rows, columns=["token", "z"])
    ax = token_strip(table)
    ax.figure.canvas.draw()
    assert len(boxes(ax)) == len(rows)
    assert token_strip_html(table).count("<span") == len(rows)


@pytest.fixture
def ratios() -> pd.DataFrame:
    """A gain, a loss, and an unknown number of FLOPs."""
    return pd.DataFrame({"name": ["sweep", "generation"], "time_ratio": [67.0, 0.5], "flop_ratio": [125.0, np.nan]})


def test_bars_start_at_one_and_carry_their_number(ratios, texts):
    ax = ratio_bars(ratios)
    time, flops = ax.containers
    assert [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in time] == [(1, 67), (1, 0.5)]
    assert flops[0].get_x() + flops[0].get_width() == 125
    assert {"×67", "×0.5", "×125", "unknown"} <= set(texts(ax))
    assert ax.get_xscale() == "log"
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["sweep", "generation"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first row on top


def test_intervals_and_aims_are_drawn(ratios):
    ax = ratio_bars(ratios.assign(time_ratio_low=[60.0, 0.4], time_ratio_high=[70.0, 0.6], target=[50.0, 1.0]))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["time", "FLOPs", "aim (time)"]
    ends = [
        segment[:, 0].tolist() for c in ax.collections for segment in c.get_segments() if segment[0, 1] == segment[1, 1]
    ]
    np.testing.assert_allclose(ends, [[60, 70], [0.4, 0.6]])


@pytest.mark.parametrize(
    ("change", "letter"),
    [
        ({"time_ratio": [0.0, 1.0]}, "a ratio of times or FLOPs is positive"),
        ({"name": ["a", "a"]}, r"groupby\('name', as_index=False\)"),
        ({"flop_ratio": ["many", "few"]}, "must hold numbers"),
    ],
)
def test_bar_errors(ratios, change, letter):
    with pytest.raises(DataError, match=letter):
        ratio_bars(ratios.assign(**change))
    assert plt.get_fignums() == []


def test_named_intervals_must_be_there(ratios):
    with pytest.raises(DataError, match="needs a column 'a' for low="):
        ratio_bars(ratios, low="a", high="b")
