"""What a mechanism is: a function over columns whose argument names are its parents.

Everything that can be read off a function before it runs is read here (its parents, the line that wrote it), and
everything that can go wrong when it runs becomes an error that shows that line.
"""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np
import pandas as pd

from causal_reft.causal.columns import Column, as_column
from causal_reft.errors import CausalModelError

Mechanism = Callable[..., Any]
LONGEST_LAMBDA = 5  # lines that are searched for one
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def source_line(mechanism: Mechanism) -> str:
    """Where a mechanism was written, and the line itself: "model.py:12: left=lambda w, x: w == x"."""
    code = getattr(inspect.unwrap(mechanism), "__code__", None)
    if code is None:
        return repr(mechanism)
    line = linecache.getline(code.co_filename, code.co_firstlineno).strip()
    return f"{Path(code.co_filename).name}:{code.co_firstlineno}: {line or mechanism}"


def own_text(mechanism: Mechanism) -> str:
    """What was written: of a lambda "lambda w, x: w == x", of another function the line of its `def`."""
    code = getattr(inspect.unwrap(mechanism), "__code__", None)
    if code is None:
        return repr(mechanism)
    lines = linecache.getlines(code.co_filename)[code.co_firstlineno - 1 :][:LONGEST_LAMBDA]
    if code.co_name != "<lambda>":
        return next((line.strip() for line in lines if line.strip().startswith("def ")), repr(mechanism))
    text = "".join(lines)
    starts = [found.start() for found in re.finditer(r"\blambda\b", text)]
    return next((one for start in starts if (one := _lambda_in(text[start:], code))), source_line(mechanism))


def _lambda_in(text: str, code: CodeType) -> str:
    """The longest beginning of a text that is a lambda with this code, in one line; empty if none is."""
    for end in range(len(text), 0, -1):
        try:
            tree = ast.parse(text[:end], mode="eval")
        except SyntaxError:
            continue
        if isinstance(tree.body, ast.Lambda):
            found = compile(tree, "", "eval").co_consts[0]
            same = (found.co_code, found.co_names, found.co_varnames) == (code.co_code, code.co_names, code.co_varnames)
            return " ".join(text[:end].split()) if same else ""
    return ""


def parents_of(name: str, mechanism: Mechanism) -> tuple[str, ...]:
    """The argument names without a default; a default makes an argument a constant of the mechanism."""
    try:
        parameters = inspect.signature(mechanism).parameters.values()
    except (TypeError, ValueError) as failure:
        raise CausalModelError(
            f"The mechanism of {name!r} hides its argument names ({failure}), and they are its parents.\n"
            f"Wrap it: {name}=lambda first_parent, second_parent: {mechanism!r}(first_parent, second_parent)"
        ) from failure
    unnamed = [parameter for parameter in parameters if parameter.kind not in NAMED]
    if unnamed:
        raise CausalModelError(
            f"The mechanism of {name!r} takes {unnamed[0]}, which names no parent. Write each parent as an argument.\n"
            f"  {source_line(mechanism)}"
        )
    return tuple(parameter.name for parameter in parameters if parameter.default is inspect.Parameter.empty)


def rowwise(function: Mechanism) -> Mechanism:
    """Turn a function of single values into a mechanism over columns (one Python call per row: fine when small).

    Example: `mechanisms={"answer": rowwise(lambda flag, name: name if flag else "nobody")}`.
    """
    parents = parents_of(getattr(function, "__name__", "rowwise"), function)

    @functools.wraps(function)
    def over_columns(**columns: Column) -> Column:
        rows = zip(*(_cells(columns[parent]) for parent in parents), strict=True)
        return as_column([function(**dict(zip(parents, row, strict=True))) for row in rows])

    return over_columns


def _cells(column: Column) -> list[Any]:
    """The values of a column one by one: plain Python values, or the vectors of a vector column."""
    return list(column) if column.ndim > 1 else column.tolist()


def apply(name: str, mechanism: Mechanism, parents: dict[str, Column], rows: int) -> Column:
    """Run one mechanism on its parents' columns, which it cannot change; one value for each of the rows comes out.

    Raises:
        CausalModelError: with the mechanism's line, whatever went wrong in it.
    """
    try:
        result = mechanism(**{parent: _read_only(column) for parent, column in parents.items()})
    except Exception as failure:
        if isinstance(failure, ValueError) and "read-only" in str(failure):
            raise CausalModelError(
                f"The mechanism of {name!r} changes one of its arguments ({', '.join(parents)}) in place, which would "
                f"change that variable itself.\n  {source_line(mechanism)}\n"
                "Make a new column: write x = x + 1, not x += 1; or copy first: x = x.copy()."
            ) from failure
        if isinstance(failure, CausalModelError):
            raise CausalModelError(f"The mechanism of {name!r}: {failure}\n  {source_line(mechanism)}") from None
        raise CausalModelError(
            f"The mechanism of {name!r} failed on columns of {rows} settings: {type(failure).__name__}: {failure}\n"
            f"  {source_line(mechanism)}\n"
            "A mechanism gets whole columns (numpy arrays). Write & | ~ and np.where instead of and, or, not and if; "
            "or wrap a function of single values: rowwise(function)."
        ) from failure
    return _checked(name, mechanism, result, rows, constant=not parents)


def _read_only(column: Column) -> Column:
    """A view of a column that refuses to be written to."""
    view = column.view()
    view.flags.writeable = False
    return view


def _checked(name: str, mechanism: Mechanism, result: Any, rows: int, constant: bool) -> Column:
    is_sequence = isinstance(result, Sequence) and not isinstance(result, str)
    if isinstance(result, pd.Series | pd.Index) or (is_sequence and not constant):
        result = _as_column(name, mechanism, result)
    if constant and np.ndim(result) == 0:
        result = _as_column(name, mechanism, [result] * rows)
    if np.ndim(result) == 0 or len(result) != rows:
        shape = f"{len(result)} values" if np.ndim(result) else f"the single value {result!r}"
        raise CausalModelError(
            f"The mechanism of {name!r} gave {shape} for {rows} settings; it must give one value per setting.\n"
            f"  {source_line(mechanism)}\n"
            "A function of single values works when wrapped: rowwise(function)."
        )
    return _as_column(name, mechanism, result)


def _as_column(name: str, mechanism: Mechanism, result: Any) -> Column:
    try:
        return as_column(result)
    except CausalModelError as failure:
        raise CausalModelError(f"The mechanism of {name!r}: {failure}\n  {source_line(mechanism)}") from None
