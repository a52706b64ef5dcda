"""Nodes on disk: `graph.json` (every setting), `weights.safetensors` (every tensor) and `digests.json`.

Lossless and versioned; parts that nodes share are shared again after loading. Nothing is imported by a name found in a
file, and unknown fields are refused, because ignoring them would load something else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from causal_reft.errors import StorageError
from causal_reft.graph.folder import from_json, from_safetensors, read_folder, write_folder
from causal_reft.graph.from_data import check_numbers, nodes_from_data
from causal_reft.graph.interchange import Node
from causal_reft.graph.to_data import nodes_to_data
from causal_reft.tensors import Tensor

GRAPH, WEIGHTS = "graph.json", "weights.safetensors"
SCHEMA_1 = (GRAPH, WEIGHTS, "intervened_model.json")


def save_nodes(
    nodes: Mapping[str, Node],
    folder: str | os.PathLike[str],
    overwrite: bool = False,
    documents: Mapping[str, Any] | None = None,
    more_tensors: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> None:
    """Write nodes to a folder, all or nothing. `documents`, `more_tensors`: further files under the same
    digests.

    Raises:
        StorageError: the folder holds anything and `overwrite` is false; a tensor holds NaN.
    """
    data, tensors = nodes_to_data(nodes)
    for name, tensor in tensors.items():
        check_numbers(name, tensor)
    write_folder(folder, {GRAPH: data, **(documents or {})}, {WEIGHTS: tensors, **(more_tensors or {})}, overwrite)


def read_files(folder: str | os.PathLike[str]) -> dict[str, bytes]:
    """The checked files of a saved graph by name; those of schema 1, which had no digests, as they are.

    Raises:
        StorageError: missing, damaged or changed files.
    """
    files = read_folder(folder)
    if files is not None:
        return files
    files = {file.name: file.read_bytes() for file in sorted(Path(folder).glob("*")) if file.name in SCHEMA_1}
    if GRAPH in files and _schema(files[GRAPH]) != 1:
        raise StorageError(f"{folder} holds no digests.json. Copy the whole folder again.")
    return files


def nodes_from_files(files: Mapping[str, bytes], folder: str | os.PathLike[str]) -> dict[str, Node]:
    """The nodes in the files of a folder.

    Raises:
        StorageError: missing files, another schema, unknown fields or kinds, values that cannot be.
    """
    for name in (GRAPH, WEIGHTS):
        if name not in files:
            raise StorageError(f"{folder} holds no {name}; a saved graph is {GRAPH} + {WEIGHTS} + digests.json.")
    data = from_json(files[GRAPH], str(Path(folder) / GRAPH))
    return nodes_from_data(data, from_safetensors(files[WEIGHTS], str(Path(folder) / WEIGHTS)))


def _schema(content: bytes) -> object:
    data = from_json(content, GRAPH)
    return data.get("schema") if isinstance(data, dict) else None
