"""Every error a user can meet, as a small letter: what was given, what is allowed, the likely cause, the line to type.

All inherit from `CausalReftError`, and from the built-in that the mistake would raise elsewhere, so that both
`except cr.CausalReftError` and `except ValueError` catch what one expects.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class CausalReftError(Exception):
    """The parent of every error that this library raises on purpose."""


class SiteError(CausalReftError, ValueError):
    """A site that the model does not have, or that cannot be written at all."""


class PositionError(CausalReftError, ValueError):
    """Positions outside the prompt, unknown span names, unreadable attention masks."""


class FeaturizerError(CausalReftError, ValueError):
    """Coordinates that cannot exist (rank above d_model, dependent rows, wrong width)."""


class GraphError(CausalReftError, ValueError):
    """An intervention graph that has no meaning (cyclic runs, a source without a site, clashing names)."""


class RunError(CausalReftError, ValueError):
    """A call whose runs or keyword arguments do not fit the graph or the model."""


class StorageError(CausalReftError, ValueError):
    """A folder that cannot be written or read without losing something."""


class CausalModelError(CausalReftError, ValueError):
    """A causal model, setting or counterfactual that contradicts itself."""


class StudyError(CausalReftError, ValueError):
    """A study that cannot be run or continued as asked."""


class DataError(CausalReftError, ValueError):
    """Examples that the training or evaluation cannot use as they are."""


class CausalReftWarning(UserWarning):
    """Something that still runs but whose result needs to be read with care."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """A sentence that suggests the nearest allowed name (or nothing) and lists what there is."""
    options = sorted(str(option) for option in allowed)
    close = difflib.get_close_matches(str(name), options, n=1, cutoff=0.6)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Allowed: {', '.join(options) or 'none'}."


@contextmanager
def disk_errors(folder: Path, kept: str) -> Iterator[None]:
    """A full or read-only disk as an error of this library.

    Raises:
        StorageError: which says what is kept.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be written: {error.strerror or error}. {kept} Make room or make it writable, and run the "
            "same again; or choose another folder."
        ) from error
