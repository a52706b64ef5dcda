"""A folder that is written all or nothing and read whole: every file is under a digest, which reading checks.

    my-reft/
      graph.json  weights.safetensors  ...    the files
      digests.json                            the SHA-256 of each of them
      .new/                                   the complete new version, while it replaces the files of an old one

An overwrite is complete in `.new` before it touches the first old file, and a reader takes `.new` where it exists. So a
reader gets the old version or the new one and never a mixture, also after a writer was killed at any moment.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError
from safetensors.torch import load, save

from causal_reft.errors import StorageError, disk_errors
from causal_reft.tensors import Tensor

DIGESTS, NEW = "digests.json", ".new"
READS = 50  # attempts to read a folder that writers keep changing


def write_folder(
    folder: str | os.PathLike[str],
    documents: Mapping[str, Any],
    tensors: Mapping[str, Mapping[str, Tensor]],
    overwrite: bool,
) -> None:
    """Write JSON documents and files of tensors, all or nothing; other files of the folder stay.

    Raises:
        StorageError: the folder holds anything and `overwrite` is false; a value that JSON cannot hold; a full or
            read-only disk.
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise StorageError(f"{target} is a file. Nothing was written. Choose another folder.")
    if target.exists() and any(target.iterdir()) and not overwrite:
        raise StorageError(f"{target} is not empty. Nothing was written. Choose another folder or pass overwrite=True.")
    files = {name: as_json(document, name) for name, document in documents.items()}
    files |= {name: save(dict(values)) for name, values in tensors.items()}
    with disk_errors(target, "It holds what it held, or all that is new."):
        target.mkdir(parents=True, exist_ok=True)
        try:
            with _one_writer(target):
                _finish(target)
                _commit(target, {**files, DIGESTS: _digests(files)})
                _finish(target)
        except BaseException:
            with suppress(OSError):
                target.rmdir()  # only where nothing was there and nothing was written
            raise


def read_folder(folder: str | os.PathLike[str]) -> dict[str, bytes] | None:
    """The files of a folder that `write_folder` wrote, by name; None where it holds no digests.

    Raises:
        StorageError: a file is missing, damaged, changed, or of another version than the rest.
    """
    path = Path(folder)
    for _ in range(READS):
        before = _version(path)
        try:
            return _newest(path)
        except StorageError:
            if _version(path) == before:
                break
    return _newest(path)


def as_json(document: object, name: str) -> bytes:
    """A JSON file.

    Raises:
        StorageError: NaN, infinity, or a value that JSON does not know.
    """
    try:
        return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()
    except (ValueError, TypeError) as error:
        raise StorageError(f"{name} cannot hold these settings: {error}.") from error


def from_json(content: bytes, name: str) -> Any:
    """The document in a JSON file.

    Raises:
        StorageError: no JSON, a key that appears twice, NaN or infinity, too deep.
    """
    try:
        return json.loads(content.decode(), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError, MemoryError) as error:
        raise StorageError(f"{name} is no JSON ({error}); was it cut off while it was copied?") from error


def from_safetensors(content: bytes, name: str) -> dict[str, Tensor]:
    """The tensors in a safetensors file.

    Raises:
        StorageError: it is none.
    """
    try:
        return load(content)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, OverflowError, MemoryError) as error:
        raise StorageError(f"{name} is no safetensors file ({error}); was it cut off while it was copied?") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key appears twice")
    return dict(pairs)


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


def _digests(files: Mapping[str, bytes]) -> bytes:
    return as_json({name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}, DIGESTS)


def _newest(path: Path) -> dict[str, bytes] | None:
    if (path / NEW).is_dir():
        return _read(path / NEW)
    return _read(path) if (path / DIGESTS).is_file() else None


def _read(path: Path) -> dict[str, bytes]:
    content = _content(path / DIGESTS)
    digests = from_json(content, DIGESTS)
    if not isinstance(digests, dict) or any(Path(name).name != name or name.startswith(".") for name in digests):
        raise StorageError(f"{path / DIGESTS} is not a list of files and their digests.")
    files = {name: _content(path / name) for name in digests}
    if _digests(files) != content:
        expected = from_json(_digests(files), DIGESTS)
        changed = [name for name in files if digests[name] != expected[name]] or [DIGESTS]
        raise StorageError(
            f"{path / changed[0]} is damaged, was edited, or comes from another folder: it does not have the digest "
            f"that was written with it. Copy the whole folder again; to change a graph, load it, use replace(...) and "
            "save it."
        )
    return files


def _content(file: Path) -> bytes:
    try:
        if file.is_file():
            return file.read_bytes()
    except (OSError, MemoryError, ValueError) as error:
        raise StorageError(f"{file} cannot be read: {error}.") from error
    raise StorageError(f"{file.parent} holds no {file.name}, which {DIGESTS} lists. Copy the whole folder again.")


def _version(path: Path) -> tuple[object, ...]:
    """Differs between two moments when a writer was active between them."""
    found: list[object] = []
    for file in (path / NEW, path / NEW / DIGESTS, path / DIGESTS):
        with suppress(OSError):
            state = file.stat()
            found.append((file.name, state.st_ino, state.st_mtime_ns, state.st_ctime_ns))
    return tuple(found)


def _commit(target: Path, files: Mapping[str, bytes]) -> None:
    """Write the new version beside the old files; from the last line on it is the version."""
    scratch = target / f".writing-{uuid.uuid4().hex}"
    scratch.mkdir()
    try:
        for name, content in files.items():
            with (scratch / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        os.replace(scratch, target / NEW)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _finish(target: Path) -> None:
    """Put the files of `.new` in their places, and remove what killed writers left."""
    if (target / NEW).is_dir():
        for file in list((target / NEW).iterdir()):
            copy = target / f".writing-{uuid.uuid4().hex}"
            shutil.copyfile(file, copy)
            os.replace(copy, target / file.name)
        os.replace(target / NEW, target / f".writing-{uuid.uuid4().hex}")
    for left in target.glob(".writing-*"):
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


@contextmanager
def _one_writer(folder: Path) -> Iterator[None]:
    """One writer at a time, where the system has file locks; released also when a process is killed."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
