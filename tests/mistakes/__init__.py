"""Mistakes that users make, as data that runs: `tests/test_errors_page.py` makes each of them, and does it right.

`python -m tests.errors_page` writes docs/errors.md from this table and the messages that came.
"""

from __future__ import annotations

from causal_reft import errors as e
from tests.mistakes.calls import RUNS, STORAGE
from tests.mistakes.interventions import FEATURIZERS, GRAPHS
from tests.mistakes.mistake import Mistake as Mistake
from tests.mistakes.places import POSITIONS, SITES
from tests.mistakes.questions import CAUSAL_MODELS, DATA, STUDIES, WARNINGS

MISTAKES: dict[type[Exception], tuple[Mistake, ...]] = {
    e.SiteError: SITES,
    e.PositionError: POSITIONS,
    e.FeaturizerError: FEATURIZERS,
    e.GraphError: GRAPHS,
    e.RunError: RUNS,
    e.StorageError: STORAGE,
    e.CausalModelError: CAUSAL_MODELS,
    e.StudyError: STUDIES,
    e.DataError: DATA,
    e.CausalReftWarning: WARNINGS,
}
