"""Randomness enters by argument: a seed and the name of what it is for give one independent stream.

Data, initialisation and shuffling take separate streams of one seed, so that changing one leaves the others alone.
"""

from __future__ import annotations

import zlib

import numpy as np


def derive(seed: int, *purpose: object) -> int:
    """A 63-bit seed for one purpose: the same (seed, purpose) always gives the same number."""
    words = [int(seed) & 0xFFFFFFFF, *(zlib.crc32(repr(word).encode()) for word in purpose)]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)


def numpy_stream(seed: int, *purpose: object) -> np.random.Generator:
    """A numpy generator for one purpose of one seed."""
    return np.random.default_rng(derive(seed, *purpose))
