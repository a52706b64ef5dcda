"""A study whose rows are drawn: its cells by stage, in groups that share passes, and which of them are finished."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from causal_reft.alignment.cells import Cell, Grid, Group, grouped
from causal_reft.alignment.compute_cells import Work
from causal_reft.alignment.preparation import Prepared
from causal_reft.alignment.report import so_far
from causal_reft.alignment.tables import StudyTables
from causal_reft.sweeps import Store


@dataclass(frozen=True, eq=False, repr=False)
class PreparedStudy:
    """A study whose rows are drawn and whose folder is claimed.

    Attributes:
        parts: for each variable its rows; `parts["gender"].records` are the report rows, `.dropped` what was left out.
        work: what workers are sent.
        seconds: of processor time that this took.
    """

    parts: Mapping[str, Prepared]
    work: Work
    grid: Grid
    store: Store
    cells_at_once: int
    seconds: float = 0.0

    def stages(self) -> Iterator[list[Cell]]:
        """The cells of each stage; those of a later one depend on what the earlier ones found."""
        yield self.grid.fits
        found = self.store.results(Cell)
        yield self.grid.controls_of(found)
        yield self.grid.follow_ups(found)

    def groups_of(self, cells: Sequence[Cell]) -> list[Group]:
        """The cells in groups that share their passes."""
        return grouped(cells, self.cells_at_once)

    @property
    def groups(self) -> list[Group]:
        """The groups of the first stage and, as far as they are known, of the later ones."""
        known: list[Group] = []
        for cells in self.stages():
            known += self.groups_of(cells)
            if len(self.store.get(cells)) < len(cells):
                break
        return known

    @property
    def cells(self) -> list[Cell]:
        """The cells of these groups."""
        return [cell for group in self.groups for cell in group]

    @property
    def finished(self) -> int:
        """How many of them are finished."""
        return len(self.store.get(self.cells))

    def so_far(self) -> dict[str, str]:
        """For each variable the best of the finished fits, in words."""
        return so_far(replace(self._tables, cells=self.store.results(Cell)))

    @cached_property
    def _tables(self) -> StudyTables:
        return StudyTables.of(self.store)

    def __repr__(self) -> str:
        rows = [f"{name}: {part.counts}" for name, part in self.parts.items()]
        return "\n".join(
            [*rows, f"folder {self.store.folder}: {self.finished} of {len(self.cells)} known cells finished"]
        )
