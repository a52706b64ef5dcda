"""Parsing the options of a command: one-line errors that suggest the nearest name, help with defaults."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

PROGRAM = "python -m causal_reft"


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line, without the usage."""

    def __init__(self, name: str, description: str, example: str) -> None:
        super().__init__(
            prog=f"{PROGRAM} {name}",
            description=description,
            epilog=f"Example:\n  {PROGRAM} {name} {example}".rstrip(),
            formatter_class=_Formatter,
        )

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """The options; words that belong to no option end the program."""
        options, unknown = self.parse_known_args(words)
        if unknown:
            known = [name for name in self._option_string_actions if name.startswith("--")]
            close = difflib.get_close_matches(unknown[0].split("=")[0], known, n=1)
            hint = f"Did you mean {close[0]}?" if close else f"It has {', '.join(sorted(known))}."
            self.error(f"there is no option {unknown[0]!r}. {hint}")
        return options

    def error(self, message: str) -> NoReturn:
        """One line, and exit code 2."""
        print(f"{self.prog}: {message} (All options: {self.prog} --help)", file=sys.stderr)
        sys.exit(2)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Adds the default to each option's help where it has one to show."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        unset = action.default is False or action.default in (None, [], argparse.SUPPRESS)  # a default of 0 is shown
        if "default" in text or unset:
            return text
        shown = " ".join(map(str, action.default)) if isinstance(action.default, list) else action.default
        return f"{text} (default: {shown})".replace("%", "%%")


def at_least(least: int | float, kind: type = int) -> Callable[[str], int | float]:
    """An argparse type: a number that is not smaller."""

    def number(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no {'whole ' if kind is int else ''}number") from None
        if not value >= least:
            raise argparse.ArgumentTypeError(f"{text} is too small; give {least} or more")
        return value

    return number


def above_zero(text: str) -> int | float:
    """An argparse type: a positive number, such as a learning rate."""
    value = at_least(0, float)(text)
    if value == 0:
        raise argparse.ArgumentTypeError("0 is too small; give a number above 0")
    return value
