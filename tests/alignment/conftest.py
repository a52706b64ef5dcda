"""What the tests of studies share: one that has run, and what it found."""

from __future__ import annotations

import pytest

from causal_reft.alignment import Study, StudyResult
from tests.alignment.small import small_study


@pytest.fixture(scope="session")
def study(tmp_path_factory) -> Study:
    found = small_study(tmp_path_factory.mktemp("study") / "serial")
    found.run(progress=False)
    return found


@pytest.fixture(scope="session")
def finished(study) -> StudyResult:
    return study.result()
