"""Odd input is taken or refused in the library's own words; `python -m tests.fuzz 200000` tries more of it.

In a process of its own: the checks of argument types that tests run under would refuse odd input first.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def test_odd_input_raises_no_error_of_python() -> None:
    command = [sys.executable, "-m", "tests.fuzz", "150", "1"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    counts = re.findall(r"(\w+) +150 inputs: (\d+) taken, (\d+) refused, 0 raw", ended.stdout)
    assert [name for name, *_ in counts] == ["positions", "graphs", "causal", "records", "studies"]
    assert all(int(taken) and int(refused) for _, taken, refused in counts)
