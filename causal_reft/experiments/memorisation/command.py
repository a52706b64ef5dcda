"""The command  python -m causal_reft memorise --model <folder or hub id> --text <file>  : grid, table and figure.

It writes `table.csv`, `figure.png` and `report.txt` beside the finished cells.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from causal_reft.analysis.memorisation import KINDS, LOSSES, PROMPT, REFT, MemoryRecipe, layer_edits, read_text
from causal_reft.experiments.memorisation.grid import MemorisationGrid
from causal_reft.experiments.memorisation.ids import TEMPLATE, access_ids
from causal_reft.experiments.models import load_model
from causal_reft.experiments.options import above_zero, at_least


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    recipe, whole = MemoryRecipe(), at_least(1)
    parser.add_argument("--model", required=True, help="a folder of save_pretrained or a hub id")
    parser.add_argument("--text", required=True, help="any UTF-8 text file")
    parser.add_argument("--start", help="begin at the first occurrence of these words: pass over a title page")
    parser.add_argument("--keep-layout", action="store_true", help="keep line breaks and indentation of the file")
    parser.add_argument("--prompt", default=PROMPT, help="what the text follows")
    parser.add_argument("--method", choices=list(REFT), default="consreft", help="what is learned")
    parser.add_argument("--rank", type=whole, default=1, help="of each layer's subspace")
    parser.add_argument("--layers", type=at_least(0), nargs="+", help="one edit for each (default: all)")
    parser.add_argument("--positions", default="last", help="prompt tokens that are edited, e.g. f3+l3")
    parser.add_argument("--lengths", type=whole, nargs="+", default=[4, 8, 12, 16, 24], help="of the text, in tokens")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), help="of text")
    parser.add_argument("--seeds", type=whole, default=3, help="how many")
    parser.add_argument("--ids", type=whole, nargs="+", default=[], help="also N access ids that recall one word each")
    parser.add_argument("--id-template", default=TEMPLATE, help="of their prompts")
    parser.add_argument("--steps", type=whole, default=recipe.steps, help="of every training, at most")
    parser.add_argument("--lr", type=above_zero, default=recipe.lr, help="learning rate")
    parser.add_argument("--loss", choices=list(LOSSES), default=recipe.loss, help="of every training")
    parser.add_argument("--batch-size", type=whole, default=recipe.batch_size, help="edits (or ids) in one pass")
    parser.add_argument("--device", default="cpu", help="of the model, e.g. cuda")
    parser.add_argument("--dtype", default="auto", help="of the model's weights: auto, float32, bfloat16")


def run_command(options: argparse.Namespace) -> Path:
    """The grid, its table, figure and report; then the access ids."""
    text = read_text(options.text, options.start, options.keep_layout)
    model, tokenizer = load_model(options.model, options.device, options.dtype)
    recipe = MemoryRecipe(steps=options.steps, lr=options.lr, loss=options.loss, batch_size=options.batch_size)
    edits = layer_edits(model, options.method, options.rank, options.layers, options.positions)
    seeds, folder = tuple(range(options.seeds)), Path(options.folder)
    lengths, kinds = options.lengths, options.kinds
    result = MemorisationGrid(
        model, tokenizer, text, edits, lengths, kinds, seeds, options.prompt, recipe, folder
    ).run()
    result.table.to_csv(folder / "table.csv", index=False)
    result.figure()[0].figure.savefig(folder / "figure.png", dpi=160)
    (folder / "report.txt").write_text(result.report() + "\n", encoding="utf-8")
    print(result.report())
    if options.ids:
        table = access_ids(
            model, tokenizer, text, options.ids, edits, seeds, options.id_template, recipe, folder / "ids"
        )
        table.to_csv(folder / "ids.csv", index=False)
        shown = table.groupby(["ids", "method", "rank", "layers"], sort=False)["recovery"].agg(["mean", "min", "max"])
        print(shown.round(3).to_string())
    return folder / "report.txt"
