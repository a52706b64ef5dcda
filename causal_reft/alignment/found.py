"""The trained graph of a fit: stored with its cell, tensor by tensor, and built again from there.

arrays   "graph.<tensor>" of every learned tensor         facts   "graph": every setting, as a saved graph has them
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from causal_reft.errors import CausalReftWarning, StorageError, StudyError
from causal_reft.featurizers import Featurizer, Mask
from causal_reft.graph import InterventionGraph, graph_from_data, graph_to_data
from causal_reft.sweeps import Result
from causal_reft.tensors import Rows

GRAPH, TENSOR = "graph", "graph."


def stored(graph: InterventionGraph) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and facts of a trained graph; with a featurizer that is not registered, why there are none."""
    try:
        data, tensors = graph_to_data(graph)
    except StorageError as error:
        return {}, {"not_stored": str(error)}
    return {f"{TENSOR}{name}": tensor.cpu().numpy() for name, tensor in tensors.items()}, {GRAPH: data}


def graph_of(found: Result) -> InterventionGraph:
    """The trained graph that a fit's result holds.

    Raises:
        StudyError: its featurizer was not registered when it was fitted.
    """
    if GRAPH not in found.facts:
        raise StudyError(
            f"The study kept no graph of this fit: {found.facts.get('not_stored', 'it was made by an older version')} "
            "Do so at the top of the module that defines it, and run the study in a new folder."
        )
    tensors = {
        name.removeprefix(TENSOR): torch.from_numpy(array.copy())
        for name, array in found.arrays.items()
        if name.startswith(TENSOR)
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Flow\(", CausalReftWarning)  # said when the study was made
        return graph_from_data(found.facts[GRAPH], tensors)


def written_rows(found: Result) -> Mapping[str, Rows]:
    """For each variable the rows that a fit writes; what has no linear rows, or is not stored, is left out."""
    if GRAPH not in found.facts:
        return {}
    rows = {name: _written(node.featurizer) for name, node in graph_of(found).edits.items()}
    return {name: found for name, found in rows.items() if found is not None and len(found)}


@torch.no_grad()
def _written(featurizer: Featurizer) -> Rows | None:
    rows = featurizer.rows()
    if rows is None or not isinstance(featurizer, Mask):
        return rows
    return rows[featurizer.eval().mask() > 0]
