"""A slider over the strength of a model's edits, in a notebook, with what the model says at that strength below it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from causal_reft.display import html_table
from causal_reft.errors import DataError
from causal_reft.execution import IntervenedModel
from causal_reft.reft import generate_texts


def strength_slider(
    model: IntervenedModel,
    prompts: str | Iterable[str],
    low: float | int = 0.0,
    high: float | int = 2.0,
    step: float | int = 0.1,
    **options: Any,
) -> Any:
    """A slider over s of `model.scaled(s)`, from no edit (0) to a multiple of it, beside the continuations of prompts.

    Args:
        model: an intervened model with its tokenizer.
        prompts: one string, or several.
        low, high, step: the strengths; it begins at 1, or at the end that is nearest to it.
        options: of `generate_texts`: max_new_tokens, ...; greedy by default. A strength is generated once and kept.

    Returns:
        A widget of ipywidgets, which a notebook shows.

    Raises:
        ImportError: ipywidgets is not installed.
        DataError: strengths out of order; as `generate_texts`.
    """
    try:
        import ipywidgets
    except ImportError as error:
        raise ImportError("strength_slider needs the package ipywidgets. Write pip install ipywidgets.") from error
    if not (low < high and 0 < step <= high - low):
        raise DataError(f"strength_slider(low={low}, high={high}, step={step}): low < high, and a step between them.")
    given = [prompts] if isinstance(prompts, str) else list(prompts)
    begin = {"value": min(max(1.0, low), high), "min": low, "max": high, "step": step}
    slider = ipywidgets.FloatSlider(**begin, description="strength", continuous_update=False)
    shown = ipywidgets.HTML()

    @cache
    def texts(strength: float) -> list[str]:
        return generate_texts(model.scaled(strength), given, **options)

    def show(*_: Any) -> None:
        heads = ("prompt", "continuation")
        shown.value = html_table(f"strength {slider.value:g}", heads, zip(given, texts(slider.value), strict=True))

    slider.observe(show, names="value")
    show()
    return ipywidgets.VBox([slider, shown])
