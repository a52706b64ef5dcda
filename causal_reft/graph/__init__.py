"""THE INTERVENTION, AS DATA: nodes, sources, graphs, and graphs on disk."""

from causal_reft.graph.interchange import Interchange, Node
from causal_reft.graph.intervention_graph import InterventionGraph
from causal_reft.graph.kinds import register_featurizer
from causal_reft.graph.loading import graph_from_data, graph_from_files, graph_to_data, load_graph, load_weights
from causal_reft.graph.sources import (
    Collect,
    Constant,
    EditContext,
    GatedScale,
    LearnedScale,
    LearnedSource,
    Noise,
    PerRow,
    RowSource,
    Shift,
    Source,
    TopLatents,
)
from causal_reft.graph.storage import read_files, save_nodes

__all__ = [
    "Collect",
    "Constant",
    "EditContext",
    "GatedScale",
    "Interchange",
    "InterventionGraph",
    "LearnedScale",
    "LearnedSource",
    "Node",
    "Noise",
    "PerRow",
    "RowSource",
    "Shift",
    "Source",
    "TopLatents",
    "graph_from_data",
    "graph_from_files",
    "graph_to_data",
    "load_graph",
    "load_weights",
    "read_files",
    "register_featurizer",
    "save_nodes",
]
