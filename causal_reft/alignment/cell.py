"""A cell: the smallest piece of a study that is computed, stored and never computed again; and its result."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
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
        words += [word for word in (self.network, self.labels) if word not in (GIVEN, TRUE)]
        return re.sub(r"[^\w.+-]", "_", "-".join(words)) + f"-{self.digest(study)}.safetensors"

    def digest(self, study: str) -> str:
        """Sixteen hexadecimal digits over the study's digest and every field."""
        fields = {key: value for key, value in asdict(self).items() if key != "role"}
        return hashlib.sha256(json.dumps([study, fields], sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class CellResult:
    """Arrays by name (row scores, rotations), a few numbers and words; `seconds` is the only thing that may vary."""

    arrays: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]
    seconds: float
