"""The command line: `python -m causal_reft demo`, `python -m causal_reft equality --networks 10 --das-seeds 3`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from causal_reft import __version__


def main(argv: Sequence[str] | None = None) -> None:
    """Parse and run one command."""
    parser = argparse.ArgumentParser(
        prog="causal_reft", description="Where and how a network represents a variable, and how to use it."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="both halves of the library on small models; results in runs/demo/")
    demo.add_argument("--model", help="finetune this language model instead: a folder or a hub id")
    demo.add_argument("--folder", type=Path, default=Path("runs/demo"))
    equality = commands.add_parser("equality", help="hierarchical equality: alignments over networks and seeds")
    equality.add_argument("--networks", type=int, default=10)
    equality.add_argument("--das-seeds", type=int, default=3)
    equality.add_argument("--folder", type=Path, default=Path("runs/equality"))
    compose = commands.add_parser("compose", help="two skills in one rotation, alone and together, with baselines")
    compose.add_argument("--seeds", type=int, default=5)
    compose.add_argument("--folder", type=Path, default=Path("runs/composition"))
    compose.add_argument("--methods", nargs="*", help="ways of composing; all by default")
    compose.add_argument("--model", help="a folder or hub id instead of the embedded model; needs --skill twice")
    compose.add_argument(
        "--skill", action="append", type=Path, help=("a jsonl file of prompt, continuation; its name is the skill's")
    )
    compose.add_argument("--prompts", type=Path, help="a jsonl file of held-out rows: prompt, english, german")
    compose.add_argument("--layer", type=int, help="block whose output is edited; by default the middle one")
    commands.add_parser("memorise", add_help=False, help="one edit recalls the start of a text: a grid over layers")
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["memorise"]:
        from causal_reft.experiments.memorisation.command import main as memorise

        sys.exit(memorise(words[1:]))
    _run(parser.parse_args(words))


def _run(given: argparse.Namespace) -> None:
    if given.command == "demo":
        from causal_reft.experiments.demo import run_demo

        run_demo(given.folder, given.model)
    if given.command == "equality":
        from causal_reft.experiments.demo.equality import equality_command

        equality_command(given.networks, given.das_seeds, given.folder)
    if given.command == "compose":
        from causal_reft.experiments.demo.composition import compose_command

        compose_command(given)


if __name__ == "__main__":
    main()
