"""A causal model after parsing: domains, mechanisms, parents and an order, as one frozen value that runs columns.

`CausalModel` reads what a user writes into it; sampling, strategies and drawing use the parsed value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from causal_reft.causal.columns import Column, Columns, equal_rows
from causal_reft.causal.mechanisms import Mechanism, apply, source_line
from causal_reft.causal.settings import check_known
from causal_reft.causal.structure import check_names, in_order, read_domain, read_outputs, read_parents
from causal_reft.errors import CausalModelError

LARGEST_TABLE = 20_000_000
ROWS_BY_THEMSELVES = 8


@dataclass(frozen=True, eq=False)
class Equations:
    """Inputs with their domains (None: anything), mechanisms with their parents, and all variables, parents first."""

    domains: Mapping[str, Column | None]
    mechanisms: Mapping[str, Mechanism]
    parents: Mapping[str, tuple[str, ...]]
    variables: tuple[str, ...]
    outputs: tuple[str, ...]

    @staticmethod
    def parse(inputs: Mapping[str, Any], mechanisms: Mapping[str, Any], outputs: tuple[str, ...]) -> Equations:
        """What the user wrote, checked.

        Raises:
            CausalModelError: cycles, unknown parents, clashing names, unusable domains.
        """
        check_names(inputs, mechanisms)
        domains = {name: read_domain(name, values) for name, values in inputs.items()}
        parents = read_parents(domains, mechanisms)
        return Equations(
            domains,
            dict(mechanisms),
            parents,
            in_order(parents, mechanisms),
            read_outputs(outputs, parents, mechanisms),
        )

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs."""
        return tuple(self.domains)

    @property
    def sampled(self) -> bool:
        """Whether every input has a list of values."""
        return all(domain is not None for domain in self.domains.values())

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

    def inputs_of(self, variables: Iterable[str]) -> tuple[str, ...]:
        """The inputs from which these variables are computed (an input is computed from itself)."""
        found, frontier = set[str](), list(variables)
        while frontier:
            name = frontier.pop()
            found.add(name)
            frontier.extend(parent for parent in self.parents[name] if parent not in found)
        return tuple(name for name in self.inputs if name in found)

    def compute(self, inputs: Columns, fixed: Mapping[str, Column] | None = None) -> Columns:
        """Every variable for checked columns of inputs; `fixed` variables keep the given columns."""
        done = {**inputs, **(fixed or {})}
        for name in self.variables:
            if name not in done:
                parents = {parent: done[parent] for parent in self.parents[name]}
                done[name] = apply(name, self.mechanisms[name], parents, n_rows(inputs))
        return {name: done[name] for name in self.variables}

    def draw(self, n: int, stream: np.random.Generator) -> Columns:
        """n settings, each input uniform over its domain and independent of the others."""
        domains = {name: self.domain(name) for name in self.inputs}
        return {name: domain[stream.integers(len(domain), size=n)] for name, domain in domains.items()}

    def settings_at(self, numbers: np.ndarray) -> Columns:
        """The settings with these numbers, counted with the last input changing fastest."""
        digits = np.unravel_index(numbers, [len(self.domain(name)) for name in self.inputs])
        return {name: self.domain(name)[digit] for name, digit in zip(self.inputs, digits, strict=True)}

    def settings(self) -> Columns:
        """Every setting that the domains allow.

        Raises:
            CausalModelError: more than 20 million.
        """
        if self.size > LARGEST_TABLE:
            raise CausalModelError(
                f"settings() would list {self.size:,} settings. Sample instead: model.sample(n=10_000, seed=0)."
            )
        return self.settings_at(np.arange(self.size))

    def check_rows_are_independent(self, trial: Columns) -> None:
        """Each row gives the same values in reversed order, among half of the rows, and by itself.

        Raises:
            CausalModelError: a mechanism that mixes rows, or draws random numbers.
        """
        whole, rows = self.compute(trial), n_rows(trial)
        selections = [np.arange(rows)[::-1], np.arange(rows)[::2], *np.arange(min(rows, ROWS_BY_THEMSELVES))[:, None]]
        for selection in selections:
            part = self.compute({name: column[selection] for name, column in trial.items()})
            for name, mechanism in self.mechanisms.items():
                if not equal_rows(part[name], whole[name][selection]).all():
                    raise CausalModelError(
                        f"The mechanism of {name!r} gives a setting another value when its neighbours change, so it "
                        f"mixes rows or is random.\n  {source_line(mechanism)}\n"
                        "A mechanism must be a fixed function of its own row: reduce vectors with axis=-1, and make "
                        "noise an input."
                    )


def n_rows(columns: Mapping[str, Column]) -> int:
    """The number of settings in columns of equal length."""
    return len(next(iter(columns.values())))
