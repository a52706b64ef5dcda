"""The last part of the demo: how much of a text an edit can hold, from one vector to a subspace in every layer."""

from __future__ import annotations

import pandas as pd

from causal_reft.analysis import Edit, memorise
from causal_reft.data import Embedded
from causal_reft.experiments.page import Page

EDITS = {
    "one vector at the last token (rank-1 ConsReFT)": Edit("consreft", 1, (1,)),
    "rank-8 LoReFT at the last token of three layers": Edit("loreft", 8, (0, 1, 2)),
    "rank-8 LoReFT at every prompt token of three layers": Edit("loreft", 8, (0, 1, 2), "all"),
}
N_TOKENS = 12


def show_memory(page: Page, small: Embedded, seed: int = 0) -> pd.DataFrame:
    """Teach three edits of growing size the first tokens of a story, and count what greedy decoding gives back."""
    page.heading("How much of a text does an edit remember?")
    story, prompt = small.stories[0]["text"], small.german_examples[0]["prompt"]
    page.text(
        "With one prompt, one token of one layer is one vector, and rank 1 can already turn it into any other: what "
        "adds room is more layers and more tokens, not more rank."
    )
    rows = []
    for name, edit in EDITS.items():
        found = memorise(small.model, small.tokenizer, story, N_TOKENS, edit, prompt, seed=seed)
        counted = {
            "recalled": found.row["tokens"],
            "of": N_TOKENS,
            "trainable parameters": found.row["n_trainable_parameters"],
        }
        rows.append({"edit": name, **counted, "what came out": found.recalled})
    table = pd.DataFrame(rows)
    page.table("memory", table)
    return table
