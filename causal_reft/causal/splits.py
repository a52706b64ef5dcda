"""Split counterfactuals so that no setting, entity or prompt is ever in two parts: not as a base, not as a source.

What a network reads is the prompt, and a template need not show every input, so two settings with one prompt count as
the same. Rows are connected by the settings and prompts that they share. Where those chains are short, whole chains go
to a part and nothing is lost. Where everything is connected (few settings, many pairs), the settings themselves are
dealt out and the rows that would cross are dropped, and counted. To lose none, split the settings first and draw pairs
inside each part; `task.write(settings)` adds the prompts by which they are kept together:

    train, select, test = split_settings(model.settings(), 0.6, 0.2, 0.2)
    data = model.counterfactuals("left", 1000, seed=0, among=train)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from causal_reft.causal.columns import PROMPT, TEXT, as_column, row_keys
from causal_reft.causal.settings import check_known, check_seed
from causal_reft.errors import CausalModelError
from causal_reft.seeds import numpy_stream

PARTS = ("train", "select", "test")
DROPPED = -1


def deal_rows(runs: Sequence[pd.DataFrame], columns: tuple[str, ...], fractions: np.ndarray, seed: int) -> np.ndarray:
    """For each row the number of its part, or `DROPPED`: by chains of shared entities, or by entities where one chain
    would not fit (see above).

    Args:
        runs: the frame of each run.
        columns: what makes an entity; equal prompts count as one, too.
        fractions: of the parts.
        seed: of the deal.

    Raises:
        CausalModelError: a part that gets no row.
    """
    check_known(columns, runs[0].columns, "column")
    check_seed(seed)
    entities = _connected(runs, columns)
    stream = numpy_stream(seed, "split")
    part = _deal_chains(entities, fractions, stream)
    if part is None:
        of_entity = _deal(int(entities.max()) + 1, fractions, stream)[entities]
        part = np.where((of_entity == of_entity[0]).all(axis=0), of_entity[0], DROPPED)
    empty = [name for number, name in enumerate(PARTS) if fractions[number] and not (part == number).any()]
    if empty:
        raise CausalModelError(
            f"Nothing is left for {empty[0]!r}: the {len(part)} rows have too few different ({', '.join(columns)})"
            f"{' or prompts' * (PROMPT in runs[0])}. Split the settings first (split_settings) and draw "
            "counterfactuals inside each part with among=..."
        )
    return part


def split_settings(
    settings: pd.DataFrame,
    train: float,
    select: float = 0.0,
    test: float = 0.0,
    *,
    by: str | Sequence[str] | None = None,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Settings dealt to three frames; equal values of the columns `by` (default: all but prompt and text) stay
    together, and so do equal prompts where there is a column `prompt`."""
    columns = as_names(by, tuple(str(name) for name in settings if name not in (PROMPT, TEXT)))
    check_known(columns, settings.columns, "column")
    check_seed(seed)
    keys = _connected([settings], columns)[0]
    part = _deal(int(keys.max()) + 1, as_fractions(train, select, test), numpy_stream(seed, "split"))[keys]
    train_rows, select_rows, test_rows = (np.flatnonzero(part == i) for i in range(len(PARTS)))
    return _rows(settings, train_rows), _rows(settings, select_rows), _rows(settings, test_rows)


def _rows(frame: pd.DataFrame, rows: np.ndarray) -> pd.DataFrame:
    return frame.take(rows).reset_index(drop=True)


def as_fractions(*fractions: float) -> np.ndarray:
    """The shares of the parts, which add to 1."""
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        shown = ", ".join(f"{name}={share}" for name, share in zip(PARTS, fractions, strict=True))
        raise CausalModelError(f"{shown}: the parts are fractions of the rows and add to 1, e.g. 0.6, 0.2, 0.2.")
    return np.array(fractions)


def as_names(by: str | Sequence[str] | None, default: tuple[str, ...]) -> tuple[str, ...]:
    """The columns of an entity, by default all of these."""
    return default if by is None else (by,) if isinstance(by, str) else tuple(by)


def _connected(frames: Sequence[pd.DataFrame], columns: tuple[str, ...]) -> np.ndarray:
    """A number for each row of each run, equal where the values of `columns` or the prompts are: "runs rows"."""
    keys = _keys(frames, columns)
    if not all(PROMPT in frame for frame in frames):
        return keys.reshape(len(frames), -1)
    prompts = keys.max(initial=-1) + 1 + _keys(frames, (PROMPT,))
    links = (np.ones(len(keys)), (keys, prompts))
    size = int(prompts.max(initial=-1)) + 1
    component = connected_components(coo_array(links, shape=(size, size)), directed=False)[1]
    return np.unique(component[keys], return_inverse=True)[1].reshape(len(frames), -1)


def _keys(frames: Sequence[pd.DataFrame], columns: Sequence[str]) -> np.ndarray:
    return row_keys(np.concatenate([as_column(frame[name]) for frame in frames]) for name in columns)


def _deal(count: int, fractions: np.ndarray, stream: np.random.Generator) -> np.ndarray:
    """A part for each of `count` entities, in random order, in these proportions."""
    edges = np.round(np.cumsum(fractions) * count)
    return np.searchsorted(edges, stream.permutation(count), side="right").clip(max=len(PARTS) - 1)


def _deal_chains(entities: np.ndarray, fractions: np.ndarray, stream: np.random.Generator) -> np.ndarray | None:
    """A part for each row, whole chains at a time; None where a chain is larger than the largest part."""
    runs, rows = entities.shape
    pairs = np.tile(entities[0], runs - 1), entities[1:].reshape(-1)
    links = (np.ones((runs - 1) * rows), tuple(side.astype(np.int32) for side in pairs))  # all that older scipy reads
    chains = connected_components(coo_array(links, shape=(entities.max() + 1,) * 2), directed=False)[1][entities[0]]
    _, chains, sizes = np.unique(chains, return_inverse=True, return_counts=True)
    room = fractions * rows
    if sizes.max() > room.max():
        return None
    part = np.empty(len(sizes), dtype=np.int64)
    shuffled = stream.permutation(len(sizes))
    for number in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        part[number] = int(np.argmax(room))
        room[part[number]] -= sizes[number]
    return part[chains]
