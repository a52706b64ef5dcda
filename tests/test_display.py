"""Every public value shows itself: one screen of text, and HTML for light and dark themes, without tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
import torch

import causal_reft as cr
from tests import words
from tests.alignment.small import SPLITS, small_study

EVIL = "<b>&"  # what a text of the user may hold
SITE = cr.Site(1, positions="last")


def graph() -> cr.InterventionGraph:
    return cr.InterventionGraph(
        edit=cr.Interchange(SITE, cr.Subspace(16, 2), cr.LearnedSource(2, 16)), seen=cr.Collect("base", SITE)
    )


def examples() -> cr.Examples:
    ids = torch.arange(200).reshape(50, 4) % 20
    base = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return cr.Examples({"base": base}, torch.arange(50), {EVIL: [EVIL] * 50})


def causal_model() -> cr.CausalModel:
    animals = ["cat", "dog", "owl", EVIL]
    return cr.CausalModel({"animal": animals}, {"seen": lambda animal: animal, "again": lambda animal, seen: seen})


def template() -> cr.Template:
    return cr.Template(f"a {{animal}} in the {EVIL}")


def task() -> cr.Task:
    return cr.Task("look", causal_model(), template(), variables=("seen",), output="again")


def served() -> cr.Served:
    found = cr.Served(words.model())
    found.add(EVIL, graph().only("edit"))
    return found


def history() -> cr.History:
    return cr.History({}, [{"step": n, "epoch": 0, "loss": 1 / (n + 1), "lr": 1e-3} for n in range(100)])


def plan() -> Any:
    return cr.plan(cr.IntervenedModel(words.model(), graph().only("edit")), examples().rows(torch.arange(4)))


VALUES: Mapping[str, Callable[[], Any]] = {
    "Site": lambda: SITE,
    "Subspace": lambda: cr.Subspace(512, 64),
    "Constant": lambda: cr.Constant(torch.randn(64)),
    "PerRow": lambda: cr.PerRow(torch.randn(50, 64)),
    "LearnedSource": lambda: cr.LearnedSource(2, 16),
    "LearnedScale": lambda: cr.LearnedScale(16),
    "GatedScale": lambda: cr.GatedScale(16),
    "TopLatents": lambda: cr.TopLatents(2),
    "Interchange": lambda: graph()["edit"],
    "InterventionGraph": graph,
    "IntervenedModel": lambda: cr.IntervenedModel(words.model(), graph()),
    "Plan": plan,
    "CausalModel": causal_model,
    "CounterfactualDataset": lambda: task().counterfactuals("animal", 50, seed=0),
    "Preview": lambda: task().preview(words.tokenizer()),
    "Task": task,
    "Study": lambda: small_study(None),
    "Splits": lambda: SPLITS,
    "History": history,
    "Served": served,
    "Recipe": cr.Recipe,
    "Controls": cr.Controls,
    "Sampling": cr.Sampling,
    "Examples": examples,
    "Embedded": cr.load_embedded,
}
IN_NOTEBOOKS = (
    "InterventionGraph", "IntervenedModel", "Plan", "CausalModel", "CounterfactualDataset", "Preview", "Study",
    "History", "Served", "Recipe", "Controls", "Examples", "Embedded",
)  # fmt: skip


@pytest.mark.parametrize("name", VALUES)
def test_the_text_is_one_screen_without_tensors(name: str) -> None:
    text = repr(VALUES[name]())
    assert len(text.splitlines()) <= 20 and len(text) < 3000
    assert "tensor(" not in text and "Tensor(" not in text and " object at 0x" not in text
    assert not re.search(r"\b1 (edits|collects|sites|featurizers|variables|seeds|rows|inputs|graphs|steps)\b", text)
    assert "e+" not in text


@pytest.mark.parametrize("name", IN_NOTEBOOKS)
def test_the_html_can_be_read_in_every_theme(name: str) -> None:
    html = VALUES[name]()._repr_html_()
    Balanced(html)
    assert "<b>&" not in html and "tensor(" not in html
    for style in re.findall(r"style='([^']*)'", html):
        rules = dict(rule.split(":", 1) for rule in style.split(";") if rule)
        assert ("color" in rules) == ("background" in rules), style


@pytest.mark.parametrize("name", VALUES)
def test_treescope_shows_the_text(name: str) -> None:
    """Tensors and modules are not walked: treescope 0.1.10 fails on every tensor of torch 2.13 (it reads `.names`)."""
    treescope = pytest.importorskip("treescope")
    value = VALUES[name]()
    shown = treescope.render_to_text(value, ignore_exceptions=False)
    assert type(value).__name__ in shown or repr(value).splitlines()[0] in shown


def test_each_mechanism_shows_its_own_text() -> None:
    html = causal_model()._repr_html_()
    assert "lambda animal: animal" in html and "lambda animal, seen: seen" in html
    assert html.count("lambda") == 2


def test_a_mechanism_of_several_lines_shows_its_def() -> None:
    def doubled(x: np.ndarray) -> np.ndarray:
        return 2 * x

    html = cr.CausalModel({"x": range(3)}, {"y": doubled})._repr_html_()
    assert "def doubled(x: np.ndarray) -&gt; np.ndarray:" in html


class Balanced(HTMLParser):
    """Fails where a tag is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag != "img":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
