"""Which base/source pairs to look at. A strategy picks pairs; the labels always come from the causal model.

- uniform: base and sources independent and uniform. Honest, but most pairs may change nothing.
- balanced: equally many rows for every outcome, where an outcome is the expected output and whether the interchange
  changed it (so "do nothing" scores no better than chance on a binary output); or, with `over=("carry",)`, for every
  combination of those variables' values on base and sources. An outcome that exists and is too rare to be drawn is an
  error.
- distinguishing: only pairs on which two hypotheses expect different outputs.
- per_variable: each row moves one variable; the others take the base's own value.
- exhaustive: every pair that the domains allow, once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from causal_reft.causal.columns import Column, Columns, as_frame, is_member, row_keys
from causal_reft.causal.counterfactuals import CounterfactualDataset
from causal_reft.causal.equations import LARGEST_TABLE, Equations, n_rows
from causal_reft.causal.sampling import Pairs, Sampler, differs, outcome, pick
from causal_reft.causal.settings import check_count, check_known, check_seed
from causal_reft.errors import CausalModelError, nearest
from causal_reft.seeds import numpy_stream

SMALLEST_ROUND = 4096
LARGEST_LISTED = 1_000_000
MOST_ROUNDS = 100
Rival = tuple[Equations, str | Sequence[str]]


def sample_counterfactuals(
    model: Equations,
    variables: tuple[str, ...],
    n: int | None,
    seed: int,
    strategy: str,
    pool: Columns | None = None,
    over: Sequence[str] | None = None,
    against: Rival | None = None,
    shared_source: bool = False,
) -> CounterfactualDataset:
    """What `CausalModel.counterfactuals` returns; the arguments are documented there, `pool` are the columns of
    `among`."""
    _check_request(model, variables, n, strategy, over, against, shared_source)
    check_seed(seed)
    sampler = Sampler(model, variables, seed, pool, shared_source)
    return label(model, STRATEGIES[strategy](sampler, n, over, against), seed)


def label(model: Equations, pairs: Pairs, seed: int | None) -> CounterfactualDataset:
    """Pairs with what the model expects of them, as a dataset."""
    expected = outcome(model, pairs)
    frames = {id(source): as_frame(model.compute(source)) for source in pairs.sources.values()}
    return CounterfactualDataset(
        base=as_frame(model.compute(pairs.base)),
        sources={name: frames[id(source)] for name, source in pairs.sources.items()},
        labels=as_frame({name: expected[name] for name in model.outputs}),
        variables=tuple(pairs.sources),
        inputs=tuple(model.inputs),
        seed=seed,
    )


def _check_request(
    model: Equations,
    variables: tuple[str, ...],
    n: int | None,
    strategy: str,
    over: Any,
    against: Any,
    shared_source: bool,
) -> None:
    if strategy not in STRATEGIES:
        raise CausalModelError(f"There is no strategy {strategy!r}. {nearest(strategy, STRATEGIES)}")
    if not variables or len(set(variables)) < len(variables):
        raise CausalModelError(f"Name one or more different variables to interchange, not {list(variables)}.")
    if not model.outputs:
        raise CausalModelError("This causal model has no mechanism, so nothing is expected of an interchange.")
    if over is not None:
        check_known(over, model.variables, "variable")
    given = {"over": over is not None, "against": against is not None, "n": n is not None}
    wanted = {"over": {"balanced"}, "against": {"distinguishing"}, "n": set(STRATEGIES) - {"exhaustive"}}
    unused = [name for name, is_given in given.items() if is_given and strategy not in wanted[name]]
    if unused:
        raise CausalModelError(f"strategy={strategy!r} does not use {unused[0]}=...; leave it out (n=None for all).")
    if strategy == "distinguishing" and against is None:
        raise CausalModelError("strategy='distinguishing' needs the rival: against=(other_model, 'its_variable').")
    if strategy != "exhaustive":
        check_count(n, f"strategy={strategy!r}")
    if strategy == "per_variable" and shared_source and len(variables) > 1:
        raise CausalModelError(
            "strategy='per_variable' moves one variable in each row and leaves the others at the base's values, so "
            "each variable has a source of its own. Leave out shared_source=True, or use strategy='uniform'."
        )


def _uniform(sampler: Sampler, n: int, over: Any, against: Any) -> Pairs:
    return sampler.draw(n)


def _per_variable(sampler: Sampler, n: int, over: Any, against: Any) -> Pairs:
    pairs = sampler.draw(n)
    owner = numpy_stream(sampler.seed, "owner").permutation(np.arange(n) % len(sampler.variables))
    sources = {
        name: {key: _where(owner == i, column, pairs.base[key]) for key, column in pairs.sources[name].items()}
        for i, name in enumerate(sampler.variables)
    }
    return Pairs(pairs.base, sources)


def _where(rows: np.ndarray, yes: np.ndarray, no: np.ndarray) -> np.ndarray:
    return np.where(rows.reshape(-1, *[1] * (yes.ndim - 1)), yes, no)


def _exhaustive(sampler: Sampler, n: None, over: Any, against: Any) -> Pairs:
    settings = sampler.model.settings() if sampler.pool is None else sampler.pool
    rows = n_rows(settings)
    runs = 2 if sampler.shared_source else 1 + len(sampler.variables)
    if rows**runs > LARGEST_TABLE:
        raise CausalModelError(
            f"All pairs of {rows:,} settings over {runs} runs are {rows**runs:,} rows. Restrict them with "
            "among=settings, or sample: strategy='uniform', n=10_000."
        )
    numbers = np.indices((rows,) * runs).reshape(runs, -1)
    base, *picked = (pick(settings, number) for number in numbers)
    repeated = picked * (len(sampler.variables) if sampler.shared_source else 1)
    return Pairs(base, dict(zip(sampler.variables, repeated, strict=True)))


def _distinguishing(sampler: Sampler, n: int, over: Any, against: Rival) -> Pairs:
    rival, theirs = against
    names = dict(zip(sampler.variables, (theirs,) if isinstance(theirs, str) else theirs, strict=True))
    check_known(names.values(), rival.variables, "variable")
    outputs = sampler.model.outputs
    if set(rival.outputs) != set(outputs) or set(rival.inputs) != set(sampler.model.inputs):
        raise CausalModelError(
            f"Two hypotheses are compared on the same inputs and outputs, but one has {list(sampler.model.inputs)} -> "
            f"{list(outputs)} and the rival {list(rival.inputs)} -> {list(rival.outputs)}."
        )
    found: Pairs | None = None
    for round_ in range(MOST_ROUNDS):
        pairs = sampler.draw(max(2 * n, SMALLEST_ROUND), round_)
        disagree = differs(outcome(sampler.model, pairs), outcome(rival, pairs, names), outputs)
        kept = pairs.take(np.flatnonzero(disagree))
        found = kept if found is None else found + kept
        if len(found) >= n:
            return found.take(np.arange(n))
    raise CausalModelError(
        f"The two hypotheses disagree on {0 if found is None else len(found)} of {MOST_ROUNDS} rounds of "
        f"{max(2 * n, SMALLEST_ROUND):,} pairs; {n} were asked for. If none: no data of this kind can tell them apart."
    )


def _balanced(sampler: Sampler, n: int, over: Sequence[str] | None, against: Any) -> Pairs:
    found: Pairs | None = None
    cells: Columns | None = None
    quota, possible = n, _possible(sampler, over)
    missing: list[Any] = []
    counts = np.zeros(0, dtype=np.int64)
    for round_ in range(MOST_ROUNDS):
        pairs = sampler.draw(max(2 * n, SMALLEST_ROUND), round_)
        new = _cells(sampler.model, pairs, over)
        cells = new if cells is None else {k: np.concatenate([cells[k], new[k]]) for k in cells}
        found = pairs if found is None else found + pairs
        rank, counts = _rank_in_cell(row_keys(cells.values()))
        quota = -(-n // len(counts))
        kept = np.flatnonzero(rank < quota)
        found, cells = found.take(kept), pick(cells, kept)
        missing = _missing(possible, cells)
        if round_ and counts.min() >= quota and not missing:
            if len(counts) == 1 and not possible:
                break
            return _fill(sampler, found, row_keys(cells.values()), n)
    if not missing and len(counts) == 1:
        raise CausalModelError(
            "strategy='balanced': all pairs that were drawn have one outcome, so there is nothing to balance. Restrict "
            "the settings so that another is less rare: among=settings; or use strategy='uniform'."
        )
    if missing:
        raise CausalModelError(
            f"strategy='balanced': {missing[0][1]!r} is a value of {missing[0][0]!r}, and none of {MOST_ROUNDS} rounds "
            f"of {max(2 * n, SMALLEST_ROUND):,} pairs has it. Restrict the settings so that it is less rare: "
            "among=settings; or use strategy='uniform'."
        )
    table = as_frame(cells or {}).value_counts().rename("rows").reset_index()
    rarest = table.tail(3).to_string(index=False)
    raise CausalModelError(
        f"{n} rows over {len(table)} outcomes need {quota} of each, and after {MOST_ROUNDS} rounds of "
        f"{max(2 * n, SMALLEST_ROUND):,} pairs the rarest has {table['rows'].min()}:\n{rarest}\n"
        "Ask for fewer rows, balance something coarser (over=('variable',)), or use strategy='uniform'."
    )


def _possible(sampler: Sampler, over: Sequence[str] | None) -> dict[str, Column]:
    """For each column of `_cells` the values that it must take, as far as the settings can be listed."""
    model = sampler.model
    if sampler.pool is None and model.size > LARGEST_LISTED:
        return {}
    every = model.compute(model.settings() if sampler.pool is None else sampler.pool)
    if over is None:
        return {name: every[name] for name in model.outputs}
    runs = ["base", *(f"source of {name}" for name in sampler.variables)]
    return {f"{name} in {run}": every[name] for run in runs for name in over}


def _missing(possible: dict[str, Column], cells: Columns) -> list[tuple[str, Any]]:
    """(column, value) of values that are possible and were not drawn."""
    return [
        (name, column[~is_member(column, cells[name])].tolist()[0])
        for name, column in possible.items()
        if not is_member(column, cells[name]).all()
    ]


def _cells(model: Equations, pairs: Pairs, over: Sequence[str] | None) -> Columns:
    base = model.compute(pairs.base)
    if over is None:
        expected = outcome(model, pairs)
        changed = differs(expected, base, model.outputs)
        return {**{name: expected[name] for name in model.outputs}, "changed by the interchange": changed}
    runs = {"base": base, **{f"source of {name}": model.compute(s) for name, s in pairs.sources.items()}}
    return {f"{name} in {run}": columns[name] for (run, columns), name in product(runs.items(), over)}


def _rank_in_cell(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row how many rows of its cell come before it, and the size of every cell."""
    series = pd.Series(keys)
    return series.groupby(series).cumcount().to_numpy(), series.value_counts().to_numpy()


def _fill(sampler: Sampler, found: Pairs, keys: np.ndarray, n: int) -> Pairs:
    """n rows, as equal over the cells as n allows, in random order."""
    stream = numpy_stream(sampler.seed, "balance")
    rank, counts = _rank_in_cell(keys)
    size = np.full(len(counts), n // len(counts))
    size[stream.permutation(len(counts))[: n % len(counts)]] += 1
    return found.take(stream.permutation(np.flatnonzero(rank < size[keys])))


STRATEGIES: dict[str, Callable[..., Pairs]] = {
    "uniform": _uniform,
    "balanced": _balanced,
    "distinguishing": _distinguishing,
    "per_variable": _per_variable,
    "exhaustive": _exhaustive,
}
