"""Where training data comes from: files, data sets, tables, lists. Each becomes a list of rows with named fields."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from causal_reft.errors import DataError, nearest

Row = Mapping[str, Any]
SUFFIXES = (".json", ".jsonl", ".csv")


def read_rows(data: Any, pair: Sequence[str]) -> list[Row]:
    """The rows of a data set.

    Args:
        data: a path to a .json, .jsonl or .csv file; a `datasets.Dataset`; a pandas DataFrame; a list of mappings
            or of tuples.
        pair: the names of a tuple's entries.

    Raises:
        DataError: no data; a file that cannot be read; rows of mixed types, or of another number of entries.
    """
    if isinstance(data, str | os.PathLike):
        rows: list[Any] = _read(Path(data))
    elif isinstance(data, Mapping):
        raise DataError(
            f"The data is one mapping with the keys {', '.join(map(str, data))}, not rows. Pass one split of it "
            "(data['train']), or a list of mappings."
        )
    elif hasattr(data, "to_dict") and hasattr(data, "columns"):
        rows = data.astype(object).where(data.notna(), None).to_dict("records")
    elif isinstance(data, Iterable):
        rows = list(data)
    else:
        raise DataError(
            f"A {type(data).__name__} holds no rows. Pass a path, a data set, or a list of mappings or pairs."
        )
    if not rows:
        raise DataError("There are no records in the data.")
    return [_named(number, row, pair) for number, row in enumerate(rows)]


def text_of(number: int, row: Row, field: str, empty: bool = False) -> str:
    """The string in a field of a row; `empty` says whether it may hold nothing.

    Raises:
        DataError: no such field; None, or another type than a string.
    """
    value = value_of(number, row, field)
    if empty and value is None:
        return ""
    if not isinstance(value, str):
        shown = "None" if value is None else f"a {type(value).__name__} ({str(value)[:40]!r})"
        raise DataError(
            f"Record {number}: its field {field!r} is {shown}, and must be a string. Fill it or drop the row."
        )
    return value


def value_of(number: int, row: Row, field: str) -> Any:
    """What a field of a row holds.

    Raises:
        DataError: no such field.
    """
    if field not in row:
        raise DataError(f"Record {number} has no field {field!r}. {nearest(field, map(str, row))}")
    return row[field]


def _named(number: int, row: Any, pair: Sequence[str]) -> Row:
    if isinstance(row, Mapping):
        return row
    if isinstance(row, str) or not isinstance(row, Sequence):
        raise DataError(
            f"Record {number} is a {type(row).__name__}: {str(row)[:60]!r}. Allowed: ({', '.join(pair)}), or a mapping "
            "with named fields."
        )
    if len(row) != len(pair):
        raise DataError(f"Record {number} has {len(row)} entries, and ({', '.join(pair)}) are {len(pair)}.")
    return dict(zip(pair, row, strict=True))


def _read(path: Path) -> list[Any]:
    if path.suffix not in SUFFIXES or not path.is_file():
        problem = "does not exist" if not path.is_file() else f"ends in {path.suffix or 'nothing'}"
        raise DataError(f"{path} {problem}. Data is read from files that end in {', '.join(SUFFIXES)}.")
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".csv":
        return _table(path, text)
    if path.suffix == ".jsonl" or text.lstrip()[:1] != "[":
        return [_object(path, f", line {n}", line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    return _object(path, "", text)


def _object(path: Path, where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}{where} is not JSON: {error}. A .json file holds a list of objects; .jsonl, one object a line."
        ) from error


def _table(path: Path, text: str) -> list[Any]:
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise DataError(f"{path} is no table: {error}.") from error
    for number, row in enumerate(rows):
        if None in row or None in row.values():
            raise DataError(f"{path}: record {number} has another number of columns than the first line names.")
    return rows
