"""The command  python -m causal_reft memorise --model <folder or hub id> --text <file>  : grid, table and figure.

It writes `table.csv`, `figure.png` and `report.txt` beside the finished cells in `--folder`, and goes on where it
stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from causal_reft.analysis.memorisation.edits import REFT, layer_edits
from causal_reft.analysis.memorisation.memorise import PROMPT
from causal_reft.analysis.memorisation.targets import KINDS, read_text
from causal_reft.analysis.memorisation.training import LOSSES, MemoryRecipe
from causal_reft.experiments.memorisation.grid import MemorisationGrid
from causal_reft.experiments.memorisation.ids import TEMPLATE, access_ids

DESCRIPTION = (
    "Teach one edit of a frozen model to spell out the first n tokens of a text: layers x lengths x texts x seeds."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    recipe = MemoryRecipe()
    parser.description = DESCRIPTION
    parser.add_argument("--model", required=True, help="a folder of save_pretrained or a hub id")
    parser.add_argument("--text", required=True, help="any UTF-8 text file")
    parser.add_argument("--start", help="begin at the first occurrence of these words: pass over a title page")
    parser.add_argument("--keep-layout", action="store_true", help="keep line breaks and indentation of the file")
    parser.add_argument("--prompt", default=PROMPT, help="what the text follows (default: %(default)r)")
    parser.add_argument("--method", choices=list(REFT), default="consreft", help="default: %(default)s")
    parser.add_argument("--rank", type=int, default=1)
    parser.add_argument("--layers", type=int, nargs="+", help="default: all")
    parser.add_argument("--positions", default="last", help="prompt tokens that are edited, e.g. last or f3+l3")
    parser.add_argument("--lengths", type=int, nargs="+", default=[4, 8, 12, 16, 24], help="in tokens")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--ids", type=int, nargs="+", default=[], help="also N access ids that recall one word each")
    parser.add_argument("--id-template", default=TEMPLATE, help="of their prompts (default: %(default)r)")
    parser.add_argument("--steps", type=int, default=recipe.steps)
    parser.add_argument("--lr", type=float, default=recipe.lr)
    parser.add_argument("--loss", choices=list(LOSSES), default=recipe.loss, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=recipe.batch_size, help="edits (or ids) in one forward pass")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto", help="of the model's weights: auto, float32, bfloat16")
    parser.add_argument("--folder", default="runs/memorisation", help="finished cells are kept here")


def run(args: argparse.Namespace) -> int:
    """Carry it out; 0 where the grid is finished, 130 where it was interrupted."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=args.dtype).to(args.device).eval()
    text = read_text(args.text, args.start, args.keep_layout)
    recipe = MemoryRecipe(steps=args.steps, lr=args.lr, loss=args.loss, batch_size=args.batch_size)
    edits = layer_edits(model, args.method, args.rank, args.layers, args.positions)
    seeds = tuple(range(args.seeds))
    folder = Path(args.folder)
    grid = MemorisationGrid(model, tokenizer, text, edits, args.lengths, args.kinds, seeds, args.prompt, recipe, folder)
    result = grid.run()
    if not result.complete:
        return 130
    result.table.to_csv(folder / "table.csv", index=False)
    result.figure()[0].figure.savefig(folder / "figure.png", dpi=160)
    (folder / "report.txt").write_text(result.report() + "\n", encoding="utf-8")
    print(result.report())
    if args.ids:
        table = access_ids(model, tokenizer, text, args.ids, edits, seeds, args.id_template, recipe, progress=True)
        table.to_csv(folder / "ids.csv", index=False)
        print(
            table.groupby(["ids", "method", "rank", "layers"], sort=False)["recovery"]
            .agg(["mean", "min", "max"])
            .round(3)
            .to_string()
        )
    print(f"Table, figure and report: {folder}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command by itself."""
    parser = argparse.ArgumentParser(prog="python -m causal_reft memorise")
    add_arguments(parser)
    return run(parser.parse_args(argv))
