"""The study of `gender` on stories260K: all layers x four positions x five seeds, every control. Prints the report.

    python benchmarks/gender_study.py [--folder runs/gender] [--figure docs/figures/gender.png] [--workers 2]
                                                                                the report goes beside the figure, .txt
    python benchmarks/gender_study.py --folder runs/alone --cells-at-once 1     every cell on its own
    python benchmarks/gender_study.py --flops                                   groups against their cells alone
    python benchmarks/gender_study.py --halving 5 --seeds 2                     all sites against those after halving

What is known of this model (its README): swapping the gender word and the name from girl to boy flips the pronoun at
layers 0 to 3; swapping the last token flips nothing there. A study that tells the truth finds the same.
"""

from __future__ import annotations

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from textwrap import fill

from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer

import causal_reft as cr
from causal_reft.alignment.cells import CONTROLS, Cell, Group
from causal_reft.alignment.compute_cells import run_group
from causal_reft.tasks.pronouns import pronouns

# fmt: off
GIRLS = ["Mia", "Sara", "Sue", "Mary", "Lisa", "Tina", "Sally", "Amy", "Eve", "Ida", "Lina", "Tara", "Maya", "Kim",
         "Pam", "Meg", "Fay", "Kay", "Bea", "Liz", "Beth", "Tess", "Mimi", "Lea"]
BOYS = ["Max", "Bob", "Mark", "Leo", "Mike", "Luke", "Sammy", "Dan", "Ned", "Jim", "Jay", "Ray", "Ron", "Don", "Ken",
        "Lee", "Leon", "Hal", "Al", "Omar", "Bill", "Matt", "Owen", "Pat"]
# fmt: on


def gender_study(folder: str | None, seeds: range = range(5), cells_at_once: int = 16) -> cr.Study:
    """The study; names of three tokens each, none shared by training, selection and report."""
    shared = Path(os.environ.get("CAUSAL_REFT_SHARED", Path(__file__).parents[1].parent / "shared"))
    model = str(shared / "models" / "stories260K-llama")
    return cr.Study(
        model,
        AutoTokenizer.from_pretrained(model),
        task=pronouns(girls=GIRLS, boys=BOYS),
        variable="gender",
        sites=cr.site_grid(layers=range(5), positions=["gender", "name", "gender+name", "last"]),
        featurizer=cr.Subspace.of_rank(4),
        seeds=seeds,
        folder=folder,
        sampling=cr.Sampling(rows=(256, 128, 256), split_by="name"),
        match="choices",
        cells_at_once=cells_at_once,
    )


def count_flops(study: cr.Study) -> None:
    """What the fits of seed 0, and the controls of the same sites, cost together and apart."""
    fits = [group for group in study.prepare().groups if (group[0].seed, group[0].role) == (0, "study")]
    controls = [tuple(Cell(CONTROLS, c.variable, c.site, rank=4, role="control") for c in cells) for cells in fits]
    for cells in (*fits, *controls):
        together, apart = flops(study, [cells]), flops(study, [(cell,) for cell in cells])
        print(
            f"{cells[0].kind}, {len(cells)} cells: {together / 1e9:.1f} GFLOPs together, {apart / 1e9:.1f} one by one"
        )
        print(f"  x{apart / together:.2f}")


def halve(seeds: range, keep: int) -> None:
    """Processor time, the site that is chosen and its score: of all sites, and of those that halving leaves."""
    whole, found = gender_study(None, seeds), []
    start = time.process_time()
    found.append((f"all {len(whole.sites)} sites", whole.run(), time.process_time() - start))
    start = time.process_time()
    promising = gender_study(None, seeds).halving(keep)
    short, left = time.process_time() - start, promising.run()
    found.append((f"{keep} after halving ({short:.0f} s of it)", left, time.process_time() - start))
    for name, result, seconds in found:
        best = result.best("gender")
        apart = f"{best.separation:+.3f} [{best.separation_low:+.3f}, {best.separation_high:+.3f}]"
        print(
            f"{name}: {seconds:.0f} s, x{seconds / found[0][2]:.2f}; chosen {best.site} at {best.positions}, IIA "
            f"{best.iia:.3f}, separation {apart}, p = {best.p_corrected:.2g}"
        )
    grid = found[0][1].grid.sort_values("iia", ascending=False).head(keep)
    kept = set(zip(left.grid.site, left.grid.positions, strict=True))
    shared = sum((row.site, row.positions) in kept for row in grid.itertuples())
    print(f"Of the {keep} highest of all sites, {shared} are left.")


def flops(study: cr.Study, groups: list[Group]) -> int:
    """Counted, not estimated."""
    with FlopCounterMode(display=False) as counter:
        for group in groups:
            run_group(study.prepare().work, group)
    return counter.get_total_flops()


def main() -> None:
    """Run, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default="runs/gender")
    parser.add_argument("--figure", default="")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cells-at-once", type=int, default=16)
    parser.add_argument("--flops", action="store_true")
    parser.add_argument("--halving", type=int, default=0, metavar="KEEP")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    if options.flops:
        return count_flops(gender_study(None))
    if options.halving:
        return halve(range(options.seeds), options.halving)
    study = gender_study(options.folder, range(options.seeds), cells_at_once=options.cells_at_once)
    print(study)
    start = time.perf_counter()
    if options.workers > 1:
        with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
            result = study.run(executor=pool)
    else:
        result = study.run()
    print(f"\n{time.perf_counter() - start:.0f} s here; {result.seconds:.0f} s in cells\n")
    print(result.report())
    if options.figure:
        figure = Path(options.figure)
        figure.parent.mkdir(parents=True, exist_ok=True)
        result.heatmap("iia").figure.savefig(figure, dpi=150, bbox_inches="tight")
        lines = (fill(line, 116, subsequent_indent="    ") for line in result.report().splitlines())
        figure.with_suffix(".txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
