"""How the logits that a loss reads are computed for a batch of examples.

`FullPasses` is the meaning: every run in full, under hooks. Whatever computes less (`execution/planning`) must give the
same numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from causal_reft.errors import DataError, GraphError
from causal_reft.execution.examples import Examples, check_runs
from causal_reft.execution.finite import check_finite_logits
from causal_reft.execution.inputs import RunInputs
from causal_reft.execution.intervened_model import IntervenedModel
from causal_reft.execution.target_positions import TargetPositions
from causal_reft.graph import InterventionGraph, PerRow, Shift
from causal_reft.tensors import Float, Int, Num, Tensor


@dataclass(frozen=True)
class TargetLogits:
    """The logits that the loss reads for some rows: `reads.targets[i]` is expected at `logits[i]`.

    Raises:
        RunError: NaN or infinity among the logits.
        DataError: a label beyond the classes; labels that are numbers for a model with classes.
    """

    logits: Float[Tensor, "read classes"]
    reads: TargetPositions

    def __post_init__(self) -> None:
        """Refuse logits that are no numbers, and labels that are no class."""
        check_finite_logits(self.logits, self.reads.rows, self.reads.columns)
        classes, targets = self.logits.shape[-1], self.reads.targets
        if targets.is_floating_point() and classes != 1:
            raise DataError(
                f"The labels are numbers ({targets.dtype}), and the model has {classes} classes. Classes are integers: "
                "labels.long(). Regression needs a model with one output, num_labels=1."
            )
        if targets.numel() and not targets.is_floating_point() and int(targets.max()) >= classes:
            raise DataError(f"Label {int(targets.max())} is no class: the model has classes 0 to {classes - 1}.")

    @property
    def targets(self) -> Num[Tensor, " read"]:
        """The expected classes or numbers, on the logits' device."""
        return self.reads.targets.to(self.logits.device)

    def per_row(self, values: Float[Tensor, " read"], n_rows: int) -> Float[Tensor, " row"]:
        """The mean over each row's reads."""
        rows = self.reads.rows.to(values.device)
        total = values.new_zeros(n_rows).index_add(0, rows, values)
        return total / torch.bincount(rows, minlength=n_rows).clamp_min(1).to(values.dtype)


class Passes(ABC):
    """Abstract: a model under a graph, and the examples it is fitted to or scored on.

    `with passes:` is a loop over batches, during which passes may cache what is the same in all of them.
    """

    def __enter__(self) -> Passes:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    @abstractmethod
    def scored(self, rows: Int[Tensor, " row"]) -> TargetLogits:
        """The logits that the loss reads for these rows of the examples; rows in the result count within the batch."""

    @abstractmethod
    def explain(self) -> str:
        """What is run, how often, and why a shortcut is not taken."""

    @property
    @abstractmethod
    def ineffective(self) -> Mapping[str, str]:
        """Edits that are known to change nothing that the loss reads, and why."""


class FullPasses(Passes):
    """Every run in full for every batch."""

    def __init__(self, model: IntervenedModel, examples: Examples) -> None:
        check_dataset(model.graph, examples)
        self.model, self.examples = model, examples.of_model(model.base_model)

    def scored(self, rows: Int[Tensor, " row"]) -> TargetLogits:
        batch = self.examples.rows(rows)
        reads = TargetPositions.of(batch)
        given = {**batch.runs, "base": batch.base}
        runs = {run: on_device(inputs, self.model.device) for run, inputs in given.items()}
        base = runs.pop("base")
        output = self.model(base, **{run: inputs for run, inputs in runs.items() if run in self.model.graph.runs})
        return TargetLogits(reads.take(logits_of(output)), reads)

    def explain(self) -> str:
        return f"every run in full for every batch: {' -> '.join(self.model.graph.runs)}"

    @property
    def ineffective(self) -> Mapping[str, str]:
        return {}


def check_dataset(graph: InterventionGraph, examples: Examples) -> None:
    """A dataset brings every run of a graph, and the graph can be cut into batches.

    Raises:
        DataError: a missing run, with the nearest name.
        GraphError: the graph holds a `PerRow`, whose rows mean other examples in each batch.
    """
    check_runs(graph.runs, examples)
    for name, node in graph.edits.items():
        if isinstance(node.source.source if isinstance(node.source, Shift) else node.source, PerRow):
            raise GraphError(
                f"Node {name!r} has {node.source!r}, whose rows are those of one call; a dataset is cut into batches "
                "of other rows. Call the model on these rows instead: model(base)."
            )


def logits_of(output: object) -> Tensor:
    """The logits in whatever a model returns: a tensor, a tuple that starts with one, or an output with `.logits`."""
    if isinstance(output, Tensor):
        return output
    return output[0] if type(output).__name__ == "CollectedTuple" else output.logits  # type: ignore[index,attr-defined]


def on_device(inputs: RunInputs, device: torch.device) -> RunInputs:
    """A run's tensors on a device."""
    if isinstance(inputs, Tensor):
        return inputs.to(device)
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in inputs.items()}
