"""Mechanisms made from data: look a value up in a table, or select one of several variables by the value of another.

Files name their variables, so the argument names of such a mechanism are only known at run time; it says them by its
`__signature__`, which is where Python (and `CausalModel`) looks for them.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from causal_reft.causal.columns import Column, object_column


def signature_of(*names: str) -> inspect.Signature:
    """The signature of a function with these arguments."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature([inspect.Parameter(name, kind) for name in names])


@dataclass(frozen=True, eq=False)
class Lookup:
    """child = table[parent]; a value that the table lacks gives `default`."""

    parent: str
    table: Mapping[Any, Any]
    default: Any = None

    @property
    def __signature__(self) -> inspect.Signature:
        return signature_of(self.parent)

    def __call__(self, **columns: Column) -> Column:
        codes, values = pd.factorize(columns[self.parent], use_na_sentinel=False)
        return object_column([self.table.get(value, self.default) for value in values])[codes]


@dataclass(frozen=True)
class Select:
    """child = the variable that `by` picks: the i-th where `by` is values[i] (default: its name); else `default`."""

    by: str
    variables: tuple[str, ...]
    values: tuple[Any, ...] = ()
    default: Any = ""

    @property
    def __signature__(self) -> inspect.Signature:
        return signature_of(self.by, *self.variables)

    def __call__(self, **columns: Column) -> Column:
        chosen = [columns[self.by] == value for value in self.values or self.variables]
        return np.select(chosen, [columns[name] for name in self.variables], default=self.default)
