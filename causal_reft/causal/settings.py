"""Parse what a user gives as settings into columns: right names, equal lengths, values inside their domains.

A setting is an assignment of values to the inputs of a causal model. Columns of computed variables may be
included (the frame that `run` returns has them); they must agree with their mechanisms, so that none is stale.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from causal_reft.causal.columns import Column, Columns, as_column, equal_rows, is_member
from causal_reft.causal.mechanisms import Mechanism, source_line
from causal_reft.errors import CausalModelError, nearest

MOST_ROWS = 1_000_000_000


def check_known(names: Iterable[Any], known: Iterable[str], what: str) -> None:
    """Every name is known, or an error suggests the nearest."""
    known = tuple(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise CausalModelError(f"{unknown[0]!r} is no {what} of this causal model. {nearest(str(unknown[0]), known)}")


def named(variables: Any, known: Iterable[str]) -> tuple[str, ...]:
    """One name or several, as a tuple of names that the causal model has."""
    if not isinstance(variables, str | Sequence):
        raise CausalModelError(f"variables={variables!r} is no name. {nearest(str(variables), known)}")
    names = (variables,) if isinstance(variables, str) else tuple(variables)
    check_known(names, known, "variable")
    return names


def check_count(n: Any, what: str) -> None:
    """A number of rows is a whole number above 0, and not beyond what arrays hold."""
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or not 1 <= n <= MOST_ROWS:
        raise CausalModelError(
            f"{what}: n={n!r} is no number of rows. Give a whole number from 1 to {MOST_ROWS:,}, e.g. n=1000."
        )


def check_seed(seed: Any) -> None:
    """A seed is a whole number, so that the same rows can be drawn again."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise CausalModelError(f"seed={seed!r} is no seed. Give a whole number, e.g. seed=0; it is kept with the rows.")


def aligned(settings: Mapping[str, Any] | pd.DataFrame) -> Columns:
    """Columns of one length; single values are repeated to that length."""
    given = {str(name): values for name, values in settings.items()}
    single = {name for name, values in given.items() if _is_single(values)}
    columns = {name: as_column([values] if name in single else values) for name, values in given.items()}
    lengths = {name: len(column) for name, column in columns.items() if name not in single}
    if len(set(lengths.values())) > 1:
        raise CausalModelError(f"The columns of the settings differ in length: {lengths}.")
    rows = next(iter(lengths.values()), 1)
    return {name: np.repeat(column, rows, axis=0) if name in single else column for name, column in columns.items()}


def _is_single(value: Any) -> bool:
    if isinstance(value, str | bytes):
        return True
    return not isinstance(value, Sequence | np.ndarray | pd.Series | pd.Index) or np.shape(value) == ()


def check_complete(inputs: Iterable[str], columns: Columns) -> None:
    """Every input has a column."""
    missing = [name for name in inputs if name not in columns]
    if missing:
        raise CausalModelError(f"The settings leave out input {missing[0]!r}. This model needs: {', '.join(inputs)}.")


def check_domain(name: str, column: Column, domain: Column | None) -> None:
    """Every value of an input lies in its domain (None: anything does)."""
    if domain is None:
        return
    outside = np.flatnonzero(~is_member(column, domain))
    if len(outside):
        raise CausalModelError(
            f"Input {name!r} is {column[outside[0]]!r} in row {outside[0]}, which is not in its domain: "
            f"{describe_domain(domain)}."
        )


def check_agrees(given: Columns, computed: Columns, mechanisms: Mapping[str, Mechanism]) -> None:
    """Computed variables that came along with the inputs hold what their mechanisms give."""
    for name, column in given.items():
        wrong = int((~equal_rows(column, computed[name])).sum())
        if wrong:
            raise CausalModelError(
                f"The settings carry {name!r}, but it disagrees with its mechanism in {wrong} of {len(column)} rows.\n"
                f"  {source_line(mechanisms[name])}\n"
                f"Drop the column to recompute it, or fix its values: model.run(settings, do={{{name!r}: values}})."
            )


def check_length(name: str, rows: int, expected: int, what: str) -> None:
    """Row i of the base pairs with row i of every source and of every fixed column."""
    if rows != expected:
        raise CausalModelError(
            f"The {what} of {name!r} has {rows} settings and the base has {expected}; "
            "row i of the base pairs with row i of the other, so they must be equally long."
        )


def describe_domain(domain: Column | None) -> str:
    """A domain in a few words: "0, 1, ..., 11 (12 values)"."""
    if domain is None:
        return "anything"
    shown = [str(value) for value in (domain if len(domain) <= 4 else [*domain[:2], "...", domain[-1]])]
    return f"{', '.join(shown)} ({len(domain)} value{'s' * (len(domain) > 1)})"
