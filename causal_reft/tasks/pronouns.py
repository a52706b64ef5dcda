"""Pronouns: "Once upon a time, there was a little girl named Mary." -> " She".

`gender` is shown by one word, and by a name that fits. It is an input of the causal model: interchanging it asks the
network to go on as if the story were about a girl (or a boy), whatever else the prompt holds. The names are as long
in tokens as each other for a small story model (three each), so that prompts of both genders line up. Such a model is
right when it prefers the one pronoun to the other (`task.choices`); its most likely next token is often the name again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from causal_reft.causal import CausalModel, Task, Template
from causal_reft.causal.columns import Column

GIRLS = ("Mia", "Sara", "Sue", "Mary", "Lisa", "Tina", "Sally")
BOYS = ("Max", "Bob", "Mark", "Leo", "Mike", "Luke", "Sammy")
TEXT = "Once upon a time, there was a little {gender} named {name}."
ANSWERS = {"girl": " She", "boy": " He"}


def _name(gender: Column, girl_name: Column, boy_name: Column) -> Column:
    return np.where(gender == "girl", girl_name, boy_name)


def _pronoun(gender: Column) -> Column:
    return gender.copy()


def pronoun_model(girls: Sequence[str] = GIRLS, boys: Sequence[str] = BOYS) -> CausalModel:
    """Inputs gender, girl_name and boy_name; the `name` shown goes with the gender; `answer` is the gender."""
    return CausalModel(
        inputs={"gender": ("girl", "boy"), "girl_name": girls, "boy_name": boys},
        mechanisms={"name": _name, "answer": _pronoun},
        outputs=("answer",),
    )


def pronouns(text: str = TEXT, girls: Sequence[str] = GIRLS, boys: Sequence[str] = BOYS) -> Task:
    """The task with spans `gender` and `name`. A study looks for `gender`."""
    model = pronoun_model(girls, boys)
    return Task("pronouns", model, Template(text), ANSWERS, variables=("gender",))
