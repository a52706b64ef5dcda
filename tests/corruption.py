"""Random bit flips in every kind of file that the library saves: python -m tests.corruption [flips] [seed]

Prints, for each kind of file, how many flips were refused, how many loaded without a word, and how many raised an error
that is not the library's own; the last line sums them up.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path

import causal_reft as cr
from tests.damage import flip_bits
from tests.graph.saved import rich
from tests.models import gpt2


def corrupted(flips: int, seed: int, scratch: Path) -> dict[str, Counter[str]]:
    """File -> outcomes, for a saved model with every kind of node."""
    model = gpt2()
    reft = cr.IntervenedModel(model, rich())
    reft.trained_base = ("transformer.h.0.ln_1.weight",)
    reft.save_pretrained(scratch / "saved")

    def load(folder: Path) -> object:
        return cr.IntervenedModel.from_pretrained(folder, model)

    load(scratch / "saved")
    names = sorted(file.name for file in (scratch / "saved").iterdir() if file.name != "README.md")
    return {name: flip_bits(scratch / "saved", name, load, flips, seed + i, scratch) for i, name in enumerate(names)}


def main(flips: int = 2000, seed: int = 0) -> int:
    """Print the table; the exit code is 1 where anything was silent or raw."""
    with tempfile.TemporaryDirectory() as scratch:
        found = corrupted(flips, seed, Path(scratch))
    total = sum(found.values(), Counter[str]())
    for name, counts in found.items():
        print(f"{name:<24} {flips} flips: {counts['refused']} refused, {counts['silent']} silent, {counts['raw']} raw")
    print(f"{total['silent']} silent, {total['raw']} raw")
    return int(bool(total["silent"] or total["raw"]))


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
