"""Tokenizers of real models."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

import causal_reft as cr


@pytest.fixture(scope="session")
def embedded():
    return cr.load_embedded()


@pytest.fixture(scope="session")
def stories(shared):
    return AutoTokenizer.from_pretrained(shared / "models" / "stories260K-llama")


@pytest.fixture(scope="session")
def smollm2(real_model):
    return AutoTokenizer.from_pretrained(real_model)
