"""The command line: `python -m causal_reft --help` lists the experiments."""

from __future__ import annotations

import sys

from causal_reft.experiments.command_line import main as run


def main() -> None:
    """Run one experiment and exit with its code."""
    sys.exit(run())


if __name__ == "__main__":
    main()
