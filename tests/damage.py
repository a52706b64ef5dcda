"""Saved folders, damaged on purpose: bits flipped, or changed by hand and signed again."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from causal_reft.errors import CausalReftError


def sign(folder: Path) -> None:
    """Digests of the files as they are now, so that only what they say can be refused."""
    digests = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.iterdir())
        if file.is_file() and file.name != "digests.json"
    }
    (folder / "digests.json").write_text(json.dumps(digests, indent=1) + "\n")


def rewrite(folder: Path, act: Callable[[dict[str, Any], dict[str, Tensor]], object]) -> None:
    """Change the document and the tensors of a saved graph, and sign the result."""
    data, tensors = json.loads((folder / "graph.json").read_text()), load_file(folder / "weights.safetensors")
    act(data, tensors)
    (folder / "graph.json").write_text(json.dumps(data))
    save_file(tensors, folder / "weights.safetensors")
    sign(folder)


def flipped(content: bytes, stream: random.Random) -> bytes:
    """The content with one bit changed."""
    changed = bytearray(content)
    changed[stream.randrange(len(changed))] ^= 1 << stream.randrange(8)
    return bytes(changed)


def flip_bits(saved: Path, name: str, load: Callable[[Path], object], n: int, seed: int, scratch: Path) -> Counter[str]:
    """Load a folder `n` times with one random bit of one file changed.

    Returns:
        How often the change was refused, found nothing ("silent"), or raised an error that is not the library's
        ("raw").
    """
    stream, found = random.Random(seed), Counter(refused=0, silent=0, raw=0)
    folder = scratch / f"flipped-{Path(name).name}"
    shutil.copytree(saved, folder)
    for _ in range(n):
        (folder / name).write_bytes(flipped((saved / name).read_bytes(), stream))
        found[outcome(load, folder)] += 1
    return found


def outcome(load: Callable[[Path], object], folder: Path) -> str:
    """What loading a damaged folder came to."""
    try:
        load(folder)
    except CausalReftError:
        return "refused"
    except Exception:
        return "raw"
    return "silent"
