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
from typing import Any

import numpy as np
import pandas as pd

from causal_reft.causal.columns import Column, Columns, as_frame
from causal_reft.causal.counterfactuals import CounterfactualDataset
from causal_reft.causal.drawing import describe, draw, to_html
from causal_reft.causal.equations import Equations, n_rows
from causal_reft.causal.settings import (
    aligned,
    check_agrees,
    check_complete,
    check_count,
    check_domain,
    check_known,
    check_length,
    check_seed,
    named,
)
from causal_reft.causal.strategies import sample_counterfactuals
from causal_reft.errors import CausalModelError
from causal_reft.seeds import numpy_stream

TRIAL_ROWS = 32


@dataclass(frozen=True, eq=False, repr=False)
class CausalModel:
    """A directed acyclic graph of variables, run over columns of settings.

    `inputs` maps a name to its domain: any finite iterable of values, or None for "anything" (then it cannot be
    sampled). `mechanisms` maps a name to a function of columns. `outputs` are what a network is asked for (default: the
    mechanisms that no other mechanism reads). `averaged_by` names the variables by which scores are averaged (see
    `causal.kinds`). Raises `CausalModelError` for cycles, unknown
    parents, clashing names, unusable domains and mechanisms that do not work row by row.
    """

    inputs: Mapping[str, Any]
    mechanisms: Mapping[str, Any]
    outputs: tuple[str, ...] = ()
    averaged_by: tuple[str, ...] = ()
    equations: Equations = field(init=False)

    def __post_init__(self) -> None:
        parsed = Equations.parse(self.inputs, self.mechanisms, tuple(self.outputs))
        object.__setattr__(self, "equations", parsed)
        for name, value in {
            "inputs": parsed.domains,
            "mechanisms": parsed.mechanisms,
            "outputs": parsed.outputs,
        }.items():
            object.__setattr__(self, name, value)
        check_known(self.averaged_by, self.variables, "variable")
        if parsed.sampled:
            parsed.check_rows_are_independent(parsed.draw(TRIAL_ROWS, numpy_stream(0, "settings")))

    # What there is ----------------------------------------------------------------------------------------------

    @property
    def domains(self) -> Mapping[str, Column | None]:
        """The values of every input (None: anything)."""
        return self.equations.domains

    @property
    def parents(self) -> Mapping[str, tuple[str, ...]]:
        """The variables from which each variable is computed."""
        return self.equations.parents

    @property
    def variables(self) -> tuple[str, ...]:
        """Inputs and mechanisms, parents first."""
        return self.equations.variables

    @property
    def size(self) -> int:
        """How many settings the domains allow."""
        return self.equations.size

    def domain(self, name: str) -> Column:
        """The values that an input may take; raises for an input declared as "anything"."""
        return self.equations.domain(name)

    def __repr__(self) -> str:
        return describe(self.equations)

    def _repr_html_(self) -> str:
        return to_html(self.equations)

    def draw(self, ax: Any = None) -> Any:
        """Draw the graph, inputs at the bottom, on matplotlib Axes (new ones unless given); returns the Axes."""
        return draw(self.equations, ax)

    # What happens -----------------------------------------------------------------------------------------------

    def run(self, settings: Mapping[str, Any] | pd.DataFrame, do: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Every variable for each setting: one row per setting, one column per variable.

        `settings` names every input (a single value is repeated). Computed variables may be among its columns, as in
        the frame that `run` returns; they must agree with the mechanisms. `do` fixes variables to given columns.
        """
        columns = self._read(settings)
        if not self.equations.sampled:
            trial = {name: column[:TRIAL_ROWS] for name, column in columns.items()}
            self.equations.check_rows_are_independent(trial)
        fixed = {} if do is None else self._read_fixed(do, n_rows(columns))
        return as_frame(self.equations.compute(columns, fixed))

    def interchange(self, base: Mapping[str, Any] | pd.DataFrame, /, **sources: Any) -> pd.DataFrame:
        """Every variable for each base setting, if each named variable took its value in its own source run.

        `model.interchange(base, left=source, right=other)`: row i of base pairs with row i of each source.
        """
        check_known(sources, self.variables, "variable")
        columns = self._read(base)
        fixed = {name: self.equations.compute(self._read(source))[name] for name, source in sources.items()}
        for name, values in fixed.items():
            check_length(name, len(values), n_rows(columns), "source")
        return as_frame(self.equations.compute(columns, fixed))

    # Settings ---------------------------------------------------------------------------------------------------

    def settings(self) -> pd.DataFrame:
        """Every setting the domains allow, in order (the last input changes fastest)."""
        return as_frame(self.equations.settings())

    def sample(self, n: int, seed: int) -> pd.DataFrame:
        """n settings, each input uniform over its domain and independent of the others."""
        check_count(n, "sample")
        check_seed(seed)
        return as_frame(self.equations.draw(n, numpy_stream(seed, "settings")))

    def settings_at(self, indices: np.ndarray) -> pd.DataFrame:
        """The settings with these numbers in the order of `settings()`."""
        return as_frame(self.equations.settings_at(indices))

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
        names = named(variables, self.variables)
        if among is not None and not len(among):
            raise CausalModelError("among= holds no setting, so nothing can be drawn. Leave it out to draw from all.")
        pool = None if among is None else self._read(among)
        rival = None if against is None else (against[0].equations, against[1])
        return sample_counterfactuals(self.equations, names, n, seed, strategy, pool, over, rival, shared_source)

    # Reading ----------------------------------------------------------------------------------------------------

    def _read(self, settings: Mapping[str, Any] | pd.DataFrame) -> Columns:
        check_known(settings, self.variables, "variable")
        columns = aligned(settings)
        check_complete(self.inputs, columns)
        inputs = {name: columns.pop(name) for name in self.inputs}
        for name, column in inputs.items():
            check_domain(name, column, self.domains[name])
        if columns:
            check_agrees(columns, self.equations.compute(inputs), self.mechanisms)
        return inputs

    def _read_fixed(self, do: Mapping[str, Any], rows: int) -> Columns:
        check_known(do, self.variables, "variable")
        fixed = aligned({**do, "": np.zeros(rows)})
        del fixed[""]
        return fixed
