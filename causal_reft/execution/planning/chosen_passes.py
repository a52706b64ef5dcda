"""The passes chosen for each graph of a plan, from the model, the graphs and the examples as they are now.

A graph that enters a causal decoder is computed jointly with others (`JointPasses`), any other graph from cached states
of its source runs (`SourceCachePasses`), or in full. Every shortcut is exact: on the first batch its logits and
gradients are compared with full passes, and what differs is computed in full from then on, with a warning.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from causal_reft.errors import CausalReftWarning
from causal_reft.execution.examples import Examples
from causal_reft.execution.input_checks import OURS
from causal_reft.execution.intervened_model import IntervenedModel
from causal_reft.execution.passes import FullPasses, TargetLogits
from causal_reft.execution.planning.decoder import JointGraph, enter, find_decoder
from causal_reft.execution.planning.joint_passes import JointPasses
from causal_reft.execution.planning.recorded_states import RecordFormat
from causal_reft.execution.planning.selfcheck import Check, compare
from causal_reft.execution.planning.source_cache import SourceCachePasses
from causal_reft.execution.planning.windows import TextData
from causal_reft.tensors import Int, Tensor


@dataclass(frozen=True)
class Options:
    """What a plan may use.

    Attributes:
        memory: bytes that it may cache; what does not fit is computed again for each batch.
        device: where it is cached; by default where the model computes.
        dtype: of cached keys and values; by default the model's. Less precision is not exact.
        check: whether the first batch is compared with full passes.
    """

    memory: int = 2 << 30
    device: str | None = None
    dtype: torch.dtype | None = None
    check: bool = True


class ChosenPasses:
    """What is computed for several graphs on one model and one dataset."""

    def __init__(self, models: Sequence[IntervenedModel], examples: Examples, options: Options) -> None:
        self.models, self.examples, self.options = tuple(models), examples, options
        self.full = [FullPasses(model, examples) for model in models]
        self.refused: dict[int, str] = {}
        self.checks: dict[int, Check] = {}
        self._checked: set[bool] = set()
        self._weights = self._versions()
        self.joint_passes, self.graphs = self._entered()
        self.source_caches = {
            n: SourceCachePasses(model, examples, options.memory)
            for n, model in enumerate(models)
            if n in self.refused and model.backend_name == "hooks" and not SourceCachePasses.refused(model)
        }

    def parts(self, rows: Int[Tensor, " row"], caches: bool = True) -> Iterator[dict[int, TargetLogits]]:
        """The logits that the loss reads for these rows, by number of the graph, one forward after the other.

        `caches`: whether what serves other batches too is computed for all examples, and stays.
        """
        if self.why_full():
            yield from ({number: passes.scored(rows)} for number, passes in enumerate(self.full))
            return
        if self.options.check and torch.is_grad_enabled() not in self._checked:
            self._check(rows, caches)
        yield from self._fast(rows, caches)

    def why_full(self) -> str:
        """Why every run is computed in full at the moment; empty where shortcuts hold."""
        model = self.models[0].base_model
        if torch.is_grad_enabled() and any(p.requires_grad for p in model.parameters()):
            return "the base model's weights ask for gradients"
        if any(module.training for module in model.modules()):
            return "the base model is in training mode (dropout, gradient checkpointing)"
        return ""

    @property
    def weights_changed(self) -> bool:
        """Whether a weight of the base model was written to or replaced since."""
        return self._versions() != self._weights

    @property
    def ineffective(self) -> dict[int, Mapping[str, str]]:
        """For each graph that holds such, the edits that cannot affect any scored logit, and why."""
        return {n: graph.ineffective for n, graph in self.graphs.items() if graph.ineffective}

    def _entered(self) -> tuple[JointPasses | None, dict[int, JointGraph]]:
        """The graphs that can enter the model at a block; the reasons of the others go to `refused`."""
        base = self.examples.runs["base"]
        arguments = frozenset() if isinstance(base, Tensor) else frozenset(base) - set(OURS)
        data = TextData.of(self.models[0], self.examples)
        decoder = find_decoder(self.models[0].base_model, arguments) if not isinstance(data, str) else data
        graphs: dict[int, JointGraph] = {}
        for number, model in enumerate(self.models):
            if number in self.refused:
                continue
            reason = model.backend_name != "hooks" and f"the {model.backend_name} backend runs the model"
            entered = reason or (
                decoder if isinstance(decoder, str) or isinstance(data, str) else enter(model, decoder, data)
            )
            if isinstance(entered, JointGraph):
                graphs[number] = entered
            else:
                self.refused[number] = str(entered)
        if not graphs:
            return None, {}
        assert not isinstance(decoder, str) and not isinstance(data, str)
        format = RecordFormat(self.options.device, self.options.dtype)
        passes = JointPasses(decoder, data, self.examples, list(graphs.values()), self.options.memory, format)
        return passes, graphs

    def _fast(self, rows: Tensor, caches: bool) -> Iterator[dict[int, TargetLogits]]:
        if self.joint_passes is not None:
            numbers = list(self.graphs)  # of the joint passes' graphs among all
            training = [self.models[n].training for n in numbers]
            parts = self.joint_passes.parts(rows, training, caches)
            yield from map(partial(_renumbered, numbers), parts)
        for number in self.refused:
            cache = self.source_caches.get(number)
            yield {number: self.full[number].scored(rows) if cache is None else cache.scored(rows, caches)}

    def _check(self, rows: Tensor, caches: bool) -> None:
        """Compare with full passes; what differs is computed in full from now on."""
        self._checked.add(torch.is_grad_enabled())
        some = self._some(rows)
        numbers = [n for n in range(len(self.models)) if n in self.graphs or n in self.source_caches]
        if not numbers:
            return
        checks = compare(
            {n: self.models[n] for n in numbers},
            self._fast(some, caches),
            lambda n: self.full[n].scored(some).logits,
            lambda n: self._batched_otherwise(n, some),
            len(some),
        )
        self.checks |= checks
        wrong = [n for n in numbers if not checks[n].passed]
        if not wrong:
            return
        for number in wrong:
            self.refused[number] = f"the self-check differs ({self.checks[number]})"
            self.source_caches.pop(number, None)
        self.joint_passes, self.graphs = self._entered()
        warnings.warn(
            f"The fast path gave other numbers than full passes for {len(wrong)} of {len(self.models)} graphs: "
            f"{self.refused[wrong[0]]}. They are computed in full from now on, which is exact but slow. If the "
            "model's forward draws random numbers or keeps a state, that is why.",
            CausalReftWarning,
            stacklevel=5,
        )

    def _batched_otherwise(self, number: int, rows: Tensor) -> Tensor:
        """Logits of full passes of each row by itself, or of a single row beside a copy of it."""
        if len(rows) == 1:
            return self.full[number].scored(rows.repeat(2)).logits.chunk(2)[0]
        return torch.cat([self.full[number].scored(row).logits for row in rows.split(1)])

    def _some(self, rows: Tensor) -> Tensor:
        """A few rows that differ most in what is computed for them."""
        if not self.graphs:
            return rows[:32]
        windows = next(iter(self.graphs.values())).windows.rows(rows.cpu())
        ends = [int(windows.prefix.argmin()), int(windows.prefix.argmax())]
        return rows[torch.tensor(sorted(set(ends)) if ends[0] != ends[1] else list(range(min(2, len(rows)))))]

    def _versions(self) -> list[tuple[int, int]]:
        model = self.models[0].base_model
        return [(t.data_ptr(), t._version) for tensors in (model.parameters(), model.buffers()) for t in tensors]


def _renumbered(numbers: Sequence[int], part: Mapping[int, TargetLogits]) -> dict[int, TargetLogits]:
    return {numbers[n]: found for n, found in part.items()}
