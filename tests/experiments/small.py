"""Experiments small enough for tests, also as programs: python -m tests.experiments.small memorisation FOLDER"""

from __future__ import annotations

import sys
from pathlib import Path

import causal_reft as cr
from causal_reft.analysis import Edit, MemoryRecipe
from causal_reft.analysis.behaviours import Behaviour
from causal_reft.analysis.composition import Skill
from causal_reft.experiments.composition import Experiment, run_composition
from causal_reft.experiments.equality import Effort, alignment_distribution
from causal_reft.experiments.finetuning import Bench, FinetuningCell
from causal_reft.experiments.memorisation import MemorisationGrid
from causal_reft.sweeps import Result
from causal_reft.tasks import Recipe
from tests import words
from tests.analysis.memory_models import PROMPT, TEXT, tokenizer
from tests.models import llama

EDITS = (Edit("loreft", 2, (0,)), Edit("loreft", 2, (2,)), Edit("prompt_embedding", 4), Edit("none", 0))
EFFORT = Effort(train_rows=256, test_rows=64, batch_size=64, steps=3, random_subspaces=3)
NETWORK = Recipe(n_examples=1024, batch_size=256)


def grid(folder: Path | None, **changes) -> MemorisationGrid:
    """Eight cells of four edits on a tiny model."""
    given = {
        "edits": EDITS,
        "lengths": (2, 3),
        "kinds": ("book", "random"),
        "seeds": (0, 1),
        "prompt": PROMPT,
        "recipe": MemoryRecipe(steps=4, lr=0.05),
    }
    return MemorisationGrid(llama(), tokenizer(), TEXT, folder=folder, **{**given, **changes})


def composition() -> Experiment:
    """Two skills of a tiny model."""
    skills = [
        Skill("cats", [("who is it", "cat"), ("what is that", "cat"), ("it sees", "cat")], rank=2),
        Skill("owls", [("who hears it", "owl"), ("what is in it", "owl")], rank=3),
    ]
    prompts = [{"prompt": "the cat", "task": "t"}, {"prompt": "a dog is", "task": "t"}]
    behaviours = (
        Behaviour("says cat", lambda text, row: "cat" in text),
        Behaviour("says owl", lambda text, row: "owl" in text),
    )
    site, few = cr.Site(1, positions="all"), {"max_steps": 6, "batch_size": 4}
    return Experiment(words.model(), words.tokenizer(), skills, prompts, behaviours, site, few, max_new_tokens=3)


def equality(folder: Path | None, networks: int = 1, seeds: int = 1):
    """Three hypotheses x three layers of networks that were hardly trained, and controls."""
    return alignment_distribution(
        range(networks), range(seeds), folder, ranks=(2,), effort=EFFORT, recipe=NETWORK, progress=False
    )


def finetuning(folder: Path, seeds: int = 1, limit: int = 8) -> dict[FinetuningCell, Result]:
    """LoReFT on reviews that the embedded model reads."""
    small = cr.load_embedded()
    data = reviews(folder.with_name("reviews"))
    bench = Bench(small.model, small.tokenizer, data, batch_size=4, limit=limit, test_limit=6)
    cells = [
        FinetuningCell("SST-2", method, 1e-2, seed, rank=2) for method in ("LoReFT", "LoRA") for seed in range(seeds)
    ]
    return bench.run(cells, bench.store(folder, ["SST-2"]), "finetuning")


def reviews(folder: Path) -> Path:
    """A data folder with SST-2's files: short reviews with a class each."""
    home = folder / "SST-2"
    if not home.is_dir():
        home.mkdir(parents=True)
        felt = {"good": 1, "bad": 0, "happy": 1, "sad": 0}
        things = ["film", "story", "song", "book", "day", "dog", "cat", "house", "tree"]
        rows = [f"a {word} {thing}\t{label}" for thing in things for word, label in felt.items()]
        (home / "train.tsv").write_text("\n".join(rows[:24]), encoding="utf-8")
        (home / "dev.tsv").write_text("\n".join(rows[24:]), encoding="utf-8")
    return folder


PROGRAMS = {
    "memorisation": lambda folder: grid(folder, seeds=tuple(range(8))).run(progress=False),
    "composition": lambda folder: run_composition(composition(), folder, range(24), ["one joint edit"], progress=False),
    "equality": lambda folder: equality(folder, networks=2),
    "finetuning": lambda folder: finetuning(folder, seeds=16),
}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](Path(sys.argv[2]))
