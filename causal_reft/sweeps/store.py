"""A sweep's folder: what the experiment is, and its finished cells, whole or not at all.

    experiment.json    all that determines the numbers, with its digest
    <name>.json        data that the cells refer to (the rows that were scored, ...)
    cells/             a .safetensors file for each finished group: arrays (zeros and ones as booleans); fields and
                       facts in its header

Every file holds a digest of its own bytes, which reading checks. A cell whose file is missing or damaged is missing,
and computed again. What does not determine the numbers (machine, device, threads) is kept with each cell as its
provenance; it does not stop a folder from going on elsewhere. Several processes may use one folder.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from causal_reft.errors import CausalReftWarning, StorageError, StudyError, disk_errors
from causal_reft.sweeps.cell import (
    FORMAT,
    Result,
    as_json,
    cell_digest,
    cell_from,
    digest_of,
    fields_of,
    label_of,
    plain,
)
from causal_reft.sweeps.sealed import OPEN, SCRATCH, read_sealed, write_sealed

DESCRIPTION, CELLS, SUFFIX = "experiment.json", "cells", ".safetensors"


@dataclass(frozen=True)
class _Stored:
    """A cell as its file holds it."""

    kind: str
    fields: Mapping[str, Any]
    result: Result


class Store:
    """The folder of one experiment: `Store.claim` to compute, `Store.read` to look."""

    def __init__(self, folder: Path, description: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
        self.folder, self.description, self.provenance = folder, dict(description), dict(provenance)
        self.digest = digest_of(self.description)
        self.is_temporary = False
        self._files: dict[str, tuple[tuple[int, int], dict[str, _Stored]]] = {}

    @staticmethod
    def claim(
        folder: str | os.PathLike[str] | None,
        description: Mapping[str, Any],
        provenance: Mapping[str, Any] | None = None,
        **data: Any,
    ) -> Store:
        """Claim an empty folder for an experiment, or find the same experiment in it.

        Args:
            folder: by default a temporary one, which goes when the store goes.
            description: JSON; everything that determines the numbers of all cells.
            provenance: JSON that does not; the versions of Python, numpy and torch and the platform are added.
            data: JSON that the cells refer to, each kept as `<name>.json`. Put its digest into the description.

        Raises:
            StudyError: the folder holds another experiment (it says in what they differ), or something else.
            StorageError: the folder cannot be written; `experiment.json` is damaged.
        """
        path = Path(tempfile.mkdtemp(prefix="causal_reft-") if folder is None else folder)
        store = Store(path, plain(description), {**_machine(), **plain(provenance or {})})
        if folder is None:
            store.is_temporary = True
            weakref.finalize(store, shutil.rmtree, path, ignore_errors=True)
        if not (path / DESCRIPTION).is_file():
            store._refuse_foreign()
            with disk_errors(path, "Nothing was written."):
                (path / CELLS).mkdir(parents=True, exist_ok=True)
                if not (path / DESCRIPTION).is_file():
                    _write(
                        path / DESCRIPTION, {"format": FORMAT, "experiment": store.description, "digest": store.digest}
                    )
        store._check_same(_description(path))
        for name, content in data.items():
            store._attach(name, content)
        return store

    @staticmethod
    def read(folder: str | os.PathLike[str]) -> Store:
        """The store of a folder that exists; nothing is written.

        Raises:
            StudyError: no experiment there.
            StorageError: `experiment.json` is damaged.
        """
        if not (Path(folder) / DESCRIPTION).is_file():
            raise StudyError(f"{folder} holds no {DESCRIPTION}, so it is not the folder of a study.")
        return Store(Path(folder), _description(Path(folder)), _machine())

    def data(self, name: str) -> Any:
        """What was given to `claim` under this name.

        Raises:
            StorageError: its file is missing, damaged, or another experiment's.
        """
        path = self.folder / f"{name}.json"
        if not path.is_file():
            raise StorageError(f"{path} is missing. Run the experiment again: finished cells are not computed again.")
        return _content(path, "content", self.digest)

    # Cells ------------------------------------------------------------------------------------------------------

    def get(self, cells: Iterable[Any]) -> dict[Any, Result]:
        """The results of those of the cells that are finished."""
        stored, digests = self._stored(), {cell: cell_digest(cell, self.digest) for cell in cells}
        return {cell: stored[digest].result for cell, digest in digests.items() if digest in stored}

    def results(self, kind: type) -> dict[Any, Result]:
        """Every finished cell of a class, with its result."""
        return {cell_from(kind, s.fields): s.result for s in self._stored().values() if s.kind == kind.__name__}

    def put(self, results: Mapping[Any, Result]) -> None:
        """Keep finished cells, all or none.

        Raises:
            StudyError: facts that JSON cannot keep, arrays that are not numeric.
            StorageError: a full or read-only disk.
        """
        path = self._place(list(results))
        content = self._as_bytes(results)
        with disk_errors(self.folder, self.kept):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_sealed(path, content)

    def files(self) -> list[Path]:
        """The files of finished cells."""
        return [self.folder / CELLS / name for name in sorted(_stamps(self.folder / CELLS))]

    @property
    def kept(self) -> str:
        """How many cells are kept where, as a sentence."""
        number = len(self._stored())
        where = "a temporary folder, which goes with this object" if self.is_temporary else str(self.folder)
        return f"{number} finished cell{'s are' if number != 1 else ' is'} kept in {where}."

    def _place(self, cells: list[Any]) -> Path:
        digest = digest_of([cell_digest(cell, self.digest) for cell in cells])
        several = f"-{len(cells)}cells" if len(cells) > 1 else ""
        return self.folder / CELLS / f"{label_of(cells[0])}{several}-{digest}{SUFFIX}"

    def _stored(self) -> dict[str, _Stored]:
        """Cells by digest. A file is read once, and again where it changed."""
        there = _stamps(self.folder / CELLS)
        for name in self._files.keys() - there.keys():
            del self._files[name]
        for name, stamp in there.items():
            if name not in self._files or self._files[name][0] != stamp:
                self._files[name] = stamp, self._cells_in(self.folder / CELLS / name)
        return {digest: stored for name in there for digest, stored in self._files[name][1].items()}

    def _cells_in(self, path: Path) -> dict[str, _Stored]:
        try:
            content = read_sealed(path)
        except StorageError as error:
            warnings.warn(
                f"{error} Its cells count as missing and are computed again.", CausalReftWarning, stacklevel=4
            )
            return {}
        found = _from_bytes(content)
        if found is None or found[0] != self.digest:
            warnings.warn(f"{path} belongs to another experiment and is left out.", CausalReftWarning, stacklevel=4)
            return {}
        return found[1]

    def _as_bytes(self, results: Mapping[Any, Result]) -> bytes:
        cells, arrays = [], {}
        for number, (cell, result) in enumerate(results.items()):
            where = label_of(cell)
            cells.append(
                {
                    "kind": type(cell).__name__,
                    "fields": fields_of(cell),
                    "digest": cell_digest(cell, self.digest),
                    "facts": plain(result.facts, f"{where}: facts"),
                    "seconds": float(result.seconds),
                }
            )
            arrays |= {f"{number}/{name}": _numeric(array, f"{where}: {name}") for name, array in result.arrays.items()}
        packed = {name: array.dtype.str for name, array in arrays.items() if _is_zeros_and_ones(array)}
        arrays |= {name: arrays[name].astype(bool) for name in packed}
        header = {"cells": json.dumps(cells), "provenance": as_json(self.provenance), "experiment": self.digest}
        return save(arrays, metadata={"sha256": OPEN, "format": str(FORMAT), "packed": json.dumps(packed), **header})

    # What it is -------------------------------------------------------------------------------------------------

    def _attach(self, name: str, content: Any) -> None:
        path, content = self.folder / f"{name}.json", plain(content, name)
        try:
            if path.is_file() and as_json(self.data(name)) == as_json(content):
                return
        except StorageError as error:
            warnings.warn(f"{error} It is written again.", CausalReftWarning, stacklevel=4)
        with disk_errors(self.folder, self.kept):
            _write(path, {"content": content, "digest": digest_of(content), "experiment": self.digest})

    def _refuse_foreign(self) -> None:
        if not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise StudyError(f"{self.folder} is a file. Choose a folder.")
        foreign = [p.name for p in self.folder.iterdir() if p.name != CELLS and not p.name.startswith(SCRATCH)]
        if foreign and not (self.folder / DESCRIPTION).is_file():  # another process may claim it now
            raise StudyError(
                f"{self.folder} is not empty and holds no study. Nothing was written. Choose another folder."
            )

    def _check_same(self, there: Mapping[str, Any]) -> None:
        if as_json(there) == as_json(self.description):
            return
        shown = "\n".join(f"  {line}" for line in _differences(there, self.description))
        raise StudyError(
            f"{self.folder} holds another study, which differs in (there -> here)\n{shown}\n"
            f"Nothing was written. Choose another folder, or make the settings equal to continue that study."
        )


def _description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    try:
        return _content(path, "experiment")
    except StorageError as error:
        raise StorageError(
            f"{error} Choose another folder; or, if you know what it held, delete this file and run the same "
            "experiment again: finished cells are known by their own digests and are not computed again."
        ) from error


def _content(path: Path, name: str, experiment: str = "") -> Any:
    """What a sealed JSON file holds under a name, with its own digest beside it; given its experiment's digest, of it.

    Raises:
        StorageError: a damaged file; a content that is not the one of its digest; a file of another experiment.
        StudyError: a file of another format.
    """
    found = json.loads(read_sealed(path))
    if "format" in found and found["format"] != FORMAT:
        raise StudyError(f"{path} has format {found['format']!r}; this version reads format {FORMAT}.")
    if name not in found or digest_of(found[name]) != found.get("digest"):
        raise StorageError(f"{path} does not hold what its digest says: it was changed by hand, or by another program.")
    if experiment and found.get("experiment", experiment) != experiment:  # older folders do not say
        raise StorageError(f"{path} belongs to another experiment. Run yours again: finished cells are kept.")
    return found[name]


def _write(path: Path, content: Mapping[str, Any]) -> None:
    write_sealed(path, json.dumps({"sha256": OPEN, **content}, indent=1).encode())


def _from_bytes(content: bytes) -> tuple[str, dict[str, _Stored]] | None:
    """The experiment's digest and the cells by theirs; None for a file of another format."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
    if header.get("format") != str(FORMAT):
        return None
    arrays, provenance, found = load(content), json.loads(header["provenance"]), {}
    arrays |= {name: arrays[name].astype(kind) for name, kind in json.loads(header["packed"]).items()}
    for number, cell in enumerate(json.loads(header["cells"])):
        prefix = f"{number}/"
        own = {name.removeprefix(prefix): array for name, array in sorted(arrays.items()) if name.startswith(prefix)}
        result = Result(own, cell["facts"], cell["seconds"], provenance)
        found[cell["digest"]] = _Stored(cell["kind"], cell["fields"], result)
    return header["experiment"], found


def _numeric(array: Any, where: str) -> np.ndarray:
    found = np.asarray(array, order="C")
    if found.dtype.kind not in "biuf":
        raise StudyError(
            f"{where} holds {found.dtype}; arrays of a result are numbers or booleans. Put text into facts."
        )
    return found


def _is_zeros_and_ones(array: np.ndarray) -> bool:
    """Whether booleans hold the same numbers, to the bit."""
    return array.itemsize > 1 and array.astype(bool).astype(array.dtype).tobytes() == array.tobytes()


def _differences(there: Any, here: Any, where: str = "") -> Iterator[str]:
    """The places where two JSON values differ, one line each."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for name in {**there, **here}:
            yield from _differences(there.get(name), here.get(name), f"{where}.{name}".lstrip("."))
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here) > 0 and _nested(there):
        for number, (one, two) in enumerate(zip(there, here, strict=True)):
            yield from _differences(one, two, f"{where}[{number}]")
    elif as_json(there) != as_json(here):
        yield f"{where}: {_short(there)} -> {_short(here)}"


def _nested(values: list[Any]) -> bool:
    return all(isinstance(value, Mapping) for value in values)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """The files of cells by name, with what changes where one is written again."""
    found = {}
    for path in sorted(folder.glob(f"[!.]*{SUFFIX}")) if folder.is_dir() else ():
        with suppress(FileNotFoundError):
            stat = path.stat()
            found[path.name] = (stat.st_mtime_ns, stat.st_ino)
    return found


def _machine() -> dict[str, Any]:
    torch = sys.modules.get("torch")
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    versions |= {} if torch is None else {"torch": str(torch.__version__)}
    return {**versions, "platform": platform.platform()}
