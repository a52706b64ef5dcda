"""The last part of the demo: how much of a text an edit can hold, from one vector to a subspace in every layer."""

from __future__ import annotations

import pandas as pd

from causal_reft.analysis.memorisation import Edit, MemoryRecipe, memories, target_ids
from causal_reft.data import Embedded
from causal_reft.experiments.page import Page

EDITS = {
    "one vector at the last token": Edit("consreft", 1, (1,)),
    "three layers, the last token": Edit("loreft", 8, (0, 1, 2)),
    "three layers, every prompt token": Edit("loreft", 8, (0, 1, 2), "all"),
    "no edit": Edit("none", 0),
}
LENGTHS = (3, 6, 12)
SEEDS = 2
RECIPE = MemoryRecipe(steps=300)


def show_memory(page: Page, small: Embedded, seed: int = 0) -> pd.DataFrame:
    """Teach edits of growing size the first tokens of a story, and count what greedy decoding gives back."""
    from causal_reft.plots import curves_with_intervals

    page.heading("How much of a text does an edit remember?")
    story, prompt = small.stories[0]["text"], small.german_examples[0]["prompt"]
    page.text(
        "With one prompt, one token of one layer is one vector, and rank 1 can already turn it into any other: more "
        "rank adds no room there. Do more layers, or more tokens of the prompt?"
    )
    trials = {(name, start): (edit, seed + start) for name, edit in EDITS.items() for start in range(SEEDS)}
    rows = []
    for n in LENGTHS:
        target = target_ids("book", story, n, small.tokenizer, seed)
        found = memories(small.model, small.tokenizer, target, list(trials.values()), prompt, RECIPE)
        for (name, start), memory in zip(trials, found, strict=True):
            counted = {key: memory.row[key] for key in ("n", "recovery", "n_trainable_parameters")}
            rows.append({"edit": name, "seed": start, **counted, "recalled": memory.recalled})
    table = pd.DataFrame(rows)
    longest = table[(table["n"] == LENGTHS[-1]) & (table["seed"] == 0)].drop(columns="seed")
    page.table("memory", longest)
    ax = curves_with_intervals(table, "n", "recovery", "edit", title="What greedy decoding gives back of a story")
    page.figure("memory", ax, f"Share of the first tokens of a story that come back; {SEEDS} seeds, their range.")
    return table
