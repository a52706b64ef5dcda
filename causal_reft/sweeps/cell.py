"""A cell: any frozen dataclass of JSON values. Its digest covers its fields and the experiment that it belongs to.

Fields with `compare=False` are kept with a cell and do not determine its result. `Result` is what a cell gives.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any

import numpy as np
import pandas as pd

from causal_reft.errors import StudyError

FORMAT = 2  # 1: studies kept no graphs and no training rows


@dataclass(frozen=True, eq=False)
class Result:
    """What a cell gives.

    Attributes:
        arrays: numbers by name, e.g. one score for each row.
        facts: JSON values by name; `facts["rows"]`, a list of table rows, is what `table_of` reads.
        seconds: of processor time that the cell took; the runner measures it where it is 0.
        provenance: the machine that computed it (set by the store).
    """

    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    seconds: int | float = 0.0
    provenance: Mapping[str, Any] = field(default_factory=dict)


def table_of(results: Mapping[Any, Result]) -> pd.DataFrame:
    """The rows of all cells, each with its cell's fields in front."""
    rows = [{**fields_of(cell), **row} for cell, found in results.items() for row in found.facts.get("rows", [{}])]
    return pd.DataFrame(rows)


def digest_of(value: Any) -> str:
    """Sixteen hexadecimal digits over a JSON value.

    Raises:
        StudyError: something in it is no JSON value.
    """
    return hashlib.sha256(as_json(value).encode()).hexdigest()[:16]


def cell_digest(cell: Any, experiment: str) -> str:
    """The digest of a cell of the experiment with this digest.

    Raises:
        StudyError: no frozen dataclass of JSON values.
    """
    return digest_of([FORMAT, experiment, type(cell).__name__, _identity(cell)])


def fields_of(cell: Any) -> dict[str, Any]:
    """Every field of a cell as a JSON value."""
    _check(cell)
    return plain(asdict(cell))


def cell_from(kind: type, values: Mapping[str, Any]) -> Any:
    """A cell from its stored fields: lists become tuples again."""
    return kind(**{name: _hashable(value) for name, value in values.items()})


def label_of(cell: Any) -> str:
    """The fields that differ from their defaults, as part of a file name."""
    defaults = {one.name: one.default for one in fields(cell) if one.default is not MISSING}
    shown = [
        str(value) if isinstance(value, str) else f"{name}{value}"
        for name, value in _identity(cell).items()
        if name not in defaults or defaults[name] != value
    ]
    return re.sub(r"[^\w.+-]+", "_", "-".join(shown))[:80]


def plain(value: Any, where: str = "") -> Any:
    """A value as JSON keeps it: tuples as lists, numpy's numbers as Python's.

    Raises:
        StudyError: what JSON would change or cannot hold, with its place.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(one, f"{where}[{number}]") for number, one in enumerate(value)]
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise StudyError(f"{where or 'A mapping'} has the key {name!r}; only strings can be kept as JSON keys.")
        return {name: plain(one, f"{where}.{name}".lstrip(".")) for name, one in value.items()}
    raise StudyError(
        f"{where or 'A value'} is a {type(value).__name__}, which JSON cannot keep. Allowed: text, numbers, booleans, "
        "None, and lists and mappings of them; give arrays as Result(arrays=...)."
    )


def as_json(value: Any) -> str:
    """One spelling for each JSON value."""
    return json.dumps(plain(value), sort_keys=True)


def _identity(cell: Any) -> dict[str, Any]:
    known = fields_of(cell)
    return {one.name: known[one.name] for one in fields(cell) if one.compare}


def _check(cell: Any) -> None:
    options = getattr(type(cell), "__dataclass_params__", None)  # of a dataclass; the stubs lack it
    if options is None or not options.frozen:
        raise StudyError(
            f"{cell!r} is no cell: a cell is a frozen dataclass of JSON values, @dataclass(frozen=True) class Cell: ..."
        )


def _hashable(value: Any) -> Any:
    return tuple(_hashable(one) for one in value) if isinstance(value, list) else value
