"""Heat maps: every cell shows its table's numbers, and says what it is not separated from."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.patches import Rectangle

from causal_reft.errors import DataError
from causal_reft.plots import angle_matrix, behaviour_table, site_heatmap


def marks(ax, gid: str) -> list[tuple[float, float]]:
    """Column and row of the cells with this mark."""
    return [(p.get_x() + 0.5, p.get_y() + 0.5) for p in ax.patches if isinstance(p, Rectangle) and p.get_gid() == gid]


def test_cells_hold_the_numbers_of_the_table_layer_zero_at_the_bottom(study):
    ax = site_heatmap(study)
    shown = ax.images[0].get_array()
    np.testing.assert_array_equal(shown, [[0.73, 0.996], [0.91, 0.52]])
    assert [t.get_text() for t in ax.get_yticklabels()] == ["1", "0"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["name", "last"]
    assert ax.images[0].get_clim() == (0.0, 1.0)


def test_each_cell_tells_number_interval_and_control(study, texts):
    said = texts(site_heatmap(study))
    for number, small in {
        "0.91": "[0.88, 0.94]\nctrl 0.51",
        "0.52": "[0.48, 0.56]\nctrl 0.55",
        "0.73": "[0.70, 0.76]\nctrl 0.50",
        "0.996": "[0.99, 0.999]\nctrl 0.49",
    }.items():
        assert said[said.index(number) + 1] == small


def test_the_best_is_framed_the_unseparated_hatched_and_both_are_said(study, texts):
    ax = site_heatmap(study)
    assert marks(ax, "best") == [(1.0, 0.0)]
    assert marks(ax, "not separated") == [(1.0, 1.0)]
    assert ax.get_title(loc="left") == "IIA: best 0.996 at layer 1, position last"
    assert "intervals in brackets · ctrl: best control · hatched: not above its control" in texts(ax)


def test_ties_are_all_framed(study):
    ax = site_heatmap(study.assign(iia=[0.9, 0.5, 0.9, 0.6]).drop(columns="control"))
    assert len(marks(ax, "best")) == 2 and ax.get_title(loc="left").endswith("best 0.90 at 2 sites")
    assert not marks(ax, "not separated")


def test_without_an_interval_the_value_itself_must_beat_the_control(study):
    ax = site_heatmap(study.drop(columns=["iia_low", "iia_high"]).assign(control=[0.9, 0.6, 0.73, 0.1]))
    assert sorted(marks(ax, "not separated")) == [(0.0, 0.0), (1.0, 1.0)]


def test_a_separation_is_compared_with_zero_and_not_with_the_controls_score(study, texts):
    table = study.assign(separation=[0.4, -0.03, 0.2, 0.5], separation_low=[0.3, -0.1, -0.01, 0.4])
    ax = site_heatmap(table.assign(separation_high=0.9), value="separation")
    assert sorted(marks(ax, "not separated")) == [(0.0, 0.0), (1.0, 1.0)]
    said = texts(ax)
    assert not any("ctrl" in text for text in said) and any("hatched: not above zero" in text for text in said)


def test_a_logit_difference_has_no_control_of_another_kind_beside_it(study, texts):
    ax = site_heatmap(study.assign(logit_difference=[1.0, -2.0, 3.0, 0.2]), value="logit_difference")
    assert not any("ctrl" in text for text in texts(ax)) and not marks(ax, "not separated")


def test_the_tables_own_rule_hatches_and_its_chosen_cell_is_framed(study, texts):
    table = study.assign(separated=[True, False, True, False], chosen=[True, False, False, False])
    ax = site_heatmap(table.assign(variable="gender", model="Llama"))
    assert sorted(marks(ax, "not separated")) == [(1.0, 0.0), (1.0, 1.0)]
    assert marks(ax, "best") == [(0.0, 1.0)], "not the highest"
    title = ax.get_title(loc="left").replace("\n", " ")
    assert title == "IIA of gender in Llama: chosen 0.91 at layer 0, position name"
    assert any("does not separate" in text.replace("\n", " ") for text in texts(ax))


def test_components_and_heads_of_a_layer_have_a_row_each_with_their_name():
    sites = ["block_output.0", "attention_output.0", "head_output.0.1", "head_output.0.2"]
    table = pd.DataFrame({"layer": 0, "positions": "last", "site": sites, "iia": [0.1, 0.2, 0.3, 0.4]})
    ax = site_heatmap(table)
    assert [t.get_text() for t in ax.get_yticklabels()] == sites[::-1]
    np.testing.assert_array_equal(ax.images[0].get_array()[:, 0], [0.4, 0.3, 0.2, 0.1])


def test_seeds_are_averaged_and_the_figure_says_so(texts):
    table = pd.DataFrame({"layer": 0, "positions": "last", "iia": [0.2, 0.4, 0.9]})
    ax = site_heatmap(table)
    assert {"mean and [range] of 3 rows", "0.50", "[0.20, 0.90]"} <= set(texts(ax))


def test_a_missing_site_is_grey_and_not_zero(study, texts):
    ax = site_heatmap(study.iloc[1:])
    assert ax.images[0].get_array().mask.sum() == 1
    assert "–" in texts(ax)
    assert ax.images[0].cmap(np.ma.masked)[:3] == pytest.approx((0.933, 0.933, 0.933), abs=0.01)


def test_too_many_cells_leave_the_small_lines_out_and_say_so(texts):
    rows = [
        {"layer": y, "positions": x, "iia": 0.5, "iia_low": 0.4, "iia_high": 0.6} for x in range(40) for y in range(2)
    ]
    said = texts(site_heatmap(pd.DataFrame(rows)))
    assert any("not shown: too many cells" in text for text in said) and "[0.40, 0.60]" not in said


def test_given_axes_are_drawn_on_and_no_figure_is_left(study):
    figure, ax = plt.subplots()
    assert site_heatmap(study, ax=ax) is ax
    assert plt.get_fignums() == [figure.number]


def test_a_failing_call_opens_no_figure(study):
    with pytest.raises(DataError, match="for value="):
        site_heatmap(study, value="score")
    with pytest.raises(DataError, match="for control="):
        site_heatmap(study, control="random")
    assert plt.get_fignums() == []


def test_behaviours_keep_the_order_of_the_table(texts):
    rows = [
        {"subset": s, "behaviour": b, "value": v, "value_low": v - 0.01, "value_high": v + 0.01}
        for s, values in {"none": (0.01, 0.02), "german": (0.98, 0.03), "german + instruct": (0.97, 0.85)}.items()
        for b, v in zip(["in German", "answered"], values, strict=True)
    ]
    ax = behaviour_table(pd.DataFrame(rows))
    np.testing.assert_array_equal(ax.images[0].get_array(), [[0.01, 0.02], [0.98, 0.03], [0.97, 0.85]])
    assert [t.get_text() for t in ax.get_yticklabels()] == ["none", "german", "german + instruct"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["in German", "answered"]
    assert {"0.85", "[0.84, 0.86]"} <= set(texts(ax))


def test_angles_are_averaged_and_mirrored(texts):
    table = pd.DataFrame({"one": ["a", "a", "a", "b"], "two": ["b", "b", "c", "c"], "angle": [10.0, 30.0, 60.0, 40.0]})
    ax = angle_matrix(table, random=81.0)
    shown = ax.images[0].get_array()
    assert shown[0, 1] == shown[1, 0] == 20 and shown[0, 2] == shown[2, 0] == 60
    assert shown[1, 2] == shown[2, 1] == 40 and shown.mask.sum() == 3  # the diagonal
    assert ax.get_title(loc="left") == "Mean principal angles of 20.0° to 60.0°"
    assert "mean and [range] of 1 to 2 angles · black line: random subspaces, 81.0°" in texts(ax)
    assert ax.images[0].get_clim() == (0, 90)


def test_two_families_of_subspaces_stay_a_rectangle():
    table = pd.DataFrame({"one": ["s0", "s1"] * 3, "two": ["pca", "pca", "das", "das", "mdas", "mdas"], "angle": 45.0})
    assert angle_matrix(table).images[0].get_array().shape == (2, 3)


def test_radians_mistaken_for_something_else_are_refused():
    with pytest.raises(DataError, match="between 0 and 90 degrees"):
        angle_matrix(pd.DataFrame({"one": ["a"], "two": ["b"], "angle": [100.0]}))


odd_numbers = st.floats(allow_nan=True, allow_infinity=True, width=32)


@settings(max_examples=10)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(["a", "$x$", "_", "", "ü\n"]), odd_numbers, odd_numbers),
        min_size=1,
        max_size=12,
    )
)
def test_odd_tables_draw(rows):
    plt.close("all")
    table = pd.DataFrame(rows, columns=["layer", "positions", "iia", "control"])
    ax = site_heatmap(table)
    ax.figure.canvas.draw()
    assert ax.images[0].get_array().shape == (table["layer"].nunique(), table["positions"].nunique())
