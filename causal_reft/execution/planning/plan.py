"""From graphs, a model and data: what must be computed, and no more.

    plan(model, examples)          one graph: the `Passes` that `fit` and every score use
    plan_all(models, examples)     many graphs on one model, computed together
    print(plan(...))               what runs, how often, what it costs, and why a shortcut is not taken

Every shortcut is exact: on the first batch its logits and gradients are compared with full passes, and a plan that
differs falls back to them with a warning.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from causal_reft.errors import CausalReftWarning, GraphError
from causal_reft.execution.examples import Examples
from causal_reft.execution.input_checks import OURS
from causal_reft.execution.intervened_model import IntervenedModel
from causal_reft.execution.passes import FullPasses, Passes, TargetLogits
from causal_reft.execution.planning.decoder import find_decoder
from causal_reft.execution.planning.explain import explanation
from causal_reft.execution.planning.lent import LentPasses
from causal_reft.execution.planning.members import Member, TextData, enter
from causal_reft.execution.planning.recording import Place
from causal_reft.execution.planning.selfcheck import Check, compare
from causal_reft.execution.planning.together import Together
from causal_reft.execution.threads import one_at_a_time
from causal_reft.tensors import Int, Tensor


@dataclass(frozen=True)
class Options:
    """What a plan may use.

    Attributes:
        memory: bytes that it may keep; what does not fit is computed again for each batch.
        device: where it is kept; by default where the model computes.
        dtype: of kept keys and values; by default the model's. Less precision is not exact.
        check: whether the first batch is compared with full passes.
    """

    memory: int = 2 << 30
    device: str | None = None
    dtype: torch.dtype | None = None
    check: bool = True


def plan(model: IntervenedModel, examples: Examples, **options: object) -> Plan:
    """The cheapest exact way to compute the logits that the labels read; `options` are the fields of `Options`."""
    return Plan(plan_all([model], examples, **options))


def plan_all(models: Sequence[IntervenedModel], examples: Examples, **options: object) -> JointPlan:
    """The same for several graphs on one model and one dataset, sharing all that they can.

    Raises:
        GraphError: no models, or models under several base models.
    """
    return JointPlan(models, examples, Options(**options))  # type: ignore[arg-type]


class JointPlan:
    """How the logits of several graphs on one model are computed for batches of one dataset."""

    def __init__(self, models: Sequence[IntervenedModel], examples: Examples, options: Options) -> None:
        if not models or any(model.base_model is not models[0].base_model for model in models):
            raise GraphError(
                "A plan is for one or more graphs on one base model. Wrap the same model object under each graph."
            )
        examples = examples.of_model(models[0].base_model)
        self.models, self.examples, self.options = tuple(models), examples, options
        self.full = [FullPasses(model, examples) for model in self.models]
        self.refused: dict[int, str] = {}
        self.checks: dict[int, Check] = {}
        self._checked: set[bool] = set()
        self._weights = _version(self.models[0])
        self.together, self.members = self._entered()
        self.lent = {
            n: LentPasses(self.models[n], examples, options.memory) for n in self.refused if not self._only_full(n)
        }

    def scored(self, rows: Int[Tensor, " row"]) -> list[TargetLogits]:
        """The logits that the loss reads for these rows, for every graph."""
        with one_at_a_time(self.models[0].base_model):
            return self._scored(rows)

    def _scored(self, rows: Tensor) -> list[TargetLogits]:
        if self.why_full():
            return [passes.scored(rows) for passes in self.full]
        self._renew()
        if self.options.check and torch.is_grad_enabled() not in self._checked:
            self._check(rows)
        return self._fast(rows)

    def why_full(self) -> str:
        """Why nothing at all can be kept at the moment; empty where something can."""
        model = self.models[0]
        if torch.is_grad_enabled() and any(p.requires_grad for p in model.base_model.parameters()):
            return "the base model's weights ask for gradients"
        if model.base_model.training:
            return "the base model is in training mode (dropout, gradient checkpointing)"
        return ""

    @property
    def ineffective(self) -> dict[int, Mapping[str, str]]:
        """For each graph that holds such, the edits that no logit which is read can feel, and why."""
        return {n: member.ineffective for n, member in self.members.items() if member.ineffective}

    def explain(self) -> str:
        """What is run, how often, what it costs, and why a shortcut is not taken."""
        return explanation(self)

    __repr__ = __str__ = explain

    def _entered(self) -> tuple[Together | None, dict[int, Member]]:
        """The graphs that can enter the model in the middle; the reasons of the others go to `refused`."""
        base = self.examples.runs["base"]
        arguments = frozenset() if isinstance(base, Tensor) else frozenset(base) - set(OURS)
        data = TextData.of(self.models[0], self.examples)
        decoder = find_decoder(self.models[0].base_model, arguments) if not isinstance(data, str) else data
        members: dict[int, Member] = {}
        for number, model in enumerate(self.models):
            if number in self.refused:
                continue
            reason = model.backend_name != "hooks" and f"the {model.backend_name} backend runs the model"
            entered = reason or (
                decoder if isinstance(decoder, str) or isinstance(data, str) else enter(model, decoder, data)
            )
            if isinstance(entered, Member):
                members[number] = entered
            else:
                self.refused[number] = str(entered)
        if not members:
            return None, {}
        assert not isinstance(decoder, str) and not isinstance(data, str)
        place = Place(self.options.device, self.options.dtype)
        return Together(decoder, data, self.examples, list(members.values()), self.options.memory, place), members

    def _only_full(self, number: int) -> bool:
        model = self.models[number]
        return model.backend_name != "hooks" or bool(LentPasses.refused(model))

    def _fast(self, rows: Tensor) -> list[TargetLogits]:
        found: dict[int, TargetLogits] = {}
        if self.together is not None:
            training = [self.models[n].training for n in self.members]
            found |= dict(zip(self.members, self.together.scored(rows, training), strict=True))
        for number in self.refused:
            found[number] = (self.lent.get(number) or self.full[number]).scored(rows)
        return [found[number] for number in range(len(self.models))]

    def _renew(self) -> None:
        """When the weights have changed since, forget what was kept."""
        if (version := _version(self.models[0])) != self._weights:
            self._weights = version
            if self.together is not None:
                self.together.forget()
            for passes in self.lent.values():
                passes.forget()

    def _check(self, rows: Tensor) -> None:
        """Compare with full passes; what differs is computed in full from now on."""
        self._checked.add(torch.is_grad_enabled())
        some = self._some(rows)
        numbers = [n for n in range(len(self.models)) if n in self.members or n in self.lent]
        if not numbers:
            return
        models = [self.models[n] for n in numbers]
        checks = compare(
            models,
            lambda: [self._fast(some)[n] for n in numbers],
            lambda: [self.full[n].scored(some) for n in numbers],
            len(some),
        )
        self.checks |= dict(zip(numbers, checks, strict=True))
        wrong = [n for n, check in zip(numbers, checks, strict=True) if not check.passed]
        if not wrong:
            return
        for number in wrong:
            self.refused[number] = f"the self-check differs ({self.checks[number]})"
            self.lent.pop(number, None)
        self.together, self.members = self._entered()
        warnings.warn(
            f"The fast path gave other numbers than full passes for {len(wrong)} of {len(self.models)} graphs: "
            f"{self.refused[wrong[0]]}. They are computed in full from now on, which is right but slow. If the "
            "model's forward draws random numbers or keeps a state, that is why.",
            CausalReftWarning,
            stacklevel=4,
        )

    def _some(self, rows: Tensor) -> Tensor:
        """A few rows that differ most in what is computed for them."""
        if not self.members:
            return rows[:32]
        windows = next(iter(self.members.values())).windows.rows(rows.cpu())
        ends = [int(windows.prefix.argmin()), int(windows.prefix.argmax())]
        return rows[torch.tensor(sorted(set(ends)) if ends[0] != ends[1] else list(range(min(2, len(rows)))))]


class Plan(Passes):
    """The plan of one graph."""

    def __init__(self, joint: JointPlan) -> None:
        self.joint = joint

    def scored(self, rows: Int[Tensor, " row"]) -> TargetLogits:
        return self.joint.scored(rows)[0]

    def explain(self) -> str:
        return self.joint.explain()

    @property
    def ineffective(self) -> Mapping[str, str]:
        """Edits that no logit which is read can feel, and why."""
        return self.joint.ineffective.get(0, {})

    __repr__ = __str__ = explain


def _version(model: IntervenedModel) -> int:
    """A number that changes when a weight of the base model is written to."""
    return sum(p._version for p in model.base_model.parameters())
