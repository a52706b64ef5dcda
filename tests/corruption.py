"""Random bit flips in every kind of file that the library saves: python -m tests.corruption [flips] [seed]

Prints, for each kind of file, how many flips were refused, how many loaded without a word, and how many raised an error
that is not the library's own; the last line sums them up.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import causal_reft as cr
from causal_reft.alignment import Controls, StudyResult
from causal_reft.errors import CausalReftWarning
from tests.alignment.small import small_study
from tests.damage import flip_bits
from tests.graph.saved import rich
from tests.models import gpt2

FEW = Controls(random=3, seeds=1, ladder=False, illusion=False)


def corrupted(flips: int, seed: int, scratch: Path) -> dict[str, Counter[str]]:
    """File -> outcomes, for a saved model with every kind of node; its README.md is for readers only."""
    model = gpt2()
    reft = cr.IntervenedModel(model, rich())
    reft.trained_base = ("transformer.h.0.ln_1.weight",)
    reft.save_pretrained(scratch / "saved")
    names = sorted(file.name for file in (scratch / "saved").iterdir() if file.name != "README.md")
    return _each(
        scratch / "saved", names, lambda folder: cr.IntervenedModel.from_pretrained(folder, model), flips, seed
    )


def corrupted_study(flips: int, seed: int, scratch: Path) -> dict[str, Counter[str]]:
    """File -> outcomes, for the folder of a finished study; of its cells the first."""
    study = scratch / "study"
    small_study(study, seeds=range(1), controls=FEW).run(progress=False)
    cell = min((study / "cells").iterdir()).relative_to(study)
    return _each(study, ["experiment.json", "rows.json", str(cell)], StudyResult.load, flips, seed)


def _each(
    saved: Path, names: Sequence[str], load: Callable[[Path], object], flips: int, seed: int
) -> dict[str, Counter[str]]:
    load(saved)
    return {name: flip_bits(saved, name, load, flips, seed + i, saved.parent) for i, name in enumerate(names)}


def main(flips: int = 2000, seed: int = 0) -> int:
    """Print the table; the exit code is 1 where anything was silent or raw."""
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore", CausalReftWarning)  # a damaged cell counts as missing, and says so
        found = corrupted(flips, seed, Path(scratch)) | corrupted_study(flips, seed, Path(scratch))
    total = sum(found.values(), Counter[str]())
    for name, counts in found.items():
        outcomes = ", ".join(f"{counts[kind]} {kind}" for kind in ("refused", "silent", "raw"))
        print(f"{name[:24]:<24} {flips} flips: {outcomes}")
    print(f"{total['silent']} silent, {total['raw']} raw")
    return int(bool(total["silent"] or total["raw"]))


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
