"""What every test runs under: one thread, no network, no window, no deadlines, and the shared folder or a skip."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ["MPLBACKEND"] = "Agg"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import beartype  # noqa: F401 - before nnsight, which adds an attribute to `object` that beartype cannot hash on import
import hypothesis
import pytest
import torch

REPOSITORY = Path(__file__).parents[1]

torch.set_num_threads(1)

hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the shared model and data; the test is skipped where there is none."""
    folder = Path(os.environ.get("CAUSAL_REFT_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "models").is_dir():
        pytest.skip(f"no shared models and data at {folder} (CAUSAL_REFT_SHARED names another place)")
    return folder


@pytest.fixture(scope="session")
def real_model() -> Path:
    """The folder of a real pretrained model; the test is skipped where there is none."""
    folder = Path(os.environ.get("CAUSAL_REFT_SMOLLM2", REPOSITORY / "runs" / "smollm2"))
    if not folder.is_dir():
        pytest.skip(f"no SmolLM2 at {folder}: `make real` writes it (CAUSAL_REFT_SMOLLM2 names another folder)")
    return folder


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(autouse=True)
def clean_slate() -> Iterator[None]:
    """A test that draws from torch's own generator draws the same in every order; figures do not pile up."""
    torch.manual_seed(0)
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
