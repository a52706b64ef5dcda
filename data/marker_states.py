"""Is a mode written at the prompt's tokens? Their states behind a real marker are put into a run without any marker.

If what follows then is what follows the marker, those states hold the mode. If not, the next line reads the mode from
the marker itself, and an edit of the prompt's states has to bring it about in another way than the marker does.

    python data/marker_states.py [folder]          # select split; one row per block
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd
import torch
from capabilities import EMBEDDED, load, markdown, next_lines, read_rows
from corpus.language import language_of
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

SHOWN = {"german": "German", "answer": "right in English", "both": "right in German"}


def shows(mode: str, line: str, row: dict[str, str], lists: dict[str, list[str]]) -> bool:
    if mode == "german":
        return language_of(line, lists) == "german"
    return line == row["english" if mode == "answer" else "german"]


@torch.no_grad()
def states(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, marker: str, prompt: str) -> tuple[Tensor, ...]:
    """What every block puts out at the tokens of the prompt, behind a marker."""
    before, own = tokenizer(marker)["input_ids"], tokenizer(prompt)["input_ids"][1:]
    ids = torch.tensor([before + own])
    return model(input_ids=ids, output_hidden_states=True).hidden_states[1:]


def line_under(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, block: int, put: Tensor, prompt: str
) -> str:
    """The next line after the bare prompt, whose own states behind one block are replaced."""
    n = len(tokenizer(prompt)["input_ids"]) - 1

    def replaced(_block: object, _inputs: object, state: Tensor) -> Tensor:
        if state.shape[1] == 1:  # a generated token
            return state
        return torch.cat([state[:, :1], put[:, -n:]], dim=1)

    hook = model.model.layers[block].register_forward_hook(replaced)
    try:
        return next_lines(model, tokenizer, [prompt])[0]
    finally:
        hook.remove()


def table(folder: Path, every: int) -> pd.DataFrame:
    """Shares over held-out prompts of the select split, one row per block but the last."""
    model, tokenizer = load(folder)
    lists = json.loads((folder / "language_words.json").read_text(encoding="utf-8"))
    rows = [row for row in read_rows(folder / "held_out.jsonl") if row["split"] == "select"][::every]
    found = []
    for mode in SHOWN:
        for row in rows:
            put = states(model, tokenizer, row[f"marker_{mode}"], row["prompt"])
            for block in range(model.config.num_hidden_layers - 1):
                line = line_under(model, tokenizer, block, put[block], row["prompt"])
                found.append({"block": block, "mode": SHOWN[mode], "shown": shows(mode, line, row, lists)})
    return pd.DataFrame(found).pivot_table(index="block", columns="mode", values="shown", sort=False).round(3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=EMBEDDED)
    parser.add_argument("--every", type=int, default=1, help="take every n-th prompt only")
    args = parser.parse_args()
    print(markdown(table(args.folder, args.every)))


if __name__ == "__main__":
    main()
