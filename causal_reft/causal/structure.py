"""Parse a causal model before anything runs: names, domains, parents, order. Each mistake shows its line.

The result of parsing is plain data (domains as columns, parents as tuples, variables in an order in which every parent
comes first), and `CausalModel` is a thin value over it.
"""

from __future__ import annotations

import keyword
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import islice
from typing import Any

from causal_reft.causal.columns import PROMPT, TEXT, Column, as_column, row_keys
from causal_reft.causal.mechanisms import Mechanism, parents_of, source_line
from causal_reft.errors import CausalModelError, nearest

LARGEST_DOMAIN = 1_000_000


def read_domain(name: str, values: Any) -> Column | None:
    """A domain as a column of distinct values; None stands for "anything" (such an input cannot be sampled)."""
    if values is None:
        return None
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise CausalModelError(
            f"The domain of input {name!r} is {values!r}, which is not a collection of values. "
            f"Give the values it may take: inputs={{{name!r}: [{values!r}, ...]}} or inputs={{{name!r}: range(10)}}."
        )
    cells = list(islice(values, LARGEST_DOMAIN + 1))
    if not cells or len(cells) > LARGEST_DOMAIN:
        size = "is empty" if not cells else f"has more than {LARGEST_DOMAIN:,} values"
        raise CausalModelError(
            f"The domain of input {name!r} {size}. Give it a finite list of values; "
            "integer ids can stand for vectors or for long texts."
        )
    return _distinct(name, as_column(cells))


def _distinct(name: str, domain: Column) -> Column:
    keys = row_keys([domain])
    if len(set(keys.tolist())) < len(domain):
        seen: set[int] = set()
        repeated = next(value for value, key in zip(domain, keys.tolist(), strict=True) if key in seen or seen.add(key))
        raise CausalModelError(
            f"The domain of input {name!r} lists {repeated!r} more than once. A domain is a set: write "
            f"inputs={{{name!r}: dict.fromkeys(values)}} to keep the order and drop repeats."
        )
    return domain


def check_names(inputs: Mapping[Any, Any], mechanisms: Mapping[Any, Any]) -> None:
    """Names are identifiers, and no name is both an input and a mechanism."""
    if not inputs:
        raise CausalModelError("A causal model needs at least one input: CausalModel(inputs={'x': range(2)}, ...).")
    for name in (*inputs, *mechanisms):
        if name in (PROMPT, TEXT):
            raise CausalModelError(
                f"A variable cannot be called {name!r}: a task writes the prompt and the answer's text into columns of "
                f"these names. Call it {name + '_id'!r}."
            )
        if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
            raise CausalModelError(
                f"{name!r} cannot name a variable: a mechanism reads it by writing it as an argument. "
                "Use letters, digits and underscores, not starting with a digit."
            )
    for name, mechanism in mechanisms.items():
        if not callable(mechanism):
            raise CausalModelError(
                f"The mechanism of {name!r} is {mechanism!r}, not a function. A constant is {name}=lambda: value."
            )
        if name in inputs:
            raise CausalModelError(
                f"{name!r} is both an input and a mechanism; a variable has one origin.\n  {source_line(mechanism)}\n"
                "Rename one of the two, or drop the input's domain."
            )


def read_parents(inputs: Mapping[str, Any], mechanisms: Mapping[str, Mechanism]) -> dict[str, tuple[str, ...]]:
    """The parents of every variable; an argument that names no variable is an error with the nearest name."""
    known = (*inputs, *mechanisms)
    parents: dict[str, tuple[str, ...]] = dict.fromkeys(inputs, ())
    for name, mechanism in mechanisms.items():
        parents[name] = parents_of(name, mechanism)
        unknown = [parent for parent in parents[name] if parent not in known]
        if unknown:
            raise CausalModelError(
                f"The mechanism of {name!r} reads {unknown[0]!r}, which is no variable of this model.\n"
                f"  {source_line(mechanism)}\n{nearest(unknown[0], known)}"
            )
    return parents


def read_outputs(
    outputs: tuple[str, ...], parents: Mapping[str, tuple[str, ...]], mechanisms: Mapping[str, Any]
) -> tuple[str, ...]:
    """The outputs as given, or else the mechanisms that no other mechanism reads."""
    unknown = [name for name in outputs if name not in mechanisms]
    if unknown:
        raise CausalModelError(f"The output {unknown[0]!r} is no mechanism here. {nearest(unknown[0], mechanisms)}")
    read = {parent for names in parents.values() for parent in names}
    return tuple(outputs) or tuple(name for name in mechanisms if name not in read)


def in_order(parents: Mapping[str, tuple[str, ...]], mechanisms: Mapping[str, Mechanism]) -> tuple[str, ...]:
    """Variables, parents first; inputs and mechanisms otherwise stay in the order they were written."""
    try:
        TopologicalSorter(parents).prepare()
    except CycleError as cycle:
        loop = cycle.args[1]
        lines = "\n".join(dict.fromkeys(f"  {source_line(mechanisms[name])}" for name in loop))
        raise CausalModelError(
            f"The mechanisms form a cycle: {' -> '.join(loop)}. A variable may not depend on itself.\n{lines}"
        ) from None
    placed: dict[str, None] = {}
    while len(placed) < len(parents):
        ready = [n for n in parents if n not in placed and all(parent in placed for parent in parents[n])]
        placed.update(dict.fromkeys(ready))
    return tuple(placed)
