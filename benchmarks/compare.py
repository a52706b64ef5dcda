"""Side by side with pyvene and pyreft: `make bench`, or `python benchmarks/compare.py [--quick] [--parts ABCDEFGH]`.

One process, the same weights, data and steps, contenders interleaved, several rounds; medians of processor seconds and
their ratios are reported, FLOPs are counted. Losses and gradients are compared first. Writes docs/benchmarks (or
--out):
CSV, Markdown, figures, and a plan in its own words.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator
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
from benchmarks.comparison.setting import GPT2, LLAMA, TINY

COLUMNS = ["part", "case", "who", "seconds", "fastest", "slowest", "flops", "time ratio", "flop ratio"]


def chosen(parts: str, quick: bool, shapes: str) -> Iterator[cases.Case]:
    """The cases of a run, lazily: each is built when its turn has come."""
    settings = [TINY] if quick else [s for s, name in ((LLAMA, "llama"), (GPT2, "gpt2")) if name in shapes]
    for setting in settings:
        for part, make in (("B", cases.sweeps), ("A", cases.single_steps), ("C", cases.loreft)):
            if part in parts:
                yield from make(setting)
        if "B" in parts:
            yield from cases.controls(setting, 10 if quick else 100)
        for part, make in (("D", cases.collection), ("E", cases.generation)):
            if part in parts:
                yield from make(setting)
    if "A" in parts:
        for batch in (64,) if quick else (64, 1024, 6400):
            yield from cases.equality(batch)
    if "F" in parts:
        yield from cases.rotations([(256, 4)] if quick else [(256, 16), (1024, 16), (4096, 1), (4096, 16)])
    if "H" in parts:
        yield from growth(quick)


def main() -> None:
    """Measure, print as it goes, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny models, one round: whether everything runs")
    parser.add_argument("--parts", default="ABCDEFGH")
    parser.add_argument("--shapes", default="llama,gpt2")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    warnings.simplefilter("ignore")
    folder = given.out or Path("runs/bench" if given.quick else "docs/benchmarks")
    shapes = [TINY] if given.quick else [s for s, name in ((LLAMA, "llama"), (GPT2, "gpt2")) if name in given.shapes]
    agreed = pd.DataFrame([row for setting in shapes for row in agreement(setting)])
    print(agreed.to_string(index=False), flush=True)
    memory = pd.DataFrame(peaks(TINY if given.quick else LLAMA) if "G" in given.parts else [])
    if len(memory):
        print(memory.to_string(index=False), flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.txt").write_text(cases.explained(shapes[0]) + "\n")
    rows: list[dict[str, object]] = []
    for case in chosen(given.parts, given.quick, given.shapes):
        rows += measured(case, 1 if given.quick else given.repeats)
        report.write(pd.DataFrame(rows, columns=COLUMNS), agreed, memory, folder)
    print(f"written to {folder}")


def measured(case: cases.Case, repeats: int) -> list[dict[str, object]]:
    """One row for each contender."""
    found = measure(case.contenders, repeats)
    first = next(iter(found.values()))
    rows = []
    for who, m in found.items():
        work = first.flops / m.flops if m.flops else float("nan")
        ratios = {"time ratio": first.seconds / m.seconds, "flop ratio": work}
        rows.append({"part": case.part, "case": case.name, "who": who, **vars(m), **ratios})
        faster, less = ratios["time ratio"], ratios["flop ratio"]
        print(
            f"{case.part}  {case.name:<60} {who:<28} {m.seconds:9.4f} s   x{faster:.2f}   FLOPs x{less:.1f}", flush=True
        )
    return rows


if __name__ == "__main__":
    main()
