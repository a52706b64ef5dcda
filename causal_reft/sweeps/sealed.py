"""Files that are whole, flushed to disk, and sealed: each holds the SHA-256 of its own bytes, which reading checks.

The digest stands in the file as `"sha256": "..."` and is computed with zeros in its place, so a sealed JSON or
safetensors file remains one that any program can read.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path

from causal_reft.errors import StorageError

OPEN = "0" * 64
SCRATCH = ".unfinished-"
_SEAL = re.compile(rb'"sha256": ?"([0-9a-f]{64})"')


def write_sealed(path: Path, content: bytes) -> None:
    """Write content that holds `"sha256": OPEN` once, with its digest; the file appears at once, on disk, or not."""
    write_whole(path, sealed(content))


def sealed(content: bytes) -> bytes:
    """Content that holds `"sha256": OPEN` once, with its digest in that place."""
    start = _seal_at(content)
    assert start is not None, "content to be sealed holds a place for its digest"
    assert content[start : start + 64] == OPEN.encode()
    return _with_seal(content, start, hashlib.sha256(content).hexdigest())


def read_sealed(path: Path) -> bytes:
    """A file's content.

    Raises:
        StorageError: it cannot be read, or its bytes are not those that were written.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error}.") from error
    start = _seal_at(content)
    if start is None or _digest_of_opened(content, start) != content[start : start + 64]:
        raise StorageError(f"{path} is damaged: its content does not have the digest that it was written with.")
    return content


def write_whole(path: Path, content: bytes) -> None:
    """Write a file through a scratch file beside it, flushed with its folder: after a crash it is whole or absent."""
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=SCRATCH)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Flush a folder's entries to disk (where the system lets a folder be opened)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def _seal_at(content: bytes) -> int | None:
    found = _SEAL.search(content)
    return None if found is None else found.start(1)


def _with_seal(content: bytes, start: int, digest: str) -> bytes:
    return content[:start] + digest.encode() + content[start + 64 :]


def _digest_of_opened(content: bytes, start: int) -> bytes:
    return hashlib.sha256(_with_seal(content, start, OPEN)).hexdigest().encode()
