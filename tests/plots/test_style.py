"""Numbers as text, text as it is, and a light import."""

from __future__ import annotations

import subprocess
import sys

import matplotlib as mpl
import pandas as pd
import pytest
from matplotlib.text import Text

from causal_reft import plots
from causal_reft.plots.style import label, number


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.50"),
        (1.0, "1.00"),
        (0.0, "0.00"),
        (0.996, "0.996"),
        (0.99996, "0.99996"),
        (0.003, "0.003"),
        (-0.25, "-0.25"),
        (45.25, "45.2"),
        (1234.5, "1,234"),
        (2e-5, "2.0e-05"),
        (3e9, "3.0e+09"),
        (float("nan"), "–"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_are_short_and_never_rounded_to_a_whole_that_they_are_not(value, text):
    assert number(value) == text


def test_axes_have_units_where_we_know_them():
    assert label("loss") == "loss (nats)" and label("my_score") == "my score"


def test_nothing_global_is_touched(study):
    before = dict(mpl.rcParams)
    plots.site_heatmap(study).figure.canvas.draw()
    assert dict(mpl.rcParams) == before


def test_dollars_in_a_table_are_dollars(study):
    ax = plots.site_heatmap(study.assign(positions=["$\\frac{$", "$b", "$\\frac{$", "$b"]))
    ax.figure.canvas.draw()
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["$\\frac{$", "$b"]


@pytest.mark.parametrize(
    ("imported", "absent"),
    [
        ("causal_reft", ["matplotlib", "torch"]),
        ("causal_reft; causal_reft.plots.site_heatmap", ["torch", "transformers", "matplotlib.pyplot"]),
    ],
)
def test_imports_are_light_and_plots_are_there_before_anything_imports_them(imported, absent):
    code = f"import sys, {imported}; assert not [name for name in {absent!r} if name in sys.modules]"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_long_title_ends_inside_of_the_figure():
    rows = [(layer, place, 0.5) for layer in (0, 14, 28) for place in ("subject", "last")]
    table = pd.DataFrame(rows, columns=["layer", "positions", "iia"])
    title = "IIA of number in LlamaForCausalLM: chosen 0.99 at layer 14, position subject"
    ax = plots.site_heatmap(table, title=title)
    ax.figure.canvas.draw()
    texts = [text for text in ax.get_children() if isinstance(text, Text) and text.get_text()]
    assert max(text.get_window_extent().x1 for text in texts) <= ax.figure.bbox.x1
