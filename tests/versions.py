"""The oldest and the newest libraries that pyproject.toml allows: python -m tests.versions [which ...]

Makes an environment for each in a temporary folder, over the one that runs this: what the package requires is installed
anew, and the rest is seen from there. Then runs the tests that meet those libraries, and prints versions and outcome.
torch stays the installed one: its other versions are gigabytes. `which` is oldest, newest, or requirements joined by
commas: transformers==5.2.0,nnsight==0.8.0.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
TESTS = (
    "tests/execution/test_nnsight.py",
    "tests/execution/test_generation.py",
    "tests/sites/test_architectures.py::test_the_residual_stream_is_the_models_own_hidden_states",
    "tests/sites/test_architectures.py::test_editing_every_component_at_once_moves_the_output_and_leaves_no_hook",
    "tests/reft/test_trainer.py",
    "tests/graph/test_storage.py",
    "tests/causal/test_dataset.py",
    "tests/alignment/test_statistics.py",
    "tests/plots/test_heatmaps.py",
)


def required() -> list[Requirement]:
    """What the package requires besides torch, as pyproject.toml has it."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r"^dependencies = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    listed = [Requirement(each) for each in re.findall(r'"(.*?)"', found[1])]
    return [each for each in listed if each.name != "torch"]


def asked(which: str) -> list[str]:
    """What pip is asked for."""
    if which == "newest":
        return [str(each) for each in required()]
    if which == "oldest":
        return [f"{each.name}=={one.version}" for each in required() for one in each.specifier if one.operator == ">="]
    return which.split(",")


def passes(which: str, folder: Path) -> bool:
    """Whether the tests pass in an environment with these versions."""
    venv.create(folder)
    python = folder / "bin" / "python"
    place = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    Path(place, "below.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "-q", "--disable-pip-version-check", "install"]
    torch = f"torch=={importlib.metadata.version('torch')}"
    subprocess.run([*pip, "--upgrade", "--upgrade-strategy", "eager", *asked(which), torch], check=True)
    names = ("torch", *(each.name for each in required()))
    shown = (
        f"from importlib.metadata import version; print(*(f'{{name}} {{version(name)}}' for name in {names}), sep=', ')"
    )
    print(f"{which}: ", end="", flush=True)
    subprocess.run([python, "-c", shown], check=True)
    options = ("-q", "--tb=short", "-rf", "-W", "default", "-o", "addopts=--import-mode=importlib")
    pytest = [python, "-m", "pytest", "-p", "no:cacheprovider", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return not subprocess.run([*pytest, *TESTS], cwd=ROOT, env=environment, check=False).returncode


def main(*which: str) -> int:
    """The exit code is 1 where a test failed."""
    failed = []
    for one in which or ("oldest", "newest"):
        with tempfile.TemporaryDirectory() as scratch:
            failed += [] if passes(one, Path(scratch) / "venv") else [one]
    print(f"failed: {', '.join(failed)}" if failed else "all passed")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
