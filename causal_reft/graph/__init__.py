"""THE INTERVENTION, AS DATA: nodes, sources, graphs, and graphs on disk."""

from causal_reft.graph.interchange import Interchange
from causal_reft.graph.intervention_graph import InterventionGraph, Node
from causal_reft.graph.sources import Collect, Constant, EditContext, LearnedSource, Noise, PerRow, Shift, Source
from causal_reft.graph.storage import (
    graph_from_data,
    graph_to_data,
    load_graph,
    load_weights,
    register_featurizer,
    save_graph,
    write_folder,
)

__all__ = [
    "Collect",
    "Constant",
    "EditContext",
    "Interchange",
    "InterventionGraph",
    "LearnedSource",
    "Node",
    "Noise",
    "PerRow",
    "Shift",
    "Source",
    "graph_from_data",
    "graph_to_data",
    "load_graph",
    "load_weights",
    "register_featurizer",
    "save_graph",
    "write_folder",
]
