"""Probes: the points are the table's, the regions are those of the discriminant, the crossed points are its errors."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from causal_reft.errors import DataError
from causal_reft.plots import subspace_probe
from causal_reft.plots.regions import fit_regions, held_out_accuracy


def crossed(ax) -> np.ndarray:
    """The points drawn as crosses."""
    return next(c.get_offsets().data for c in ax.collections if c.get_gid() == "wrong")


@pytest.fixture
def two_classes() -> pd.DataFrame:
    """Two well separated classes with one point on the wrong side."""
    z = np.random.default_rng(0).normal(size=(40, 2)) * 0.3
    z[:20, 0] -= 2
    z[20:, 0] += 2
    z[0] = [1.5, 0.0]
    return pd.DataFrame({"z0": z[:, 0], "z1": z[:, 1], "gender": ["f"] * 20 + ["m"] * 20})


def test_two_coordinates_are_a_scatter_with_its_errors_crossed(two_classes, texts):
    ax = subspace_probe(two_classes, "gender")
    points = {c.get_label(): c.get_offsets().data for c in ax.collections if c.get_gid() != "wrong"}
    np.testing.assert_array_equal(points["f"], two_classes[["z0", "z1"]].to_numpy()[:20])
    np.testing.assert_array_equal(points["m"], two_classes[["z0", "z1"]].to_numpy()[20:])
    np.testing.assert_array_equal(crossed(ax), [[1.5, 0.0]])
    assert "1 of 40 points on the wrong side (crossed)" in texts(ax)
    shown = " ".join(ax.get_title(loc="left").split())
    assert shown == "gender in z0, z1: 97.5 % right on held-out fifths"


def test_the_ground_is_coloured_by_the_regions(two_classes):
    ax = subspace_probe(two_classes, "gender")
    ground = ax.images[0].get_array()
    assert (ground[:, 0] == 0).all() and (ground[:, -1] == 1).all()


def test_one_coordinate_is_histograms_over_a_strip(two_classes, texts):
    ax = subspace_probe(two_classes, "gender", coordinates=["z0"])
    assert [int(stairs.get_data().values.sum()) for stairs in ax.patches] == [20, 20]
    np.testing.assert_allclose(crossed(ax)[:, 0], [1.5])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("z0", "examples")
    assert any("1 of 2 coordinates" in text for text in texts(ax))


def test_numbers_of_many_values_are_a_colour_without_regions(texts):
    z = np.linspace(0, 1, 50)
    ax = subspace_probe(pd.DataFrame({"z0": z, "z1": -(z**2), "price": 3 * z}), "price")
    assert not ax.images and "50 points · correlation with price: z0 1.00, z1 -0.97" in texts(ax)
    np.testing.assert_array_equal(ax.collections[0].get_array(), 3 * z)


def test_incomplete_rows_are_left_out_and_said(two_classes, texts):
    two_classes.loc[3, "z1"] = np.nan
    two_classes.loc[5, "gender"] = None
    assert any("2 incomplete rows left out" in text for text in texts(subspace_probe(two_classes, "gender")))


def test_coordinates_are_found_in_the_order_of_their_numbers():
    table = pd.DataFrame({f"z{i}": [0.0, 1.0] for i in (10, 2, 1)} | {"variable": ["a", "b"]})
    assert subspace_probe(table).get_title(loc="left") == "variable in z1, z2"


@pytest.mark.parametrize(
    ("change", "arguments", "letter"),
    [
        ({}, {"variable": "gendre"}, "Did you mean 'gender'"),
        ({}, {"variable": "gender", "coordinates": ["z0", "z1", "z2"]}, r"Write coordinates=\['z0', 'z1'\]"),
        ({}, {"variable": "gender", "coordinates": ["z7"]}, "needs a column 'z7' for coordinates="),
        ({"gender": list(map(str, range(40)))}, {"variable": "gender"}, r"40 classes.*table\[table\['gender'\]\.isin"),
        ({"z0": np.nan}, {"variable": "gender"}, "no row has finite z0, z1"),
    ],
)
def test_errors(two_classes, change, arguments, letter):
    with pytest.raises(DataError, match=letter):
        subspace_probe(two_classes.assign(**change), **arguments)
    assert plt.get_fignums() == []


def test_the_regions_are_those_of_the_formula():
    rng = np.random.default_rng(1)
    z, classes = rng.normal(size=(300, 2)) @ [[1.0, 0.6], [0.0, 0.5]], rng.integers(0, 3, 300)
    z = z + np.array([[0, 0], [2, 1], [-1, 2]])[classes]
    means = [z[classes == c].mean(0) for c in range(3)]
    inverse = np.linalg.inv(sum((z[classes == c] - means[c]).T @ (z[classes == c] - means[c]) for c in range(3)) / 297)
    distance = [
        np.einsum("nd,de,ne->n", z - m, inverse, z - m) / 2 - np.log((classes == c).mean()) for c, m in enumerate(means)
    ]
    assert (fit_regions(z, classes, 3).predict(z) == np.argmin(distance, axis=0)).mean() > 0.995


def test_a_class_without_points_never_wins():
    z = np.array([[0.0], [1.0], [5.0]])
    assert set(fit_regions(z, np.array([0, 0, 2]), 3).predict(np.linspace(-9, 9, 50)[:, None])) == {0, 2}


def test_held_out_accuracy_is_chance_where_there_is_nothing_to_find():
    rng = np.random.default_rng(0)
    z, classes = rng.normal(size=(2000, 2)), rng.integers(0, 2, 2000)
    assert abs(held_out_accuracy(z, classes, 2) - 0.5) < 0.05
    assert np.isnan(held_out_accuracy(z[:3], classes[:3], 2))


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(
            st.floats(-1e3, 1e3),
            st.one_of(st.floats(-1e3, 1e3), st.just(float("nan"))),
            st.sampled_from(["a", "_b", "$c$", ""]),
        ),
        min_size=1,
        max_size=12,
    ).filter(lambda rows: any(y == y for _, y, _ in rows)),
    st.booleans(),
)
def test_odd_tables_draw(rows, flat):
    plt.close("all")
    table = pd.DataFrame(rows, columns=["z0", "z1", "variable"])
    ax = subspace_probe(table, coordinates=["z0"] if flat else None)
    ax.figure.canvas.draw()
    kept = table if flat else table.dropna()
    assert len(ax.get_legend().get_texts()) == kept["variable"].nunique()
