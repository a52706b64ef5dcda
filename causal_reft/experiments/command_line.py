"""One command line for all experiments: `python -m causal_reft <experiment>`, from the table at the top of this file.

An experiment is a module with `add_options(parser)` and `run_command(options)`, which returns its main result.
What a user can mend (our own errors, missing files, models and packages) becomes one line and exit code 2; Ctrl-C
becomes one line that says how to go on, and exit code 130.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from causal_reft import __version__
from causal_reft.errors import CausalReftError, nearest
from causal_reft.experiments.options import PROGRAM, Parser


@dataclass(frozen=True)
class Command:
    """An experiment on the command line.

    Args:
        name: the word to type.
        line: what it does, in one line.
        module: where its `add_options` and `run_command` are; imported only when it is used.
        folder: where its results go by default.
        example: options that make sense together.
    """

    name: str
    line: str
    module: str
    folder: str
    example: str = ""


EXPERIMENTS = (
    Command(
        "demo",
        "both halves of the library on small models, with a page of figures; a few minutes",
        "causal_reft.experiments.demo",
        "runs/demo",
    ),
    Command(
        "equality",
        "hierarchical equality: how well hypotheses align, over networks and seeds",
        "causal_reft.experiments.equality",
        "runs/equality",
        "--networks 10 --seeds 3",
    ),
    Command(
        "random",
        "how well alignments fit networks with random weights, by their width",
        "causal_reft.experiments.random_networks",
        "runs/random",
        "--widths 16 64 256 --seeds 3",
    ),
    Command(
        "align",
        "where a pretrained model holds a gender, a receiver, or an attribute of a city",
        "causal_reft.experiments.alignments",
        "runs/align",
        "gender --model runs/smollm2 --layers 4 14 24 --positions gender last --seeds 2 --folder runs/align/gender",
    ),
    Command(
        "compose",
        "two skills in one rotation, separately and together, with other ways of composing",
        "causal_reft.experiments.composition.command",
        "runs/composition",
        "--seeds 2 --methods 'one rotation, mixed batches' 'apart, added'",
    ),
    Command(
        "memorise",
        "teach one edit to recall the start of a text: layers x lengths x texts x seeds",
        "causal_reft.experiments.memorisation.command",
        "runs/memorisation",
        "--model data/embedded --text book.txt --start 'Once upon' --lengths 4 8 --seeds 2",
    ),
    Command(
        "transfer",
        "from alignment to finetuning and back: does LoReFT gain from an aligned subspace?",
        "causal_reft.experiments.transfer",
        "runs/transfer",
        "--seeds 10 --examples 16",
    ),
    Command(
        "replicate",
        "LoReFT by the paper's recipes on commonsense, arithmetic, GLUE or instructions",
        "causal_reft.experiments.finetuning.replicate",
        "runs/replicate",
        "commonsense --model runs/smollm2 --data data --benchmarks openbookqa --limit 256 --epochs 1",
    ),
    Command(
        "ablate",
        "LoReFT with other positions, ranks, layers and tying, one at a time",
        "causal_reft.experiments.finetuning.ablate",
        "runs/ablate",
        "--model runs/smollm2 --data data --benchmark SST-2 --ranks 4 1 8 --positions f1 f5+l5",
    ),
    Command(
        "compare",
        "LoReFT beside LoRA, DoRA, adapters, prefix tuning and full finetuning",
        "causal_reft.experiments.finetuning.compare",
        "runs/compare",
        "--model runs/smollm2 --data data --benchmarks SST-2 --methods LoReFT LoRA --seeds 3",
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one experiment and return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0 if words else 2
    if words[0] == "--version":
        print(__version__)
        return 0
    commands = {command.name: command for command in EXPERIMENTS}
    if words[0] not in commands:
        print(f"There is no experiment {words[0]!r}. {nearest(words[0], commands)}", file=sys.stderr)
        return 2
    return _run(commands[words[0]], words)


def overview() -> str:
    """Every experiment with its line."""
    lines = [f"  {command.name:11}{command.line}" for command in EXPERIMENTS]
    head = "Where and how a network represents a variable, and how to use it."
    return "\n".join([f"{head}\n\nusage: {PROGRAM} <experiment> [options]\n", *lines, *_HINTS])


_HINTS = ("", f"Options, defaults and an example: {PROGRAM} <experiment> --help", f"Version: {PROGRAM} --version")


def _run(command: Command, words: Sequence[str]) -> int:
    module = import_module(command.module)
    parser = Parser(command.name, f"{command.line[0].upper()}{command.line[1:]}.", command.example)
    module.add_options(parser)
    parser.add_argument("--folder", type=Path, default=Path(command.folder), help="where results go and go on")
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    options = parser.parse(words[1:])
    options.command = f"{PROGRAM} {shlex.join(words)}"
    new = [path for path in (options.folder, *options.folder.parents) if not path.exists()]
    print(f"Results go to {options.folder}; the same command goes on there after an interruption.", flush=True)
    try:
        print(f"Results: {module.run_command(options)}")
        return 0
    except KeyboardInterrupt:
        print(f"\nStopped. To go on: {options.command}", file=sys.stderr)
        return 130
    except (CausalReftError, OSError, ImportError) as error:
        if options.traceback:
            raise
        print(f"{parser.prog}: {_in_one_line(error)}", file=sys.stderr)
        return 2
    finally:
        _remove_unused(new)


def _in_one_line(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return f"there is no file {str(error.filename)!r}."
    return " ".join(str(error).split())


def _remove_unused(folders: Sequence[Path]) -> None:
    """Remove folders that this call has made, innermost first, where it has left nothing but the experiment's name
    and what it took."""
    from causal_reft.experiments.cost import CALLS
    from causal_reft.sweeps.store import DESCRIPTION

    for folder in folders:
        left = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != CALLS]
        if folder.is_dir() and {path.name for path in left} <= {DESCRIPTION}:
            shutil.rmtree(folder)
