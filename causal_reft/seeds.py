"""Randomness enters by argument: a seed and the name of what it is for give one independent stream.

Data, initialisation and shuffling take separate streams of one seed, so that changing one leaves the others alone.
"""

from __future__ import annotations

import zlib

import numpy as np

LIMIT = 2**32
SEEDS_ARE = "a seed is an integer from 0 to 4294967295 (2^32 - 1), so that no two are the same stream."


def is_seed(value: object) -> bool:
    """Whether a value can be a user's seed: an integer, no boolean, below 2^32."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and 0 <= int(value) < LIMIT


def derive(seed: int, *purpose: object) -> int:
    """A 63-bit seed for one purpose: the same (seed, purpose) always gives the same number."""
    words = [int(seed) % LIMIT, *(zlib.crc32(repr(word).encode()) for word in purpose)]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0]) >> 1


def numpy_stream(seed: int, *purpose: object) -> np.random.Generator:
    """A numpy generator for one purpose of one seed."""
    return np.random.default_rng(derive(seed, *purpose))
