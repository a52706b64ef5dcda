"""Side by side with pyvene and pyreft: `make bench`, or `python benchmarks/compare.py [--quick] [--parts ABCDEFGH]`.

The same weights, data and steps, contenders interleaved in one process, several rounds; medians of processor seconds
and their ratios are reported, FLOPs are counted. Losses and gradients are compared first. Every part of a shape has a
process of its own, as a training has: what the part before left in the memory allocator moved ratios by a tenth.
Writes docs/benchmarks (or --out): CSV, Markdown, figures, and a plan in its own words.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import pandas as pd
import torch

from benchmarks.comparison import cases, report
from benchmarks.comparison.agreement import agreement
from benchmarks.comparison.clock import measure
from benchmarks.comparison.growth import growth
from benchmarks.comparison.memory import peaks
from benchmarks.comparison.setting import GPT2, LLAMA, TINY, Setting

COLUMNS = ["part", "case", "who", "seconds", "fastest", "slowest", "flops", "time ratio", "flop ratio"]
Make = Callable[..., Iterator[cases.Case]]


def chosen(parts: str, quick: bool, settings: list[Setting]) -> Iterator[tuple[Make, tuple[object, ...]]]:
    """What makes the cases of each part, and from what."""
    for setting in settings:
        for part, make in (("B", cases.sweeps), ("A", cases.single_steps), ("C", cases.loreft)):
            if part in parts:
                yield make, (setting,)
        if "B" in parts:
            yield cases.controls, (setting, 10 if quick else 100)
        for part, make in (("D", cases.collection), ("E", cases.generation)):
            if part in parts:
                yield make, (setting,)
    if "A" in parts:
        for batch in (64,) if quick else (64, 1024, 6400):
            yield cases.equality, (batch,)
    if "F" in parts:
        yield cases.rotations, ([(256, 4)] if quick else [(256, 16), (1024, 16), (4096, 1), (4096, 16)],)
    if "H" in parts:
        yield growth, (quick,)


def main() -> None:
    """Measure, print as it goes, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny models, one round: whether everything runs")
    parser.add_argument("--parts", default="ABCDEFGH")
    parser.add_argument("--shapes", default="llama,gpt2")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    folder = given.out or Path("runs/bench" if given.quick else "docs/benchmarks")
    settings = [TINY] if given.quick else [s for s, name in ((LLAMA, "llama"), (GPT2, "gpt2")) if name in given.shapes]
    agreed = pd.DataFrame([row for setting in settings for row in alone(agreement, setting)])
    print(agreed.to_string(index=False), flush=True)
    memory = pd.DataFrame(peaks(TINY if given.quick else LLAMA) if "G" in given.parts else [])
    if len(memory):
        print(memory.to_string(index=False), flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.txt").write_text(alone(cases.explained, settings[0]) + "\n")
    rows: list[dict[str, object]] = []
    for make, what in chosen(given.parts, given.quick, settings):
        rows += alone(measured, make, what, 1 if given.quick else given.repeats)
        report.write(pd.DataFrame(rows, columns=COLUMNS), agreed, memory, folder)
    print(f"written to {folder}")


def alone(function: Callable, *args: object):
    """What a function gives in a fresh process."""
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh, initializer=_quietly) as process:
        return process.submit(function, *args).result()


def _quietly() -> None:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    warnings.simplefilter("ignore")


def measured(make: Make, what: tuple[object, ...], repeats: int) -> list[dict[str, object]]:
    """One row for each contender of each case; a case is built when its turn has come."""
    rows = []
    for case in make(*what):
        found = measure(case.contenders, repeats)
        first = next(iter(found.values()))
        for who, m in found.items():
            work = first.flops / m.flops if m.flops else float("nan")
            ratios = {"time ratio": first.seconds / m.seconds, "flop ratio": work}
            rows.append({"part": case.part, "case": case.name, "who": who, **vars(m), **ratios})
            faster, less = ratios["time ratio"], ratios["flop ratio"]
            print(
                f"{case.part}  {case.name:<60} {who:<28} {m.seconds:9.4f} s   x{faster:.2f}   FLOPs x{less:.1f}",
                flush=True,
            )
    return rows


if __name__ == "__main__":
    main()
