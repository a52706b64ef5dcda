"""An alignment says where a network holds the variables of a causal model: a graph with a node for each of them.

    das = Alignment(equality, InterventionGraph(left=Interchange(site, R["left"], Collect()), right=...))
    das.fit(network, data, encoding)       learn the featurizers from interchanges of the variables in the data
    das.iia(network, held_out, encoding)   how often network and causal model agree, with controls and an interval

Which variables are interchanged, and which run each takes its value from, is read from the data: the same alignment is
fitted and scored on single variables, on several at once, and on mixtures of both (Geiger et al. 2023, arXiv
2303.02536).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from torch import nn

from causal_reft.alignment.controlled_score import Score, controlled_score
from causal_reft.alignment.encoding import as_encoding
from causal_reft.alignment.illusion import IllusionReport, illusion_report
from causal_reft.alignment.metrics import METRICS, summary
from causal_reft.alignment.row_facts import clusters_of, factors_of, kinds_of, target_examples
from causal_reft.alignment.row_scores import score_rows
from causal_reft.causal import CausalModel, CounterfactualDataset, concat
from causal_reft.errors import GraphError, nearest
from causal_reft.execution import IntervenedModel
from causal_reft.graph import Collect, Interchange, InterventionGraph
from causal_reft.tensors import Rows
from causal_reft.training import History, Loss, Recipe, cross_entropy, fit

Data = CounterfactualDataset | Sequence[CounterfactualDataset]
DEFAULT_RECIPE = Recipe(epochs=8, batch_size=64, lr=1e-2, schedule="cosine")


@dataclass(frozen=True)
class Alignment:
    """A causal model and the graph that aligns its variables with places in a network.

    Raises:
        GraphError: a node that is no variable of the causal model, or no interchange with a collected source.
    """

    causal_model: CausalModel
    graph: InterventionGraph

    def __post_init__(self) -> None:
        for name, node in self.graph.nodes.items():
            if name not in self.causal_model.variables:
                raise GraphError(
                    f"Node {name!r} is no variable of the causal model. {nearest(name, self.causal_model.variables)}"
                )
            if not isinstance(node, Interchange) or not isinstance(node.source, Collect):
                raise GraphError(
                    f"Node {name!r} must interchange with another run: {name}=Interchange(site, featurizer, "
                    "source=Collect('source'))."
                )

    @property
    def variables(self) -> tuple[str, ...]:
        """The aligned variables."""
        return tuple(self.graph)

    def graph_for(self, data: CounterfactualDataset) -> InterventionGraph:
        """The nodes of the variables that the data interchange, each taking from the run that the data name."""
        for name in data.variables:
            self.graph[name]
        graph = self.graph.only(*data.variables)
        return graph.replace(**{name: _taking_from(graph.edits[name], data.run_of(name)) for name in graph})

    def fit(
        self,
        network: nn.Module,
        data: Data,
        encoding: Any,
        *,
        recipe: Recipe | Mapping[str, object] = DEFAULT_RECIPE,
        loss: Loss = cross_entropy,
        progress: bool = True,
    ) -> History:
        """Train the featurizers so that the network answers as the causal model does; the network stays as it is.

        Args:
            network: the model; its weights are frozen meanwhile.
            data: counterfactuals, or several sets of them for different variables, which are then mixed in every batch
                (interchanges of one variable that must leave the answer alone train isolation: MDAS).
            encoding: a tokenizer or an `Encoding`.
            recipe: what differs from `DEFAULT_RECIPE`, as a mapping or a `Recipe`; `penalty` weighs the
                size of masks (Boundless DAS, DBM).
        """
        joined = mixed(data)
        model, recipe = IntervenedModel(network, self.graph_for(joined)), Recipe.of(recipe, DEFAULT_RECIPE)
        return fit(model, as_encoding(encoding).examples(joined), loss=loss, progress=progress, recipe=recipe)

    def iia(
        self, network: nn.Module, data: Data, encoding: Any, *, draws: int = 100, seed: int = 0, batch_size: int = 64
    ) -> Score:
        """Interchange intervention accuracy over all of the data, beside its controls.

        `draws` random subspaces of the same rank, PCA of the same rank, the identity patch and the whole vector are
        scored on the same rows. Controls that need further fits (permuted labels, a shuffled network) are those of a
        `Study`.
        """
        joined = mixed(data)
        return controlled_score(
            network, self.graph_for(joined), joined, as_encoding(encoding), self.causal_model, draws, seed, batch_size
        )

    def records(self, network: nn.Module, data: Data, encoding: Any, *, batch_size: int = 64) -> pd.DataFrame:
        """One row per example: `kind` and `weight` in its mean, `cluster`, the labels, every metric (see `metrics`)."""
        joined, encoder = mixed(data), as_encoding(encoding)
        examples, target = encoder.examples(joined), target_examples(self.causal_model, joined, encoder)
        found = score_rows(network, self.graph_for(joined), examples, batch_size, target)
        kinds, weights = kinds_of(joined, self.causal_model)
        about = joined.labels.assign(kind=kinds, weight=weights, cluster=clusters_of(joined))
        return about.assign(**found)

    def summary(self, network: nn.Module, data: Data, encoding: Any, *, batch_size: int = 64) -> dict[str, float]:
        """Means of every metric, and cause, isolate, disentangle."""
        records = self.records(network, data, encoding, batch_size=batch_size)
        values = {name: records[name].to_numpy() for name in METRICS if name in records}
        return summary(values, records["kind"].to_numpy(), records["weight"].to_numpy())

    def illusion(
        self, network: nn.Module, data: CounterfactualDataset, encoding: Any, reading: Rows | None = None
    ) -> IllusionReport:
        """Does the subspace work through what the network reads, or beside it? See `causal_reft.alignment.illusion`."""
        return illusion_report(
            network, self.graph_for(data), as_encoding(encoding).examples(data), factors_of(data), reading
        )

    def __repr__(self) -> str:
        return f"Alignment of {', '.join(self.variables)}\n{self.graph!r}"


def mixed(data: Data) -> CounterfactualDataset:
    """Several datasets as one: a variable that a row does not interchange takes its value from the row's own base."""
    sets = [data] if isinstance(data, CounterfactualDataset) else list(data)
    names = tuple(dict.fromkeys(name for part in sets for name in part.variables))
    if all(part.variables == names for part in sets) and len({tuple(part.runs) for part in sets}) == 1:
        return concat(sets)
    return concat([_filled(part, names) for part in sets])


def _filled(data: CounterfactualDataset, names: tuple[str, ...]) -> CounterfactualDataset:
    runs = {name: data.run_of(name) if name in data.variables else "base" for name in names}
    spans = {f"source_{name}": data.spans[run] for name, run in runs.items() if run in data.spans}
    spans |= {"base": data.spans["base"]} if "base" in data.spans else {}
    sources = {name: data.runs[run].copy() for name, run in runs.items()}
    return replace(data, sources=sources, variables=names, spans=spans)


def _taking_from(node: Interchange, run: str) -> Interchange:
    assert isinstance(node.source, Collect)
    return replace(node, source=replace(node.source, run=run))
