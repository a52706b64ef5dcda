"""Random graphs on random families: the plan gives the logits and gradients of full passes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import causal_reft as cr
from causal_reft.errors import PositionError
from causal_reft.execution import Examples, FullPasses, IntervenedModel, TargetLogits, plan_all
from causal_reft.featurizers import computed_once
from tests.execution.test_plan_exact import (
    LENGTHS,
    LONGER,
    NAN_BEHIND_LEFT_PADDING,
    double,
    examples,
    three_blocks,
    widths,
)
from tests.families import DECODERS

FLOAT32_INSIDE = ("gptj", "gemma2")  # attention products or softmax, whatever the model's dtype
PLACES = ("f2+l1", "last", -2, "f1", "f3", "l2", 1, [0, 2], "all")


@dataclass(frozen=True)
class Question:
    """Graphs on one model, data, some of its rows, and a memory budget; as plain values, so that a failure prints."""

    family: str
    graphs: list[list[tuple[str, int, object, str]]]
    padding: str
    lengths: tuple[int, ...]
    n_labels: int
    rows: list[int]
    memory: int

    def models(self) -> list[IntervenedModel]:
        """Each edit: any component, layer and tokens; a run or trainable parameters as the source."""
        width, found = widths(self.family), []
        for graph in self.graphs:
            edits = {}
            for seed, (component, layer, where, source) in enumerate(graph):
                d = width[component]
                given = cr.LearnedSource(3, d, init="random", seed=seed) if source == "learned" else cr.Collect(source)
                site = cr.Site(layer, component, positions=where)
                edits[f"edit_{seed}"] = cr.Interchange(site, cr.Subspace(d, 3, seed=seed), given)
            found.append(IntervenedModel(three_blocks(self.family), double(cr.InterventionGraph(**edits))))
        return found

    def data(self) -> Examples:
        """One class a row, or the labels of its last few tokens."""
        left = self.padding == "left" and self.family in NAN_BEHIND_LEFT_PADDING
        data = examples(self.family, "right" if left else self.padding, self.lengths)
        if not self.n_labels:
            return data
        ids, mask = (data.runs["base"][key] for key in ("input_ids", "attention_mask"))
        after = mask.flip(1).cumsum(1).flip(1)
        return Examples(data.runs, ids.masked_fill((mask == 0) | (after > self.n_labels), -100))


EDIT = st.tuples(
    st.sampled_from(sorted(widths("llama"))),
    st.integers(0, 2),
    st.sampled_from(PLACES),
    st.sampled_from(["source", "other", "learned"]),
)
QUESTION = st.builds(
    Question,
    st.sampled_from([name for name in DECODERS if name not in FLOAT32_INSIDE]),
    st.lists(st.lists(EDIT, min_size=1, max_size=3), min_size=1, max_size=3),
    st.sampled_from(["mixed", "left", "right", "no"]),
    st.sampled_from([LENGTHS, LONGER]),
    st.integers(0, 3),
    st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True),
    st.sampled_from([1 << 30, 20_000]),
)


@settings(max_examples=25)
@given(QUESTION)
def test_random_graphs(question: Question) -> None:
    models, data, rows = question.models(), question.data(), torch.tensor(question.rows)
    try:
        for model in models:
            FullPasses(model, data).scored(torch.arange(4))
    except PositionError:  # a token that a text does not have, or sides of unequal length
        assume(False)
    full = [FullPasses(model, data).scored(rows) for model in models]
    with plan_all(models, data, check=False, memory=question.memory) as joint, computed_once():
        fast = joint.scored(rows)
    for model, mine, wanted in zip(models, fast, full, strict=True):
        torch.testing.assert_close(mine.logits, wanted.logits, rtol=1e-11, atol=1e-11, equal_nan=True)
        torch.testing.assert_close(gradient(model, mine), gradient(model, wanted), rtol=1e-9, atol=1e-10)


def gradient(model: IntervenedModel, scored: TargetLogits) -> torch.Tensor:
    """Of the loss at the reads that the model itself leaves defined; zeros where no path leads to an edit."""
    defined, parameters = ~scored.logits.isnan().any(1), list(model.trainable_parameters())
    loss = torch.nn.functional.cross_entropy(scored.logits[defined], scored.targets[defined])
    if not loss.requires_grad:
        return torch.zeros(1)
    found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return torch.cat(
        [torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in zip(parameters, found, strict=True)]
    )
