"""Computes the cells that a store does not hold yet: in this process or through an executor, and says how far it is.

Ctrl-C and errors go up; cells that are finished are kept, and the same call goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from causal_reft.errors import StorageError, StudyError
from causal_reft.sweeps.bar import Bar, Facts
from causal_reft.sweeps.cell import Result
from causal_reft.sweeps.store import Store

_tick: ContextVar[Callable[[int | float], None] | None] = ContextVar("tick", default=None)
_inside: ContextVar[bool] = ContextVar("inside", default=False)


def run(
    cells: Iterable[Any],
    compute: Callable[[Any], Any],
    store: Store,
    executor: Any = None,
    progress: bool = True,
    name: str = "cells",
    facts: Facts = dict,
) -> dict[Any, Result]:
    """The results of all cells; those that the store holds are not computed again.

    Args:
        cells: cells, or tuples of cells that are computed and kept together. Which cells form a group should follow
            from the experiment alone, so that every run computes the same groups.
        compute: cell -> Result; for a tuple of cells -> their results in order. It may call `tick`.
        store: where finished cells are kept; its files are written by this process alone.
        executor: anything with `submit` whose futures have `done`, `result` and `cancel`: a pool of
            `concurrent.futures`, Dask's `Client.get_executor()`, submitit. `compute` must be picklable for it.
        progress: whether to show a bar on a terminal and a table in a notebook, with the time left.
        name: what the bar says.
        facts: what else it says: name -> text, from what is finished. Called once a second at most.

    Raises:
        StudyError: a cell is given twice; `compute` returned something else than results.
        KeyboardInterrupt: after a sentence that says how many cells are kept where.
    """
    groups = list(cells)
    members = [cell for group in groups for cell in _members(group)]
    if len(set(members)) < len(members):
        raise StudyError("A cell is given twice; each cell of a sweep is computed once.")
    held = store.get(members)
    with going_on(store), Bar(len(members), len(held), name, facts, progress) as bar:
        for results in _computed(groups, compute, store, executor, bar):
            store.put(results)
            bar.finish(len(results))
    return store.get(members)


def tick(share: int | float) -> None:
    """Say, inside `compute`, which share of the cell or group is done: moves the bar of a run in this process."""
    report = _tick.get()
    if report is not None:
        report(share)


@contextmanager
def ticking(report: Callable[[int | float], None]) -> Iterator[None]:
    """Inside, `tick` calls `report`."""
    token = _tick.set(report)
    try:
        yield
    finally:
        _tick.reset(token)


@contextmanager
def going_on(store: Store) -> Iterator[None]:
    """At Ctrl-C or an error inside, say what is kept and how to go on; only the outermost of several says it.

    `run` does so itself. For work of several runs on one store, put it around them all.
    """
    if _inside.get():
        yield
        return
    token = _inside.set(True)
    try:
        yield
    except KeyboardInterrupt:
        how = "Give a folder to keep them longer." if store.is_temporary else "Run the same again to go on from there."
        tqdm.write(f"Interrupted: {store.kept} {how}")
        raise
    except StorageError:
        raise  # it says so itself
    except Exception as error:
        tqdm.write(f"Stopped by {type(error).__name__}: {store.kept} The same call goes on from there.")
        raise
    finally:
        _inside.reset(token)


def _computed(
    groups: Sequence[Any], compute: Callable[[Any], Any], store: Store, executor: Any, bar: Bar
) -> Iterator[dict[Any, Result]]:
    """The results of what is missing of each group, in whatever order they come."""
    if executor is not None:
        yield from _submitted([todo for group in groups if (todo := _missing(group, store))], compute, executor)
        return
    for group in groups:
        todo = _missing(group, store)  # asked late: another process may have been faster
        if not todo:
            continue
        start, width = bar.n, len(_members(todo))
        with ticking(lambda share, start=start, width=width: _move(bar, start + share * width)):
            results = _timed(compute, todo)
        _move(bar, start)
        yield results


def _submitted(todo: Sequence[Any], compute: Callable[[Any], Any], executor: Any) -> Iterator[dict[Any, Result]]:
    pending = [executor.submit(_timed, compute, group) for group in todo]
    try:
        while pending:
            done = [future.done() for future in pending]
            ready = [future for future, is_done in zip(pending, done, strict=True) if is_done]
            pending = [future for future, is_done in zip(pending, done, strict=True) if not is_done]
            for future in ready:
                yield future.result()
            if not ready:
                time.sleep(0.02)
    finally:
        for future in pending:
            future.cancel()


def _missing(group: Any, store: Store) -> Any:
    """The group, or the part of it that the store lacks; an empty tuple where it lacks nothing."""
    found = store.get(_members(group))
    if not found:
        return group
    return tuple(cell for cell in _members(group) if cell not in found)


def _members(group: Any) -> tuple[Any, ...]:
    return group if isinstance(group, tuple) else (group,)


def _timed(compute: Callable[[Any], Any], group: Any) -> dict[Any, Result]:
    start, cells = time.process_time(), _members(group)
    found = compute(group)
    results = list(found.values() if isinstance(found, Mapping) else found) if isinstance(group, tuple) else [found]
    if len(results) != len(cells) or not all(isinstance(one, Result) for one in results):
        raise StudyError(
            f"compute gave {[type(one).__name__ for one in results]} for {len(cells)} cells; it gives one "
            "sweeps.Result for each."
        )
    each = (time.process_time() - start) / len(cells)
    timed = [one if one.seconds else replace(one, seconds=each) for one in results]
    return dict(zip(cells, timed, strict=True))


def _move(bar: Bar, place: int | float) -> None:
    bar.update(place - bar.n)
