"""Tokenizers of real models."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from transformers import AutoTokenizer

import causal_reft as cr
from tests.conftest import REPOSITORY


@pytest.fixture(scope="session")
def embedded():
    return cr.load_embedded()


@pytest.fixture(scope="session")
def stories(shared):
    return AutoTokenizer.from_pretrained(shared / "models" / "stories260K-llama")


@pytest.fixture(scope="session")
def smollm2():
    folder = Path(os.environ.get("CAUSAL_REFT_SMOLLM2", REPOSITORY / "runs" / "smollm2"))
    if not folder.is_dir():
        pytest.skip(f"no SmolLM2 at {folder} (CAUSAL_REFT_SMOLLM2 names another folder)")
    return AutoTokenizer.from_pretrained(folder)
