"""From a tidy table to the numbers of a figure: columns that must be there, levels in order, one number for each cell.

Where several rows fall on one cell (seeds), the cell is their mean and its interval their range, and the note that
every figure prints says so. Where one row falls on each, the interval stands in `<value>_low` and `<value>_high`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from causal_reft.errors import DataError, nearest


@dataclass(frozen=True)
class Levels:
    """The different values of a column, in order, and for each row the number of its value."""

    names: tuple[str, ...]
    values: tuple[object, ...]
    codes: np.ndarray


@dataclass(frozen=True)
class Cells:
    """One row for each combination of keys: columns `value`, `low`, `high`, `rows`, and the keys."""

    table: pd.DataFrame
    note: str

    @property
    def has_intervals(self) -> bool:
        """Whether any cell has one."""
        return bool(self.table["low"].notna().any())


def require(table: pd.DataFrame, function: str, **columns: str) -> None:
    """Every named column must be there, and the table must have rows; `argument=column`.

    Raises:
        DataError: a missing column (named, with what the table has and the line to type), or no rows.
    """
    for argument, column in columns.items():
        if column not in table.columns:
            raise DataError(_letter(table, function, argument, column))
    if not len(table):
        raise DataError(f"{function}: the table has no rows, so there is nothing to draw. Print it before plotting it.")


def require_numbers(table: pd.DataFrame, function: str, *columns: str) -> None:
    """These columns must hold numbers.

    Raises:
        DataError: a column of text.
    """
    for column in columns:
        if not pd.api.types.is_numeric_dtype(table[column]):
            example = table[column].dropna().iloc[:1].tolist()
            raise DataError(
                f"{function}: column {column!r} must hold numbers, but its type is "
                f"{table[column].dtype}{f' (e.g. {example[0]!r})' if example else ''}. Write "
                f"table.assign(**{{{column!r}: pd.to_numeric(table[{column!r}])}})."
            )


def levels(column: pd.Series, alphabetical: bool = False) -> Levels:
    """Categories in their order, numbers ascending, anything else as it first appears; missing values last: "none"."""
    kept = column.dropna()
    if isinstance(column.dtype, pd.CategoricalDtype):
        used = set(kept)
        values = [value for value in column.cat.categories if value in used]
    elif pd.api.types.is_numeric_dtype(column):
        values = sorted(kept.unique().tolist())
    else:
        values = sorted(dict.fromkeys(kept), key=str) if alphabetical else list(dict.fromkeys(kept))
    code = {value: i for i, value in enumerate(values)}
    missing = column.isna()
    numbered = [len(values) if gone else code[value] for value, gone in zip(column, missing, strict=True)]
    codes = np.array(numbered, dtype=int)
    if missing.any():
        values = [*values, None]
    return Levels(tuple(_name(value) for value in values), tuple(values), codes)


def cells(
    table: pd.DataFrame,
    function: str,
    keys: Mapping[str, Levels],
    value: str,
    low: str | None = None,
    high: str | None = None,
) -> Cells:
    """One number and one interval for each combination of the keys (their codes).

    Raises:
        DataError: only one end of the interval, or intervals asked for where several rows fall on a cell.
    """
    require_numbers(table, function, value)
    ends = interval_columns(table, function, value, low, high)
    frame = pd.DataFrame({name: key.codes for name, key in keys.items()})
    frame["value"] = table[value].to_numpy(dtype=float, na_value=np.nan)
    frame["low"] = table[ends[0]].to_numpy(dtype=float, na_value=np.nan) if ends else np.nan
    frame["high"] = table[ends[1]].to_numpy(dtype=float, na_value=np.nan) if ends else np.nan
    groups = frame.groupby(list(keys), sort=True)
    most = int(groups.size().max())
    if most == 1:
        return Cells(frame.assign(rows=1), "intervals in brackets" if ends else "")
    if low is not None or high is not None:
        raise DataError(
            f"{function}: {most} rows of the table fall on one cell ({', '.join(keys)}), so the intervals {low!r}, "
            f"{high!r} are not those of the cell. Choose one row for each, e.g. table[table.seed == 0], "
            f"or leave low= and high= out: then the figure shows the mean and the range of the rows."
        )
    return _averaged(groups, list(keys), most)


def _averaged(groups: pd.api.typing.DataFrameGroupBy, keys: Sequence[str], most: int) -> Cells:
    made = groups["value"].agg(["mean", "min", "max", "size", "count"]).reset_index()
    made.columns = pd.Index([*keys, "value", "low", "high", "rows", "known"])
    fewest, unknown = int(made["rows"].min()), int((made["rows"] - made["known"]).sum())
    count = f"{most}" if fewest == most else f"{fewest} to {most}"
    left_out = f", {unknown} missing value{'s' * (unknown > 1)} left out" if unknown else ""
    return Cells(made.drop(columns="known"), f"mean and [range] of {count} rows{left_out}")


def interval_columns(
    table: pd.DataFrame, function: str, value: str, low: str | None, high: str | None
) -> tuple[str, str] | None:
    """The two ends: as named, or `<value>_low` and `<value>_high` where the table has both."""
    if (low is None) != (high is None):
        raise DataError(f"{function}: an interval has two ends, but low={low!r}, high={high!r}. Name both or neither.")
    if low is not None and high is not None:
        require(table, function, low=low, high=high)
        require_numbers(table, function, low, high)
        return low, high
    usual = (f"{value}_low", f"{value}_high")
    return usual if set(usual) <= set(table.columns) else None


def _letter(table: pd.DataFrame, function: str, argument: str, column: str) -> str:
    has = [str(name) for name in table.columns]
    return (
        f"{function} needs a column {column!r} for {argument}=, and the table has none. {nearest(column, has)} "
        f"If another column holds it, name it: {function}(table, {argument}='...'), "
        f"or rename it: table.rename(columns={{'...': {column!r}}})."
    )


def _name(value: object) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
