"""What is asked of a pretrained model: a task written for its tokenizer, where to look, and when an answer is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import mode
from typing import Any

import causal_reft as cr
from causal_reft.tasks import ioi, pronouns

GIRLS = (
    "Mary Anna Emma Lily Lucy Alice Jane Kate Rose Amy Ella Eva Julia Laura Sophie Susan Emily Nancy Helen Ruth Grace "
    "Clara Mia Sara Sue Lisa Sally Tara Maya Meg Beth Mimi Tammy Tina Lena Mona"
)
BOYS = (
    "John Tom James Dan Martin Paul David Daniel Henry George Fred Frank Simon Oscar Harry Charlie Max Bob Mark Leo "
    "Mike Luke Bill Matt Tony Lee Adam Tim Ben Sam Peter Jack Joe Andy Owen Brian Hank"
)
STORY = "Once upon a time, there was a little {gender} named {name} who was very happy."


@dataclass(frozen=True)
class Question:
    """One study.

    Attributes:
        asks: the question, in words.
        task: from a tokenizer to the task; its names are those of one length in tokens.
        positions: where the study looks by default.
        match: see `Study`.
        split_by: what training and report rows never share; by default whole settings.
    """

    asks: str
    task: Callable[[Any], cr.Task]
    positions: tuple[str, ...]
    match: str = "vocabulary"
    split_by: str | None = None


def gender_task(tokenizer: Any) -> cr.Task:
    """Stories about a girl or a boy with a name that fits, and the pronoun that follows."""
    return pronouns(STORY, girls=alike(GIRLS, tokenizer), boys=alike(BOYS, tokenizer))


def indirect_object_task(tokenizer: Any, names: int = 12) -> cr.Task:
    """Two people, one of whom gives the other something; half of the names are of girls."""
    girls, boys = (alike(some, tokenizer)[: names // 2] for some in (GIRLS, BOYS))
    return ioi(names=[*girls, *boys])


def alike(names: str, tokenizer: Any) -> list[str]:
    """The names of the commonest length in tokens, so that the tokens of two prompts pair one to one."""
    counts = {name: len(tokenizer(f" {name}")["input_ids"]) for name in names.split()}
    usual = mode(counts.values())
    return [name for name, count in counts.items() if count == usual]


QUESTIONS = {
    "gender": Question(
        "Where does the model hold the gender of a story's child, which decides the pronoun of the next sentence? The "
        "study swaps a subspace between two stories and counts how often the pronoun is then that of the other story.",
        gender_task,
        ("gender", "name", "last"),
        split_by="name",
    ),
    "indirect_objects": Question(
        "Two people are named, one of them again as the giver; the other one receives. Where does the model hold which "
        "of the two places in the sentence is the receiver's? The study swaps a subspace between two sentences and "
        "counts how often the model then names the person at the other sentence's place.",
        indirect_object_task,
        ("repeated", "last"),
    ),
}
