"""A cell: the smallest piece of a study that has a result. A group: the cells that are computed and stored together.

Cells that look at the same rows with the same weights share their passes, so many cost little more than one. Which
cells form a group follows from the study alone and never from what happens to be missing, so the numbers are the same
to the last bit in whatever order, and by whomever, groups are computed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

GIVEN, SHUFFLED = "given", "shuffled"
TRUE, PERMUTED = "true", "permuted"
FIT, CONTROLS, ILLUSION = "fit", "controls", "illusion"


@dataclass(frozen=True)
class Cell:
    """One fit, the controls of one site and rank, or one illusion report. Sites and featurizers by number.

    Attributes:
        variable: the name of the variable alternative ("left" or "left+right").
        rank: of the controls, the total over the variables; 0 for fits.
        seed: of the featurizer, the data order, the permutation and the shuffled weights of a fit.
        network: "given", or "shuffled" weights.
        labels: "true" or "permuted".
        role: what it is for: "study", "control" or "ladder".
    """

    kind: str
    variable: str
    site: int
    featurizer: int = 0
    rank: int = 0
    seed: int = 0
    network: str = GIVEN
    labels: str = TRUE
    role: str = field(default="study", compare=False)

    def file_name(self, study: str) -> str:
        """A readable name that ends with a digest of the cell and of the study it belongs to."""
        words = [self.kind, self.variable, f"site{self.site}"]
        words += [f"rank{self.rank}"] if self.kind == CONTROLS else [f"featurizer{self.featurizer}", f"seed{self.seed}"]
        return _file_name([*words, *self.differences], self.digest(study)) + ".safetensors"

    @property
    def differences(self) -> list[str]:
        """In what it is not a plain fit, in words."""
        return [word for word in (self.network, self.labels) if word not in (GIVEN, TRUE)]

    def digest(self, study: str) -> str:
        """Sixteen hexadecimal digits over the study's digest and every field."""
        fields = {key: value for key, value in asdict(self).items() if key != "role"}
        return hashlib.sha256(json.dumps([study, fields], sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Group:
    """Cells of one kind, variable, seed, network and labels, which share their passes. Finished all at once."""

    cells: tuple[Cell, ...]

    @property
    def shared(self) -> Cell:
        """Any cell, for what all have in common."""
        return self.cells[0]

    def folder_name(self, study: str) -> str:
        """A readable name that ends with a digest of all cells and of the study they belong to."""
        one, digests = self.shared, json.dumps([cell.digest(study) for cell in self.cells])
        words = [one.kind, one.variable, f"seed{one.seed}", *one.differences, f"{len(self.cells)}cells"]
        return _file_name(words, hashlib.sha256(digests.encode()).hexdigest()[:16])


def grouped(cells: Sequence[Cell], most: int) -> list[Group]:
    """Cells in groups of at most `most`, of nearly equal size, in order."""
    alike: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells:
        alike.setdefault((cell.kind, cell.variable, cell.seed, cell.network, cell.labels), []).append(cell)
    return [Group(tuple(part)) for found in alike.values() for part in _cut(found, -(-len(found) // most))]


def _cut(cells: Sequence[Cell], parts: int) -> list[Sequence[Cell]]:
    ends = [len(cells) * number // parts for number in range(parts + 1)]
    return [cells[start:end] for start, end in pairwise(ends)]


def _file_name(words: Sequence[str], digest: str) -> str:
    return re.sub(r"[^\w.+-]", "_", "-".join(words)) + f"-{digest}"


@dataclass(frozen=True)
class CellResult:
    """Arrays by name (row scores, rotations), a few numbers and words; `seconds` is the only thing that may vary."""

    arrays: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]
    seconds: float
