"""A study's folder: what the study is, its rows, and a folder for each finished group of cells, whole or not at all.

    study.json    everything that determines the numbers, and its digest        rows.json    the rows that were scored
    cells/        one folder a group, in it one .safetensors file a cell: arrays, and facts as JSON in its header

Files are written in a folder beside its place, flushed to disk, and the folder is renamed: after a crash or `kill -9`
every group that is there is complete, and what is not there is computed again.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from causal_reft.alignment.cell import Cell, CellResult, Group
from causal_reft.errors import StudyError

SCHEMA = 2
DESCRIPTION, ROWS, CELLS = "study.json", "rows.json", "cells"


class Store:
    """The folder of one study."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def open(self, description: Mapping[str, Any], rows: Mapping[str, Any]) -> None:
        """Claim an empty folder for a study, or find the same study in it.

        Raises:
            StudyError: the folder holds another study, or something that is no study.
        """
        found = self.folder / DESCRIPTION
        if found.is_file():
            self._check_same(json.loads(found.read_text(encoding="utf-8")), description)
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise StudyError(
                f"{self.folder} is not empty and holds no study. Nothing was written. Choose another folder."
            )
        (self.folder / CELLS).mkdir(parents=True, exist_ok=True)
        for name, content in ((ROWS, rows), (DESCRIPTION, description)):
            if not (self.folder / name).is_file():
                write_whole(self.folder / name, json.dumps(content, indent=1).encode())

    @property
    def description(self) -> dict[str, Any]:
        """What `study.json` holds."""
        return self._read(DESCRIPTION)

    @property
    def rows(self) -> dict[str, Any]:
        """What `rows.json` holds."""
        return self._read(ROWS)

    def has(self, group: Group, digest: str) -> bool:
        """Whether the group is finished."""
        return self._place(group, digest).is_dir()

    def put(self, group: Group, digest: str, results: Mapping[Cell, CellResult]) -> None:
        """Write a finished group."""
        scratch, place = self.folder / CELLS / f".unfinished-{uuid4().hex}", self._place(group, digest)
        scratch.mkdir()
        try:
            for cell, result in results.items():
                write_whole(scratch / cell.file_name(digest), _as_bytes(cell, digest, result))
            scratch.rename(place)
        except OSError:
            if not place.is_dir():  # else another process was faster, with the same numbers
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def all(self, digest: str) -> dict[Cell, CellResult]:
        """Every finished cell of the study.

        Raises:
            StudyError: a file holds another cell than its name says.
        """
        return dict(self._load(path, digest) for path in self.files())

    def files(self) -> list[Path]:
        """The files of all finished cells."""
        return sorted((self.folder / CELLS).glob("[!.]*/*.safetensors"))

    def _place(self, group: Group, digest: str) -> Path:
        return self.folder / CELLS / group.folder_name(digest)

    def _load(self, path: Path, digest: str) -> tuple[Cell, CellResult]:
        with safe_open(path, "numpy") as file:
            header, arrays = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        cell = Cell(**json.loads(header["cell"]))
        if header["digest"] != cell.digest(digest) or path.name != cell.file_name(digest):
            raise StudyError(
                f"{path} does not belong to this study: it was renamed, copied or edited. Delete it and run the "
                "study again."
            )
        return cell, CellResult(arrays, json.loads(header["facts"]), float(header["seconds"]))

    def _read(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        if not path.is_file():
            raise StudyError(f"{self.folder} holds no {name}, so it is not the folder of a study.")
        return json.loads(path.read_text(encoding="utf-8"))

    def _check_same(self, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
        here = json.loads(json.dumps(here))
        if there == here:
            return
        differing = [key for key in {**there, **here} if there.get(key) != here.get(key) and key != "digest"]
        shown = "\n".join(f"  {key}: there {_short(there.get(key))}, here {_short(here.get(key))}" for key in differing)
        raise StudyError(
            f"{self.folder} holds another study, which differs in\n{shown}\n"
            f"Nothing was written. Choose another folder, or make the settings equal to continue that study."
        )


def _as_bytes(cell: Cell, digest: str, result: CellResult) -> bytes:
    header = {
        "cell": json.dumps(asdict(cell)),
        "digest": cell.digest(digest),
        "facts": json.dumps(result.facts),
        "seconds": repr(result.seconds),
    }
    return save({name: np.ascontiguousarray(array) for name, array in result.arrays.items()}, metadata=header)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically: it is there completely or not at all."""
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=".unfinished-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else text[:117] + "..."
