"""The command line: `python -m causal_reft demo`, `python -m causal_reft equality --networks 10 --das-seeds 3`."""

from __future__ import annotations

import argparse
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
    _run(parser.parse_args(argv))


def _run(given: argparse.Namespace) -> None:
    if given.command == "demo":
        from causal_reft.demo import run_demo

        run_demo(given.folder, given.model)
    if given.command == "equality":
        from causal_reft.demo.equality import equality_command

        equality_command(given.networks, given.das_seeds, given.folder)


if __name__ == "__main__":
    main()
