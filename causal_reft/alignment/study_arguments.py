"""What a study is given, checked without running the model: seeds, variables, data, the answers to choose among."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from causal_reft.alignment.cells import FeaturizerRecipe, whole_vector
from causal_reft.alignment.encoding import Encoding, TextEncoding
from causal_reft.causal import CausalModel, Splits, Task
from causal_reft.errors import StudyError, nearest
from causal_reft.featurizers import Identity
from causal_reft.seeds import SEEDS_ARE, is_seed


def checked_seeds(seeds: Iterable[Any]) -> tuple[int, ...]:
    """The seeds as integers; StudyError for what is none."""
    given = tuple(seeds)
    for seed in given:
        if not is_seed(seed):
            raise StudyError(f"seeds: {seed!r} is none; {SEEDS_ARE}")
    return tuple(int(seed) for seed in given)


def alternatives(
    task: Task | CausalModel | None, data: Splits | Mapping[str, Splits] | None, variable: str | Sequence[str] | None
) -> tuple[str, ...]:
    """The variable alternatives of a study.

    Raises:
        StudyError: neither task nor data; no variable, or one that they do not have.
    """
    if task is None and data is None:
        raise StudyError(
            "A study needs task=... (a Task or a CausalModel) or data=... (counterfactuals, split in three)."
        )
    asked = (variable,) if isinstance(variable, str) else None if variable is None else tuple(variable)
    if data is not None:
        held = held_data(data)
        for name in asked or ():
            if name not in held:
                raise StudyError(
                    f"variable={name!r}, but the data hold rows for {', '.join(held)}. {nearest(name, held)}"
                )
        return tuple(held) if asked is None else asked
    causal = task.causal_model if isinstance(task, Task) else task
    assert causal is not None
    found = (task.variables if isinstance(task, Task) else ()) if asked is None else asked
    if not found:
        raise StudyError(f"Say which variable to look for: variable='...'. {nearest('', causal.variables)}")
    return tuple(found)


def held_data(data: Splits | Mapping[str, Splits]) -> Mapping[str, Splits]:
    """Given rows for each variable alternative."""
    return {"+".join(data.train.variables): data} if isinstance(data, Splits) else data


def matching(encoding: Encoding, match: str, task: Task | CausalModel | None) -> Encoding:
    """The encoding, with the answers among which the network chooses if that is asked."""
    if match == "vocabulary":
        return encoding
    if match != "choices" or not isinstance(encoding, TextEncoding) or not isinstance(task, Task):
        raise StudyError(f"match={match!r}: allowed are 'vocabulary' and, for a Task on a language model, 'choices'.")
    return replace(encoding, choices=task.choices)


def recipes_of(
    given: FeaturizerRecipe | Mapping[str, FeaturizerRecipe],
) -> FeaturizerRecipe | Mapping[str, FeaturizerRecipe]:
    """The same, where `Identity` itself is none: it takes no seed."""
    if isinstance(given, Mapping):
        return {label: whole_vector if build is Identity else build for label, build in given.items()}
    return whole_vector if given is Identity else given
