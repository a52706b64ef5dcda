"""The slider shows what the model says at each strength, and says how to get the package that it needs."""

from __future__ import annotations

import sys
from html import escape
from typing import Any

import pytest
import torch

import causal_reft as cr
from causal_reft.errors import DataError
from tests import words

EVIL = "the cat <b>&"


@pytest.fixture
def model() -> cr.IntervenedModel:
    generator = torch.Generator().manual_seed(0)
    steering = cr.steer(cr.Site(0, positions="all+generated"), 5 * torch.randn(16, generator=generator))
    return cr.IntervenedModel(words.model(), steering, words.tokenizer())


def test_the_texts_are_those_of_the_strength(model: cr.IntervenedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    slider, shown = cr.strength_slider(model, EVIL, high=4, step=0.5, max_new_tokens=4).children
    said = {s: cr.generate_texts(model.scaled(s), [EVIL], max_new_tokens=4)[0] for s in (0.0, 1.0, 4.0)}
    assert len(set(said.values())) > 1
    calls: list[Any] = []
    generate = cr.IntervenedModel.generate
    monkeypatch.setattr(cr.IntervenedModel, "generate", lambda *a, **k: calls.append(1) or generate(*a, **k))
    for strength in (1.0, 0.0, 4.0, 0.0, 1.0):
        slider.value = strength
        assert f"strength {strength:g}</b>" in shown.value and f">{escape(said[strength])}</td>" in shown.value
    assert len(calls) == 2, "0 and 4, once each"
    assert escape(EVIL) in shown.value and "<b>&" not in shown.value


def test_strengths_out_of_order_are_refused(model: cr.IntervenedModel) -> None:
    with pytest.raises(DataError, match="low < high"):
        cr.strength_slider(model, "the cat", low=2, high=1)


def test_a_missing_package_is_named_with_the_line_to_type(
    model: cr.IntervenedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(ImportError, match="Write pip install ipywidgets"):
        cr.strength_slider(model, "the cat")
