"""Which number a model's precision changes: answers, log-odds, and a subspace fitted to one site, against float64.

    python benchmarks/precision.py --model runs/smollm2 --layer 14 > docs/guides/precision.txt

The subspace of `gender` is fitted by the same recipe with the same seed in each precision (`own fit`), and the one that
was fitted in float64 is scored in each (`same rows`).
"""

from __future__ import annotations

import argparse
import time

import pandas as pd
import torch

import causal_reft as cr
from causal_reft.alignment import TextEncoding, score_rows
from causal_reft.experiments.alignments import QUESTIONS
from causal_reft.experiments.models import identity_of, load_model

RANK, ROWS, EPOCHS = 4, 32, 3
PRECISIONS = ("float64", "float32", "bfloat16")


def table(model: str, layer: int) -> tuple[pd.DataFrame, str]:
    """One row for each precision and edit, and what made it."""
    rows, first, known, made = [], {}, None, {}
    for dtype in PRECISIONS:
        network, tokenizer = load_model(model, dtype=dtype)
        task, encoding = QUESTIONS["gender"].task(tokenizer), TextEncoding(tokenizer)
        train, test = (task.counterfactuals("gender", n, seed) for n, seed in ((ROWS, 0), (2 * ROWS, 1)))
        site, run, width = cr.Site(layer, positions="gender"), train.run_of("gender"), network.config.hidden_size
        fitted = cr.IntervenedModel(network, cr.das(site, width, RANK, 0, run))
        begun = time.process_time()
        cr.fit(fitted, encoding.examples(train), epochs=EPOCHS, batch_size=8, lr=2e-2, seed=0, progress=False)
        seconds = time.process_time() - begun
        subspace = next(iter(fitted.graph.edits.values())).featurizer
        assert isinstance(subspace, cr.Subspace)
        rotation = subspace.rotation.detach().double()
        known = rotation if known is None else known
        same = cr.Subspace.from_rows(known.to(torch.promote_types(network.dtype, torch.float32)))
        graphs = {
            "no edit": cr.InterventionGraph(),
            "whole vector": cr.patch(site, width, run),
            "same rows": cr.InterventionGraph(gender=cr.Interchange(site, same, cr.Collect(run))),
            "own fit": fitted.graph,
        }
        for edit, graph in graphs.items():
            found = score_rows(network, graph, encoding.examples(test))
            base = first.setdefault(edit, found)
            rows.append(
                {
                    "precision": dtype,
                    "edit": edit,
                    "iia": found["iia"].mean(),
                    "other answers": int((found["iia"] != base["iia"]).sum()),
                    "log-odds": found["log_odds"].mean(),
                    "largest difference": abs(found["log_odds"] - base["log_odds"]).max(),
                    "angle": float(cr.principal_angles(rotation, known).max()) if edit == "own fit" else None,
                    "seconds of the fit": seconds if edit == "own fit" else None,
                }
            )
        made = identity_of(network, tokenizer)
        del network, fitted, graphs
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    return pd.DataFrame(rows), f"{2 * ROWS} rows, {made['model']['class']}, {versions}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--layer", type=int, default=14)
    options = parser.parse_args()
    found, made = table(options.model, options.layer)
    print(found.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.3g}"))
    print(f"\npython benchmarks/precision.py --layer {options.layer}: {made}")


if __name__ == "__main__":
    main()
