"""Split counterfactuals so that no setting (or entity) is ever in two parts: not as a base, not as a source.

Rows hang together through the settings they share. Where those chains are short, whole chains go to a part and nothing
is lost. Where everything hangs together (few settings, many pairs), the settings themselves are dealt out and the rows
that would cross are dropped, and counted. To lose none, split the settings first and draw pairs inside each part:

    train, select, test = split_settings(model.settings(), 0.6, 0.2, 0.2)
    data = model.counterfactuals("left", 1000, seed=0, among=train)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from causal_reft.causal.columns import as_column, row_keys
from causal_reft.causal.counterfactuals import CounterfactualDataset
from causal_reft.causal.settings import check_known
from causal_reft.errors import CausalModelError
from causal_reft.seeds import numpy_stream

PARTS = ("train", "select", "test")
DROPPED = -1


@dataclass(frozen=True, eq=False, repr=False)
class Splits:
    """Three datasets without a common entity: `train` to fit on, `select` to choose on, `test` to report on."""

    train: CounterfactualDataset
    select: CounterfactualDataset
    test: CounterfactualDataset
    dropped: int
    by: tuple[str, ...]

    def __iter__(self) -> Iterator[CounterfactualDataset]:
        return iter((self.train, self.select, self.test))

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {len(part)}" for name, part in zip(PARTS, self, strict=True))
        return f"Splits: {sizes} rows; no ({', '.join(self.by)}) in two parts; {self.dropped} crossing rows dropped"


def split(
    data: CounterfactualDataset,
    train: float,
    select: float,
    test: float,
    by: str | Sequence[str] | None,
    seed: int,
) -> Splits:
    """Deal rows to parts by chains of shared entities, or by entities where one chain would not fit (see above)."""
    fractions, columns = _fractions(train, select, test), _columns(by, data.inputs)
    check_known(columns, data.base.columns, "column")
    entities = _entities(data, columns)
    stream = numpy_stream(seed, "split")
    part = _deal_chains(entities, fractions, stream)
    if part is None:
        of_entity = _deal(int(entities.max()) + 1, fractions, stream)[entities]
        part = np.where((of_entity == of_entity[0]).all(axis=0), of_entity[0], DROPPED)
    parts = [data[np.flatnonzero(part == i)] for i in range(len(PARTS))]
    empty = [name for name, rows, share in zip(PARTS, parts, fractions, strict=True) if share and not len(rows)]
    if empty:
        raise CausalModelError(
            f"Nothing is left for {empty[0]!r}: the {len(data)} rows share too few ({', '.join(columns)}). Split the "
            "settings first (split_settings) and draw counterfactuals inside each part with among=..."
        )
    return Splits(*parts, dropped=int((part == DROPPED).sum()), by=columns)


def split_settings(
    settings: pd.DataFrame,
    train: float,
    select: float = 0.0,
    test: float = 0.0,
    *,
    by: str | Sequence[str] | None = None,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Settings dealt to three frames; equal values of the columns `by` (default: all) stay together."""
    columns = _columns(by, tuple(settings.columns))
    check_known(columns, settings.columns, "column")
    keys = row_keys(as_column(settings[name]) for name in columns)
    part = _deal(int(keys.max()) + 1, _fractions(train, select, test), numpy_stream(seed, "split"))[keys]
    train_rows, select_rows, test_rows = (np.flatnonzero(part == i) for i in range(len(PARTS)))
    return _rows(settings, train_rows), _rows(settings, select_rows), _rows(settings, test_rows)


def _rows(frame: pd.DataFrame, rows: np.ndarray) -> pd.DataFrame:
    return frame.take(rows).reset_index(drop=True)


def _fractions(*fractions: float) -> np.ndarray:
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        shown = ", ".join(f"{name}={share}" for name, share in zip(PARTS, fractions, strict=True))
        raise CausalModelError(f"{shown}: the parts are fractions of the rows and add to 1, e.g. 0.6, 0.2, 0.2.")
    return np.array(fractions)


def _columns(by: str | Sequence[str] | None, default: tuple[str, ...]) -> tuple[str, ...]:
    return default if by is None else (by,) if isinstance(by, str) else tuple(by)


def _entities(data: CounterfactualDataset, columns: tuple[str, ...]) -> np.ndarray:
    """The entity number of each row in each run: "runs rows"."""
    frames = list(data.runs.values())
    joined = (np.concatenate([as_column(frame[name]) for frame in frames]) for name in columns)
    return row_keys(joined).reshape(len(frames), len(data))


def _deal(count: int, fractions: np.ndarray, stream: np.random.Generator) -> np.ndarray:
    """A part for each of `count` entities, in random order, in these proportions."""
    edges = np.round(np.cumsum(fractions) * count)
    return np.searchsorted(edges, stream.permutation(count), side="right").clip(max=len(PARTS) - 1)


def _deal_chains(entities: np.ndarray, fractions: np.ndarray, stream: np.random.Generator) -> np.ndarray | None:
    """A part for each row, whole chains at a time; None where a chain is larger than the largest part."""
    runs, rows = entities.shape
    links = (np.ones((runs - 1) * rows), (np.tile(entities[0], runs - 1), entities[1:].reshape(-1)))
    chain = connected_components(coo_array(links, shape=(entities.max() + 1,) * 2), directed=False)[1][entities[0]]
    _, chain, sizes = np.unique(chain, return_inverse=True, return_counts=True)
    room = fractions * rows
    if sizes.max() > room.max():
        return None
    part = np.empty(len(sizes), dtype=np.int64)
    shuffled = stream.permutation(len(sizes))
    for number in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        part[number] = int(np.argmax(room))
        room[part[number]] -= sizes[number]
    return part[chain]
