"""Indirect object identification: "When Mary and John went to the store, John gave a drink to" -> " Mary".

One of two names is repeated; the answer is the other one. The hidden variable is *where* the answer is: `io_place`
is 0 when the first name is the answer and 1 when the second is. Interchanging it makes the network answer with the
other name of its own sentence.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from causal_reft.causal import CausalModel, Task, Template
from causal_reft.causal.columns import Column

NAMES = ("Mary", "John", "Tom", "James", "Dan", "Sid", "Martin", "Amy", "Anna", "Paul", "Kate", "Lucy")
PLACES = ("store", "park", "school", "station", "garden", "office")
OBJECTS = ("drink", "book", "ring", "letter", "basket", "kiss")
TEXT = "When {first_name=name_a} and {second_name=name_b} went to the {place}, {repeated=giver} gave a {object} to"


def _giver(name_a: Column, name_b: Column, giver_is_first: Column) -> Column:
    return np.where(giver_is_first, name_a, name_b)


def _io_place(giver: Column, name_a: Column) -> Column:
    return np.where(giver == name_a, 1, 0)


def _answer(io_place: Column, name_a: Column, name_b: Column) -> Column:
    return np.where(io_place == 0, name_a, name_b)


def ioi_model(
    names: Sequence[str] = NAMES, places: Sequence[str] = PLACES, objects: Sequence[str] = OBJECTS
) -> CausalModel:
    """Two names, which of them gives, and a scene; `giver`, `io_place` (0 or 1) and `answer`.

    The two names must differ for the question to have an answer; `ioi` samples only such settings.
    """
    return CausalModel(
        inputs={
            "name_a": names,
            "name_b": names,
            "giver_is_first": (True, False),
            "place": places,
            "object": objects,
        },
        mechanisms={"giver": _giver, "io_place": _io_place, "answer": _answer},
    )


def ioi(text: str = TEXT, names: Sequence[str] = NAMES) -> Task:
    """The task over all settings whose two names differ; spans `first_name`, `second_name`, `repeated`, `place`,
    `object`."""
    model = ioi_model(names)
    settings = model.settings()
    different = settings[settings["name_a"] != settings["name_b"]].reset_index(drop=True)
    return Task("indirect object", model, Template(text), _spaced, variables=("io_place",), among=different)


def _spaced(name: str) -> str:
    return f" {name}"
