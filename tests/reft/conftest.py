"""Fixtures of one small tokenizer and one tiny model."""

from __future__ import annotations

import pytest

from tests import words


@pytest.fixture
def tokenizer():
    return words.tokenizer()


@pytest.fixture
def model():
    return words.model()
