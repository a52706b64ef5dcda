"""A causal model: inputs with domains, and mechanisms whose argument names are their parents.

It says what *should* happen. `run` gives every variable for given inputs; `interchange` gives what they would be if
some variables took the values they have on other inputs: the high-level counterpart of an interchange intervention on
a network (Geiger et al. 2023). All of it works on columns, so thousands of settings cost as many numpy calls as one.

    equality = CausalModel(
        inputs={"w": range(12), "x": range(12), "y": range(12), "z": range(12)},
        mechanisms={"left": lambda w, x: w == x, "right": lambda y, z: y == z,
                    "answer": lambda left, right: left == right},
    )
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import pandas as pd

from causal_reft.causal.columns import Column, Columns, as_columns, as_frame, equal_rows
from causal_reft.causal.counterfactuals import CounterfactualDataset
from causal_reft.causal.mechanisms import apply, source_line
from causal_reft.causal.settings import (
    aligned,
    check_agrees,
    check_complete,
    check_count,
    check_domain,
    check_known,
    check_length,
    check_seed,
)
from causal_reft.causal.structure import check_names, in_order, read_domain, read_outputs, read_parents
from causal_reft.errors import CausalModelError
from causal_reft.seeds import numpy_stream

LARGEST_TABLE = 20_000_000
TRIAL_ROWS, ROWS_BY_THEMSELVES = 32, 8


@dataclass(frozen=True, eq=False, repr=False)
class CausalModel:
    """A directed acyclic graph of variables, run over columns of settings.

    `inputs` maps a name to its domain: any finite iterable of values, or None for "anything" (then it cannot be
    sampled). `mechanisms` maps a name to a function of columns. `outputs` are what a network is asked for (default: the
    mechanisms that no other mechanism reads). Raises `CausalModelError` for cycles, unknown
    parents, clashing names, unusable domains and mechanisms that do not work row by row.
    """

    inputs: Mapping[str, Any]
    mechanisms: Mapping[str, Any]
    outputs: tuple[str, ...] = ()
    domains: Mapping[str, Column | None] = field(init=False)
    parents: Mapping[str, tuple[str, ...]] = field(init=False)
    variables: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        check_names(self.inputs, self.mechanisms)
        domains = {name: read_domain(name, values) for name, values in self.inputs.items()}
        parents = read_parents(domains, self.mechanisms)
        parsed = {
            "inputs": domains,
            "mechanisms": dict(self.mechanisms),
            "domains": domains,
            "parents": parents,
            "outputs": read_outputs(self.outputs, parents, self.mechanisms),
            "variables": in_order(parents, self.mechanisms),
        }
        for name, value in parsed.items():
            object.__setattr__(self, name, value)
        if all(domain is not None for domain in domains.values()):
            self._check_rows_are_independent(as_columns(self.sample(TRIAL_ROWS, seed=0)))

    # What there is ----------------------------------------------------------------------------------------------

    @cached_property
    def size(self) -> int:
        """How many settings the domains allow."""
        return prod(len(self.domain(name)) for name in self.inputs)

    def domain(self, name: str) -> Column:
        """The values that an input may take; raises for an input declared as "anything"."""
        check_known([name], self.inputs, "input")
        domain = self.domains[name]
        if domain is None:
            raise CausalModelError(
                f"Input {name!r} has no list of values (its domain is None), so it can be run but not sampled. "
                f"Give it one: inputs={{{name!r}: range(10)}}; integer ids can stand for vectors."
            )
        return domain

    def __repr__(self) -> str:
        from causal_reft.causal.drawing import describe

        return describe(self)

    def _repr_html_(self) -> str:
        from causal_reft.causal.drawing import to_html

        return to_html(self)

    def draw(self, ax: Any = None) -> Any:
        """Draw the graph, inputs at the bottom, on matplotlib Axes (new ones unless given); returns the Axes."""
        from causal_reft.causal.drawing import draw

        return draw(self, ax)

    # What happens -----------------------------------------------------------------------------------------------

    def run(self, settings: Mapping[str, Any] | pd.DataFrame, do: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Every variable for each setting: one row per setting, one column per variable.

        `settings` names every input (a single value is repeated). Computed variables may be among its columns, as in
        the frame that `run` returns; they must agree with the mechanisms. `do` fixes variables to given columns.
        """
        columns = self._read(settings)
        if any(domain is None for domain in self.domains.values()):
            self._check_rows_are_independent({name: column[:TRIAL_ROWS] for name, column in columns.items()})
        return as_frame(self.compute(columns, {} if do is None else self._read_fixed(do, _rows(columns))))

    def interchange(self, base: Mapping[str, Any] | pd.DataFrame, /, **sources: Any) -> pd.DataFrame:
        """Every variable for each base setting, if each named variable took its value in its own source run.

        `model.interchange(base, left=source, right=other)`: row i of base meets row i of each source.
        """
        check_known(sources, self.variables, "variable")
        columns = self._read(base)
        fixed = {name: self.compute(self._read(source))[name] for name, source in sources.items()}
        for name, values in fixed.items():
            check_length(name, len(values), _rows(columns), "source")
        return as_frame(self.compute(columns, fixed))

    def compute(self, inputs: Columns, fixed: Mapping[str, Column] | None = None) -> Columns:
        """`run` on columns that were checked before: no parsing, no checks, no data frame."""
        done = {**inputs, **(fixed or {})}
        for name in self.variables:
            if name not in done:
                parents = {parent: done[parent] for parent in self.parents[name]}
                done[name] = apply(name, self.mechanisms[name], parents, _rows(inputs))
        return {name: done[name] for name in self.variables}

    # Settings ---------------------------------------------------------------------------------------------------

    def settings(self) -> pd.DataFrame:
        """Every setting the domains allow, in order (the last input changes fastest)."""
        return self.settings_at(np.arange(self._countable("settings()")))

    def sample(self, n: int, seed: int) -> pd.DataFrame:
        """n settings, each input uniform over its domain and independent of the others."""
        check_count(n, "sample")
        check_seed(seed)
        return as_frame(self.draw_settings(n, numpy_stream(seed, "settings")))

    def draw_settings(self, n: int, stream: np.random.Generator) -> Columns:
        """`sample` from a running generator, as columns."""
        domains = {name: self.domain(name) for name in self.inputs}
        return {name: domain[stream.integers(len(domain), size=n)] for name, domain in domains.items()}

    def settings_at(self, indices: np.ndarray) -> pd.DataFrame:
        """The settings with these numbers in the order of `settings()`."""
        digits = np.unravel_index(indices, [len(self.domain(name)) for name in self.inputs])
        return as_frame({name: self.domain(name)[digit] for name, digit in zip(self.inputs, digits, strict=True)})

    def equivalence_classes(self, variable: str, settings: pd.DataFrame | None = None) -> dict[Any, pd.DataFrame]:
        """Settings grouped by the value that the variable takes on them: value -> settings.

        Two settings of one class are interchangeable as sources for this variable. All settings, unless given.
        """
        check_known([variable], self.variables, "variable")
        frame = self.run(self.settings() if settings is None else settings)
        inputs = frame[list(self.inputs)]
        values = [tuple(v) if isinstance(v, np.ndarray) else v for v in frame[variable].tolist()]
        groups = pd.Series(range(len(frame))).groupby(pd.Series(values, dtype=object), sort=False)
        return {value: inputs.iloc[rows.to_numpy()].reset_index(drop=True) for value, rows in groups}

    def counterfactuals(
        self,
        variables: str | Sequence[str],
        n: int | None,
        seed: int,
        strategy: str = "uniform",
        *,
        among: pd.DataFrame | None = None,
        over: Sequence[str] | None = None,
        against: tuple[CausalModel, str | Sequence[str]] | None = None,
        shared_source: bool = False,
    ) -> CounterfactualDataset:
        """Base and source settings with the outputs that this model expects under the interchange.

        `strategy` is "uniform", "balanced", "distinguishing", "per_variable" or "exhaustive" (see `strategies`).
        `among` restricts base and sources to these settings; `over` names what "balanced" balances; `against` is the
        rival hypothesis (model, variable) of "distinguishing"; `shared_source` gives all variables one source.
        """
        from causal_reft.causal.strategies import sample_counterfactuals

        names = (variables,) if isinstance(variables, str) else tuple(variables)
        return sample_counterfactuals(self, names, n, seed, strategy, among, over, against, shared_source)

    # Reading ----------------------------------------------------------------------------------------------------

    def _read(self, settings: Mapping[str, Any] | pd.DataFrame) -> Columns:
        check_known(settings, self.variables, "variable")
        columns = aligned(settings)
        check_complete(self.inputs, columns)
        inputs = {name: columns.pop(name) for name in self.inputs}
        for name, column in inputs.items():
            check_domain(name, column, self.domains[name])
        if columns:
            check_agrees(columns, self.compute(inputs), self.mechanisms)
        return inputs

    def _read_fixed(self, do: Mapping[str, Any], rows: int) -> Columns:
        check_known(do, self.variables, "variable")
        fixed = aligned({**do, "": np.zeros(rows)})
        del fixed[""]
        return fixed

    def _countable(self, what: str) -> int:
        if self.size > LARGEST_TABLE:
            raise CausalModelError(
                f"{what} would list {self.size:,} settings. Sample instead: model.sample(n=10_000, seed=0)."
            )
        return self.size

    def _check_rows_are_independent(self, trial: Columns) -> None:
        """Each row gives the same values in reversed order, among half of the rows, and by itself."""
        whole, rows = self.compute(trial), _rows(trial)
        selections = [np.arange(rows)[::-1], np.arange(rows)[::2], *np.arange(min(rows, ROWS_BY_THEMSELVES))[:, None]]
        for selection in selections:
            part = self.compute({name: column[selection] for name, column in trial.items()})
            for name in self.mechanisms:
                if not equal_rows(part[name], whole[name][selection]).all():
                    raise CausalModelError(
                        f"The mechanism of {name!r} gives a setting another value when its neighbours change, so it "
                        f"mixes rows or is random.\n  {source_line(self.mechanisms[name])}\n"
                        "A mechanism must be a fixed function of its own row: reduce vectors with axis=-1, and make "
                        "noise an input."
                    )


def _rows(columns: Mapping[str, Column]) -> int:
    return len(next(iter(columns.values())))
