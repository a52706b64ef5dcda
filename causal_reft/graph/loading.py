"""A saved folder as a graph, and its tensors as those of a graph that exists already."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

from causal_reft.errors import StorageError
from causal_reft.graph.from_data import nodes_from_data
from causal_reft.graph.interchange import Node
from causal_reft.graph.intervention_graph import InterventionGraph
from causal_reft.graph.storage import nodes_from_files, read_files
from causal_reft.graph.to_data import Data, nodes_to_data
from causal_reft.tensors import Tensor


def load_graph(folder: str | os.PathLike[str]) -> InterventionGraph:
    """Read a graph that `InterventionGraph.save` wrote.

    Raises:
        StorageError: missing, damaged or changed files, another schema, unknown fields or kinds, values that cannot
            be.
    """
    return graph_from_files(read_files(folder), folder)


def graph_from_files(files: Mapping[str, bytes], folder: str | os.PathLike[str]) -> InterventionGraph:
    """The graph in the checked files of a folder."""
    return _graph(nodes_from_files(files, folder))


def load_weights(graph: InterventionGraph, folder: str | os.PathLike[str]) -> None:
    """Copy the tensors of a saved graph of the same structure into this one (resuming a training).

    Raises:
        StorageError: the folder holds another graph.
    """
    saved, (data, _) = load_graph(folder), graph_to_data(graph)
    if graph_to_data(saved)[0] != data:
        raise StorageError(
            f"{folder} holds another graph than the one it should be loaded into:\n{saved!r}\ninstead of\n{graph!r}"
        )
    with torch.no_grad():
        for mine, theirs in zip(graph.parameters(), saved.parameters(), strict=True):
            mine.copy_(theirs)


def graph_to_data(graph: InterventionGraph) -> tuple[Data, dict[str, Tensor]]:
    """The graph as JSON data and named tensors."""
    return nodes_to_data(graph.nodes)


def graph_from_data(data: object, tensors: Mapping[str, Tensor]) -> InterventionGraph:
    """The inverse of `graph_to_data`.

    Raises:
        StorageError: anything in it that this version does not know or that cannot be.
    """
    return _graph(nodes_from_data(data, tensors))


def _graph(nodes: dict[str, Node]) -> InterventionGraph:
    try:
        return InterventionGraph(**nodes)
    except (ValueError, TypeError) as error:
        raise StorageError(f"graph.json describes a graph that cannot be: {error}") from error
