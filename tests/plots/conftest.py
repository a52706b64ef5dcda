"""What the tests of figures share: a small study, the texts of a figure, and no figure open at the start."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.axes import Axes


@pytest.fixture
def texts() -> Callable[[Axes], list[str]]:
    """All texts of an Axes that say something, after drawing."""

    def of(ax: Axes) -> list[str]:
        ax.figure.canvas.draw()
        return [text.get_text() for text in ax.texts if text.get_text()]

    return of


@pytest.fixture
def study() -> pd.DataFrame:
    """Two layers and two positions, with intervals and controls."""
    return pd.DataFrame(
        {
            "layer": [0, 0, 1, 1],
            "positions": ["name", "last", "name", "last"],
            "iia": [0.91, 0.52, 0.73, 0.996],
            "iia_low": [0.88, 0.48, 0.70, 0.99],
            "iia_high": [0.94, 0.56, 0.76, 0.999],
            "control": [0.51, 0.55, 0.50, 0.49],
        }
    )


@pytest.fixture(autouse=True)
def no_figures_before() -> None:
    plt.close("all")
