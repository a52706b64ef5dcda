"""Many seeds of each kind, and what came of them."""

from __future__ import annotations

import random
import sys
import warnings
from collections import Counter

import torch

from tests.differential import KINDS


def outcome(name: str, seed: int) -> str:
    """What a call came to; what is wrong is printed."""
    try:
        torch.manual_seed(0)
        return KINDS[name](random.Random(seed))
    except AssertionError as error:
        found, why = "different", error
    except Exception as error:
        found, why = "raw", error
    print(f"{name} seed {seed}: {found}: {type(why).__name__}: {str(why)[:1000]}", flush=True)
    return found


def main(calls: int = 500, first: int = 0, *names: str) -> int:
    """Print the table; the exit code is 1 where anything was different or raw."""
    warnings.simplefilter("ignore")
    wrong = 0
    for name in names or KINDS:
        counts = Counter(outcome(name, seed) for seed in range(first, first + calls))
        wrong += counts["different"] + counts["raw"]
        said = ", ".join(f"{counts[kind]} {kind}" for kind in ("equal", "refused", "different", "raw"))
        print(f"{name:<24} {calls} calls: {said}", flush=True)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:3]), *sys.argv[3:]))
