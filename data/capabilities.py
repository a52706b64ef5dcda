"""What the embedded model does by itself, measured: its capability table.

By default it goes on in English prose. German and answering are latent: they come when a marker, turns of the same
kind, stands before the prompt, and not without. Every figure is greedy decoding to the end of one line over held-out
prompts, compared with the one right answer; intervals are 95 % Wilson intervals.

    python data/capabilities.py [folder] [--split test]
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from corpus.language import language_of
from scipy.stats import binomtest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

EMBEDDED = Path(__file__).parent / "embedded"
CONTEXTS = {"none": "plain", "German": "marker_german", "answer": "marker_answer", "both": "marker_both"}
LONGEST_LINE = 24


def load(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    model = LlamaForCausalLM.from_pretrained(folder)
    return model.eval(), PreTrainedTokenizerFast.from_pretrained(folder)


def read_rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@torch.no_grad()
def next_lines(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]) -> list[str]:
    """The line that greedy decoding puts after each prompt. Prompts of one length share a batch: no padding at all."""
    line_end = tokenizer.convert_tokens_to_ids("\n")
    by_length: dict[int, list[int]] = defaultdict(list)
    encoded = tokenizer(list(prompts))["input_ids"]
    for i, ids in enumerate(encoded):
        by_length[len(ids)].append(i)
    lines = [""] * len(prompts)
    for length, members in by_length.items():
        ids = torch.tensor([encoded[i] for i in members])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=LONGEST_LINE, do_sample=False,
                             eos_token_id=line_end)  # fmt: skip
        texts = tokenizer.batch_decode(out[:, length:], skip_special_tokens=True)
        for i, text in zip(members, texts, strict=True):
            lines[i] = text.split("\n")[0]
    return lines


def behaviours(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, rows: list[dict[str, str]], lists: dict[str, list[str]]
) -> pd.DataFrame:
    """One row per prompt and context: the line, and whether it is German, the right answer, the right German answer."""
    tables = []
    for context, column in CONTEXTS.items():
        lines = next_lines(model, tokenizer, [row.get(column, "") + row["prompt"] for row in rows])
        tables.append(pd.DataFrame({
            "context": context, "task": [row["task"] for row in rows], "line": lines,
            "German": [language_of(line, lists) == "german" for line in lines],
            "correct English": [line == row["english"] for line, row in zip(lines, rows, strict=True)],
            "correct German": [line == row["german"] for line, row in zip(lines, rows, strict=True)],
        }))  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def with_interval(hits: pd.Series) -> str:
    low, high = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    return f"{hits.mean():.3f} [{low:.3f}, {high:.3f}]"


def capability_table(measured: pd.DataFrame) -> pd.DataFrame:
    """Context before the prompt x behaviour, over all tasks."""
    columns = ["German", "correct English", "correct German"]
    return measured.groupby("context", sort=False)[columns].agg(with_interval)


def task_table(measured: pd.DataFrame) -> pd.DataFrame:
    """The two ceilings by task: right English answers after an answer marker, right German ones after both."""
    english = measured[measured.context == "answer"].groupby("task", sort=False)["correct English"]
    german = measured[measured.context == "both"].groupby("task", sort=False)["correct German"]
    return pd.DataFrame({"prompts": english.size(), "English after answer marker": english.mean().round(3),
                         "German after both markers": german.mean().round(3)})  # fmt: skip


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown, its index as the first column."""
    lines = [[str(table.index.name), *map(str, table.columns)], ["---"] * (len(table.columns) + 1)]
    lines += [[str(index), *map(str, row)] for index, *row in table.itertuples()]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def measure(folder: Path, split: str) -> pd.DataFrame:
    model, tokenizer = load(folder)
    rows = [row for row in read_rows(folder / "held_out.jsonl") if row["split"] == split]
    return behaviours(model, tokenizer, rows, json.loads((folder / "language_words.json").read_text(encoding="utf-8")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=EMBEDDED)
    parser.add_argument("--split", choices=("select", "test"), default="test")
    args = parser.parse_args()
    measured = measure(args.folder, args.split)
    print(f"{measured.groupby('context').size().iloc[0]} distinct held-out prompts, split {args.split!r}\n")
    print(markdown(capability_table(measured)), "\n")
    print(markdown(task_table(measured)))


if __name__ == "__main__":
    main()
