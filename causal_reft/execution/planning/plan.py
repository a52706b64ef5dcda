"""How the logits that a loss reads are computed for batches of a dataset: what must be computed, and no more.

    plan(model, examples)          one graph: the `Passes` that `fit` and every score use
    plan_all(models, examples)     many graphs on one model, computed together
    print(plan(...))               what runs, how often, what it costs, and why a shortcut is not taken

    with plan(model, examples) as passes:      # what is the same in every step is computed once, and cached
        for rows in examples.batches(8):
            passes.scored(rows)

Nothing outlives the `with`: it decides anew what may be cached, from the model, the graphs and the examples as they are
when it opens, and drops everything when it closes. They must not change inside, except for what the graphs train.
Outside, `scored` does all of that for its own rows alone, so whatever was changed between two calls, the numbers are
those of full passes. `fit`, scores and studies open a plan for as long as they run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from causal_reft.display import html_text
from causal_reft.errors import GraphError
from causal_reft.execution.examples import Examples
from causal_reft.execution.intervened_model import IntervenedModel
from causal_reft.execution.passes import Passes, TargetLogits, check_dataset
from causal_reft.execution.planning.chosen_passes import ChosenPasses, Options
from causal_reft.execution.planning.explain import explanation, row_flops
from causal_reft.execution.threads import one_at_a_time
from causal_reft.tensors import Int, Tensor


def plan(model: IntervenedModel, examples: Examples, **options: object) -> Plan:
    """The cheapest exact way to compute the logits that the labels read; `options` are the fields of `Options`."""
    return Plan(plan_all([model], examples, **options))


def plan_all(models: Sequence[IntervenedModel], examples: Examples, **options: object) -> JointPlan:
    """The same for several graphs on one model and one dataset, sharing all that they can.

    Raises:
        GraphError: no models, models under several base models, or a `PerRow`, which is for the rows of one call.
        DataError: examples without a run of a graph.
    """
    return JointPlan(models, examples, Options(**options))  # type: ignore[arg-type]


class JointPlan:
    """How the logits of several graphs on one model are computed for batches of one dataset."""

    def __init__(self, models: Sequence[IntervenedModel], examples: Examples, options: Options) -> None:
        if not models or any(model.base_model is not models[0].base_model for model in models):
            raise GraphError(
                "A plan is for one or more graphs on one base model. Wrap the same model object under each graph."
            )
        for model in models:
            check_dataset(model.graph, examples)
        self.models, self.options = tuple(models), options
        self.examples = examples.of_model(models[0].base_model)
        self._open: list[ChosenPasses] = []

    def __enter__(self) -> JointPlan:
        """What `scored` caches from now on serves later calls; inside another `with` of this plan, that one's."""
        self._open.append(self._open[-1] if self._open else self._choose(self.examples))
        return self

    def __exit__(self, *exception: object) -> None:
        """Drop what is cached."""
        self._open.pop()

    def scored(self, rows: Int[Tensor, " row"]) -> list[TargetLogits]:
        """The logits that the loss reads for these rows, for every graph."""
        found = {number: one for part in self.parts(rows) for number, one in part.items()}
        return [found[number] for number in range(len(self.models))]

    def parts(self, rows: Int[Tensor, " row"]) -> Iterator[dict[int, TargetLogits]]:
        """The same by number of the graph, one forward after the other: what takes the gradients of a part, or scores
        it, before it asks for the next one holds the activations of one forward only, however many graphs there are.
        """
        parts = self._parts(rows)
        while True:
            part = None  # not held while the next one is computed
            with one_at_a_time(self.models[0].base_model):
                part = next(parts, None)
            if part is None:
                return
            yield part

    def _parts(self, rows: Tensor) -> Iterator[dict[int, TargetLogits]]:
        if not self._open:
            yield from self._choose(self.examples.rows(rows)).parts(torch.arange(len(rows)), caches=False)
            return
        if self._open[-1].weights_changed and not self._open[-1].why_full():
            self._open = [self._choose(self.examples)] * len(self._open)
        yield from self._open[-1].parts(rows)

    @property
    def chosen(self) -> ChosenPasses:
        """The passes of every graph: those of the open `with`, or what one would choose now."""
        return self._open[-1] if self._open else self._choose(self.examples)

    @property
    def ineffective(self) -> dict[int, Mapping[str, str]]:
        """For each graph that holds such, the edits that cannot affect any scored logit, and why."""
        return self.chosen.ineffective

    def explain(self) -> str:
        """What is run, how often, what it costs, and why a shortcut is not taken."""
        return explanation(self.chosen)

    @property
    def row_flops(self) -> list[float]:
        """FLOPs of one row in one training step of each graph, from the sizes of the weights; 1 where not known."""
        return row_flops(self.chosen)

    __repr__ = __str__ = explain

    def _repr_html_(self) -> str:
        return html_text(self.explain())

    def _choose(self, examples: Examples) -> ChosenPasses:
        return ChosenPasses(self.models, examples, self.options)


class Plan(Passes):
    """The plan of one graph."""

    def __init__(self, joint: JointPlan) -> None:
        self.joint = joint

    def __enter__(self) -> Plan:
        self.joint.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self.joint.__exit__(*exception)

    def scored(self, rows: Int[Tensor, " row"]) -> TargetLogits:
        return self.joint.scored(rows)[0]

    def explain(self) -> str:
        return self.joint.explain()

    @property
    def ineffective(self) -> Mapping[str, str]:
        """Edits that cannot affect any scored logit, and why."""
        return self.joint.ineffective.get(0, {})

    __repr__ = __str__ = explain

    def _repr_html_(self) -> str:
        return html_text(self.explain())
