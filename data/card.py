"""Write the embedded model's card: what it is, what it was trained on, its losses, and its measured capabilities.

    python data/card.py [folder]                   # README.md and training_curve.png in the folder

Nothing in the card is typed by hand that a file beside it can say: the parameters come from the weights, the losses
from ``training_curve.csv``, the seeds and the corpus hash from ``training.json``, the tables from a fresh measurement.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from capabilities import EMBEDDED, capability_table, load, markdown, measure, next_lines, read_rows, task_table

CARD = """---
language: [en, de]
license: apache-2.0
pipeline_tag: text-generation
---

# The embedded model

A decoder language model (Llama architecture, {layers} blocks of width {width}, {parameters:,} parameters,
{tokens} words) trained on nothing but the bilingual corpus that `data/corpus` generates. It exists so that
experiments on interventions run anywhere in minutes. It knows some animals, tools, trades, colours, capitals and
sums, and nothing else.

Its default is English prose. Two behaviours are latent: going on in German, and answering questions. In the training
text they follow only on earlier turns of the same kind, *markers*, or, in {leak:.0%} of documents without any,
by chance.

## Training

`python data/train_embedded_model.py` makes it anew: {documents:,} documents, corpus hash `{corpus_hash}`,
seed {seed}, {steps:,} steps of {batch} documents. This one took {minutes:.0f} minutes on {where}; another device rounds
otherwise and ends with other weights (the losses of such runs are in `docs/composition.md`). In the second stage (after
step {first_stage:,}) the marker turns carry no loss. Weight decay {weight_decay}; while training, Gaussian noise of
{noise} times the length of the state behind every block but the last. Last training loss {train_loss:.4f}, **held-out
loss {held_out_loss:.4f}** nats per token (documents about held-out records, marker turns not counted).

![training curve](training_curve.png)

## Capabilities

`python data/capabilities.py` prints these tables. {n} distinct held-out prompts, none of which (nor
its answer) occurs in training; greedy decoding to the end of the line; exact match with the one
right answer; 95 % Wilson intervals.

{capabilities}

The two ceilings by task:

{tasks}

One prompt, four contexts:

{generations}

## Files

`held_out.jsonl` (splits *select* and *test*), `german_examples.jsonl`, `answer_examples.jsonl`, `stories.jsonl`,
`language_words.json`: see `data/write_exercises.py`. {german_answers}
Every text was written for this project.
"""


GERMAN_ANSWERS = {
    True: """German answers to English questions *are* in the training
text of this model, after both markers and by chance after a few unmarked questions; they are in no adapter example.""",
    False: "No text that this model was trained on ever answers an\nEnglish question in German.",
}


def draw_curve(curve: pd.DataFrame, first_stage: int, path: Path) -> None:
    """Training and held-out loss over steps, the second stage shaded."""
    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    axes.plot(curve.step, curve.train_loss, label="training", color="tab:blue")
    axes.plot(curve.step, curve.held_out_loss, label="held out, markers not counted", color="tab:orange")
    axes.axvspan(first_stage, curve.step.max(), color="0.92", label="second stage: markers carry no loss")
    axes.set(xlabel="step", ylabel="nats per token", yscale="log", xlim=(0, curve.step.max()))
    axes.yaxis.set_major_formatter("{x:.1f}")
    axes.yaxis.set_minor_formatter("{x:.1f}")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def four_generations(folder: Path, number: int = 0) -> str:
    """The line after one held-out prompt in each context."""
    model, tokenizer = load(folder)
    row = [row for row in read_rows(folder / "held_out.jsonl") if row["split"] == "test"][number]
    markers = {"none": "", **{mode: row[f"marker_{mode}"] for mode in ("german", "answer", "both")}}
    lines = next_lines(model, tokenizer, [marker + row["prompt"] for marker in markers.values()])
    table = pd.DataFrame({
        "context": [marker.strip().replace("\n", " / ") for marker in markers.values()],
        "prompt": row["prompt"].strip(), "next line": lines,
    }, index=pd.Index(list(markers), name="marker"))  # fmt: skip
    return markdown(table)


def write_card(folder: Path) -> None:
    """``README.md`` and ``training_curve.png`` from the files of the folder."""
    curve = pd.read_csv(folder / "training_curve.csv")
    training = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    draw_curve(curve, training["first_stage"], folder / "training_curve.png")
    model, tokenizer = load(folder)
    measured = measure(folder, "test")
    last = curve.iloc[-1]
    card = CARD.format(
        layers=model.config.num_hidden_layers, width=model.config.hidden_size, parameters=model.num_parameters(),
        tokens=len(tokenizer), train_loss=last.train_loss, held_out_loss=last.held_out_loss,
        n=len(measured) // measured.context.nunique(), capabilities=markdown(capability_table(measured)),
        tasks=markdown(task_table(measured)), generations=four_generations(folder),
        **{**training, "german_answers": GERMAN_ANSWERS[training["german_answers"]]},
    )  # fmt: skip
    (folder / "README.md").write_text(card, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=EMBEDDED)
    write_card(parser.parse_args().folder)


if __name__ == "__main__":
    main()
