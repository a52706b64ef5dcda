"""A variable is a column: one numpy array whose first axis runs over settings.

Mechanisms see columns, never rows, so a model of a million settings runs in a handful of numpy calls. A value is a
number, a string, a tuple or another hashable object (kept whole, in an object column), or a vector (a 1-D array; its
column is then 2-D). Data frames hold a vector column as objects, one 1-D array per cell.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from causal_reft.errors import CausalModelError

PROMPT, TEXT = "prompt", "text"  # the columns in which a task writes the prompt and the answer's text
Column = np.ndarray
Columns = dict[str, np.ndarray]


def as_column(values: Any) -> Column:
    """Values of one variable as an array whose first axis runs over settings; tuples stay whole.

    Raises:
        CausalModelError: values that cannot be compared as wholes (lists, sets, dicts).
    """
    if isinstance(values, pd.Series | pd.Index):
        values = values.to_numpy()
    if not isinstance(values, np.ndarray):
        values = _numbers_or_objects(list(values))
    if values.dtype == object and len(values) and all(isinstance(cell, np.ndarray) for cell in values):
        return _vectors(list(values))
    if values.dtype == object and pd.api.types.infer_dtype(values, skipna=False).startswith("mixed"):
        _check_hashable(values)
    return values.astype(object) if values.dtype.kind in "US" else values


def _vectors(cells: list[np.ndarray]) -> Column:
    shapes = {cell.shape for cell in cells}
    if len(shapes) > 1:
        raise CausalModelError(
            f"The vectors of one variable have one length, but here are the shapes {sorted(shapes)}. Write values of "
            "other lengths as tuples."
        )
    return np.stack(cells)


def _check_hashable(cells: Column) -> None:
    for cell in cells.ravel():
        parts = cell if isinstance(cell, tuple) else (cell,)
        if not all(isinstance(part, Hashable) for part in parts):
            raise CausalModelError(
                f"{cell!r} is a {type(cell).__name__}, and a value of a variable is compared as a whole. Write a "
                "number, a string, a tuple such as (1, 2), a frozenset, or a vector: np.array([1.0, 2.0])."
            )


def _numbers_or_objects(cells: list[Any]) -> Column:
    kinds = {type(cell) for cell in cells}
    plain = kinds <= {bool, np.bool_} or (kinds and all(issubclass(k, int | float | np.number) for k in kinds - {bool}))
    if plain and not (bool in kinds and len(kinds) > 1):
        return np.array(cells)
    return object_column(cells)


def as_columns(settings: Mapping[str, Any] | pd.DataFrame) -> Columns:
    """A data frame, or a mapping of names to values, as columns."""
    return {str(name): as_column(values) for name, values in settings.items()}


def as_frame(columns: Mapping[str, Column]) -> pd.DataFrame:
    """Columns as a data frame with a plain index; a vector column becomes one 1-D array per cell."""
    return pd.DataFrame({name: list(column) if column.ndim > 1 else column for name, column in columns.items()})


def row_keys(columns: Iterable[Column]) -> np.ndarray:
    """One integer per row, equal exactly where the rows agree in every column: "rows" of int64."""
    keys: np.ndarray | None = None
    for column in columns:
        codes = _codes(column)
        keys = codes if keys is None else pd.factorize(keys * (codes.max(initial=0) + 1) + codes)[0]
    if keys is None:
        raise ValueError("row_keys needs at least one column")
    return keys.astype(np.int64)


def _codes(column: Column) -> np.ndarray:
    if column.ndim > 1:
        return np.unique(column.reshape(len(column), -1), axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return pd.factorize(column, use_na_sentinel=False)[0].astype(np.int64)


def equal_rows(left: Column, right: Column) -> np.ndarray:
    """Where two columns hold the same value: "rows" of bool (vectors agree when every number agrees)."""
    if left.shape != right.shape:
        return np.zeros(len(left), dtype=bool)
    same = np.asarray(left == right, dtype=bool).reshape(len(left), -1)
    return np.asarray(same.all(axis=1))


def is_member(column: Column, domain: Column) -> np.ndarray:
    """Which rows of a column hold a value of the domain: "rows" of bool."""
    if column.ndim != domain.ndim:
        return np.zeros(len(column), dtype=bool)
    if column.ndim == 1:
        return np.asarray(pd.Series(column).isin(pd.Series(domain)))
    keys = _codes(np.concatenate([domain, column]))
    return np.isin(keys[len(domain) :], keys[: len(domain)])


def object_column(cells: Iterable[Any]) -> Column:
    """Cells of any kind, each kept whole: "rows" of object."""
    cells = list(cells)
    return np.fromiter(cells, dtype=object, count=len(cells))
