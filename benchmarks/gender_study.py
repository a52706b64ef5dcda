"""The study of `gender` on stories260K: all layers x four positions x five seeds, every control. Prints the report.

    python benchmarks/gender_study.py [--folder runs/gender] [--figure docs/figures/gender.png] [--workers 2]

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

from transformers import AutoTokenizer

import causal_reft as cr
from causal_reft.tasks.pronouns import pronouns

# fmt: off
GIRLS = ["Mia", "Sara", "Sue", "Mary", "Lisa", "Tina", "Sally", "Amy", "Eve", "Ida", "Lina", "Tara", "Maya", "Kim",
         "Pam", "Meg", "Fay", "Kay", "Bea", "Liz", "Beth", "Tess", "Mimi", "Lea"]
BOYS = ["Max", "Bob", "Mark", "Leo", "Mike", "Luke", "Sammy", "Dan", "Ned", "Jim", "Jay", "Ray", "Ron", "Don", "Ken",
        "Lee", "Leon", "Hal", "Al", "Omar", "Bill", "Matt", "Owen", "Pat"]
# fmt: on


def gender_study(folder: str, seeds: range = range(5)) -> cr.Study:
    """The study; names of three tokens each, none shared by training, selection and report."""
    shared = Path(os.environ.get("CAUSAL_REFT_SHARED", Path(__file__).parents[1].parent / "shared"))
    model = str(shared / "models" / "stories260K-llama")
    return cr.Study(
        model,
        AutoTokenizer.from_pretrained(model),
        task=pronouns(girls=GIRLS, boys=BOYS),
        variable="gender",
        sites=cr.grid(layers=range(5), positions=["gender", "name", "gender+name", "last"]),
        featurizer=cr.Subspace.of_rank(4),
        seeds=seeds,
        folder=folder,
        sampling=cr.Sampling(rows=(256, 128, 256), split_by="name"),
        match="choices",
    )


def main() -> None:
    """Run, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default="runs/gender")
    parser.add_argument("--figure", default="")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    study = gender_study(options.folder)
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
        axes = result.heatmap("iia")
        Path(options.figure).parent.mkdir(parents=True, exist_ok=True)
        axes.figure.savefig(options.figure, dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main()
