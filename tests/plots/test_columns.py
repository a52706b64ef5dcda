"""The letters about columns, the order of levels, and what a cell is when several rows fall on it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from causal_reft.errors import DataError
from causal_reft.plots.columns import cells, levels, require, require_numbers


def test_a_missing_column_is_named_with_what_there_is_and_the_line_to_type():
    with pytest.raises(DataError) as caught:
        require(pd.DataFrame({"ia": [1.0], "layer": [0]}), "site_heatmap", value="iia")
    letter = str(caught.value)
    assert "site_heatmap needs a column 'iia' for value=" in letter
    assert "Did you mean 'ia'?" in letter and "layer" in letter
    assert "site_heatmap(table, value='...')" in letter and "table.rename(columns={'...': 'iia'})" in letter


def test_an_empty_table_says_so():
    with pytest.raises(DataError, match="no rows"):
        require(pd.DataFrame({"iia": []}), "site_heatmap", value="iia")


def test_text_where_numbers_belong_shows_an_example_and_the_cure():
    with pytest.raises(DataError, match=r"e\.g\. 'high'.*pd\.to_numeric"):
        require_numbers(pd.DataFrame({"iia": ["high"]}), "f", "iia")


@pytest.mark.parametrize(
    ("column", "names"),
    [
        (pd.Series([3, 1, 2, 1]), ("1", "2", "3")),
        (pd.Series([0.5, 0.25]), ("0.25", "0.5")),
        (pd.Series(["name", "last", "name"]), ("name", "last")),
        (pd.Series(["b", None, "a"]), ("b", "a", "none")),
        (pd.Series([2.0, np.nan, 1.0]), ("1", "2", "none")),
        (pd.Series(pd.Categorical(["low", "high"], ["high", "middle", "low"])), ("high", "low")),
        (pd.Series(["last", -2, "last"]), ("last", "-2")),
    ],
)
def test_levels_keep_their_order_and_number_the_rows(column, names):
    found = levels(column)
    assert found.names == names
    assert [found.names[code] for code in found.codes] == [
        "none" if pd.isna(v) else f"{v:g}" if isinstance(v, float) else str(v) for v in column
    ]


def test_levels_can_be_alphabetical():
    assert levels(pd.Series(["b", "a"]), alphabetical=True).names == ("a", "b")


def test_one_row_a_cell_takes_the_intervals_of_the_table():
    table = pd.DataFrame({"x": [0, 1], "y": [0.2, 0.4], "y_low": [0.1, 0.3], "y_high": [0.3, 0.5]})
    made = cells(table, "f", {"x": levels(table["x"])}, "y")
    assert made.table[["value", "low", "high"]].to_numpy().tolist() == [[0.2, 0.1, 0.3], [0.4, 0.3, 0.5]]
    assert made.note == "intervals in brackets" and made.has_intervals


def test_several_rows_a_cell_become_mean_and_range_and_the_note_says_so():
    table = pd.DataFrame({"x": [0, 0, 0, 1, 1], "y": [0.1, 0.2, 0.6, 0.5, np.nan], "y_low": 0.0, "y_high": 1.0})
    made = cells(table, "f", {"x": levels(table["x"])}, "y")
    np.testing.assert_allclose(made.table[["value", "low", "high"]], [[0.3, 0.1, 0.6], [0.5, 0.5, 0.5]])
    assert made.note == "mean and [range] of 2 to 3 rows, 1 missing value left out"


def test_intervals_asked_for_by_name_are_refused_where_they_are_not_the_cell_s():
    table = pd.DataFrame({"x": [0, 0], "y": [0.1, 0.2], "a": 0.0, "b": 1.0})
    with pytest.raises(DataError, match="2 rows of the table fall on one cell"):
        cells(table, "f", {"x": levels(table["x"])}, "y", low="a", high="b")


def test_an_interval_has_two_ends():
    table = pd.DataFrame({"x": [0], "y": [0.1], "a": 0.0})
    with pytest.raises(DataError, match="Name both or neither"):
        cells(table, "f", {"x": levels(table["x"])}, "y", low="a")
