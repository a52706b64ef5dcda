"""A causal model can be looked at: text, table and picture name every variable and every edge."""

from __future__ import annotations

import matplotlib.pyplot as plt

from causal_reft.causal import CausalModel
from causal_reft.causal.drawing import depths, positions

MODEL = CausalModel(
    dict.fromkeys("wxyz", range(3)),
    {"left": lambda w, x: w == x, "right": lambda y, z: y == z, "answer": lambda left, right: left == right},
)


def test_the_repr_names_domains_parents_and_outputs() -> None:
    lines = repr(MODEL).splitlines()
    assert lines[0] == "CausalModel: 4 inputs, 3 mechanisms, 81 settings"
    assert "  w      in 0, 1, 2 (3 values)" in lines and "  answer <- left, right  (output)" in lines


def test_parents_stand_below_their_children() -> None:
    place = positions(MODEL.equations)
    assert depths(MODEL.equations) == {**dict.fromkeys("wxyz", 0), "left": 1, "right": 1, "answer": 2}
    assert all(place[p][1] < place[n][1] for n, parents in MODEL.parents.items() for p in parents)
    assert len(set(place.values())) == 7


def test_the_picture_has_a_box_per_variable_and_an_arrow_per_edge() -> None:
    axes = MODEL.draw()
    texts = [text.get_text() for text in axes.texts]
    assert sorted(text for text in texts if text) == sorted(MODEL.variables)
    assert texts.count("") == 6
    given = plt.subplots()[1]
    assert MODEL.draw(given) is given


def test_html_shows_the_picture_and_escapes_the_lines() -> None:
    before = plt.get_fignums()
    html = MODEL._repr_html_()
    assert "data:image/png;base64," in html and "lambda w, x: w == x" in html
    assert plt.get_fignums() == before
