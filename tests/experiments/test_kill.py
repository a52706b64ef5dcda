"""The kill test over each experiment: kill -9 five times, no finished cell computed again, cells equal to the bit."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.experiments.small import PROGRAMS
from tests.killing import kill_and_resume


@pytest.mark.slow
@pytest.mark.parametrize("experiment", PROGRAMS)
def test_an_experiment_that_is_killed_five_times_ends_as_if_it_had_not_been(experiment: str, tmp_path: Path) -> None:
    kill_and_resume([sys.executable, "-m", "tests.experiments.small", experiment], tmp_path, kills=5)
