"""The order in which tokens are named is the order in which they pair: every backend and every plan against plain
hooks that index token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import causal_reft as cr
from causal_reft.errors import PositionError
from causal_reft.execution import Examples, FullPasses, IntervenedModel, plan_all
from tests.models import ARCHITECTURES, D_MODEL, blocks, prompts
from tests.named_tokens import named_in_order

LENGTHS, LAYER = (6, 5, 7), 1
F = cr.Subspace(D_MODEL, 5, seed=3).double()
Spans = Mapping[str, Sequence[Sequence[int]]]


def cells(positions: Any, inputs: Mapping[str, Any]) -> list[list[int]]:
    """The columns that each row names, in order."""
    mask, spans = inputs["attention_mask"], inputs.get("spans", {})
    starts, lengths = mask.argmax(1).tolist(), mask.sum(1).tolist()
    return [
        [start + t for t in named_in_order(positions, n, 0, {name: rows[i] for name, rows in spans.items()})]
        for i, (start, n) in enumerate(zip(starts, lengths, strict=True))
    ]


@torch.no_grad()
def by_hand(model: nn.Module, family: str, base: dict, source: dict, here: Any, there: Any) -> Tensor:
    """Logits under h <- h + R^T R (s - h), one token after the other."""
    block, R, seen = blocks(model, family)[LAYER], F.rotation, []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        seen.append((output[0] if isinstance(output, tuple) else output).clone())

    def put(module: nn.Module, args: Any, output: Any) -> Any:
        h = (output[0] if isinstance(output, tuple) else output).clone()
        for row, (mine, theirs) in enumerate(zip(cells(here, base), cells(there, source), strict=True)):
            for target, origin in zip(mine, theirs, strict=True):
                h[row, target] += R.mT @ (R @ (seen[0][row, origin] - h[row, target]))
        return (h, *output[1:]) if isinstance(output, tuple) else h

    plain = [{k: v for k, v in run.items() if k != "spans"} for run in (base, source)]
    for hook, run in ((keep, plain[1]), (put, plain[0])):
        handle = block.register_forward_hook(hook)
        logits = model(**_with_position_ids(run)).logits
        handle.remove()
    return logits


def _with_position_ids(run: dict[str, Tensor]) -> dict[str, Tensor]:
    return run | {"position_ids": (run["attention_mask"].cumsum(1) - 1).clamp_min(0)}


def graph(here: Any, there: Any) -> cr.InterventionGraph:
    site = cr.Site(LAYER, positions=there)
    return cr.InterventionGraph(edit=cr.Interchange(cr.Site(LAYER, positions=here), F, cr.Collect("source", site)))


def runs(side: str, spans: Sequence[Spans] = ({}, {})) -> tuple[dict[str, Any], dict[str, Any]]:
    base, source = (prompts(LENGTHS, side, seed) for seed in (1, 2))
    return tuple(run | ({"spans": dict(s)} if s else {}) for run, s in zip((base, source), spans, strict=True))  # type: ignore[return-value]


def real(logits: Tensor, run: Mapping[str, Any]) -> Tensor:
    return logits[run["attention_mask"].bool()]


def last_classes(base: dict[str, Any], source: dict[str, Any]) -> Examples:
    """The data of a plan whose loss reads the last token of every row."""
    return Examples({"base": base, "source": source}, torch.zeros(len(LENGTHS), dtype=torch.long))


def last_logits(logits: Tensor, base: Mapping[str, Any]) -> Tensor:
    columns = base["attention_mask"].cumsum(1).argmax(1)
    return logits[torch.arange(len(columns)), columns]


@pytest.mark.parametrize("backend", ["hooks", "nnsight"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_zero_takes_from_three_and_two_takes_from_one(family: str, side: str, backend: str) -> None:
    model, (base, source) = ARCHITECTURES[family](), runs(side)
    got = IntervenedModel(model, graph([0, 2], [3, 1]), backend=backend)(base, source=source).logits
    wanted, swapped = (by_hand(model, family, base, source, [0, 2], there) for there in ([3, 1], [1, 3]))
    torch.testing.assert_close(real(got, base), real(wanted, base), rtol=1e-11, atol=1e-11)
    assert not torch.allclose(real(wanted, base), real(swapped, base)), "the order matters here"


indices = st.lists(st.integers(-5, 4), min_size=1, max_size=3)
term = st.sampled_from(["first", "last", "f2", "l2", "l3", "who", "city", "1", "-2", "0"])
anything = st.one_of(
    indices,
    st.lists(term, min_size=1, max_size=3).map("+".join),
    st.builds(slice, st.integers(0, 4), st.integers(0, 5), st.sampled_from([1, 2])),
    st.builds(slice, st.integers(1, 4), st.none(), st.just(-1)),
)
pairs = st.one_of(
    st.integers(2, 3).flatmap(
        lambda k: st.tuples(*[st.lists(st.integers(0, 4), min_size=k, max_size=k, unique=True)] * 2)
    ),
    st.tuples(*[st.sampled_from(["who+city", "city+who", "first+last", "last+first", "-2+1"])] * 2),
    anything.map(lambda where: (where, where)),
    st.tuples(anything, anything),
)
span = st.lists(st.lists(st.integers(-5, 4), min_size=1, max_size=2), min_size=3, max_size=3)
spans = st.fixed_dictionaries({"who": span, "city": span})


@settings(max_examples=60)
@given(
    family=st.sampled_from(sorted(ARCHITECTURES)),
    side=st.sampled_from(["left", "right"]),
    pair=pairs,
    of_runs=st.tuples(spans, spans),
    memory=st.sampled_from([1 << 30, 2_000]),
)
def test_random_positions_pair_in_the_order_of_naming_in_forward_and_plan(
    family: str, side: str, pair: tuple[Any, Any], of_runs: tuple[Spans, Spans], memory: int
) -> None:
    here, there = pair
    model, (base, source) = ARCHITECTURES[family](), runs(side, of_runs)
    counts = [[len(row) for row in cells(where, run)] for where, run in ((here, base), (there, source))]
    assume(counts[0] == counts[1] and 0 not in counts[0])
    edited = IntervenedModel(model, graph(here, there))
    try:
        got = edited(base, source=source).logits
    except PositionError as refused:
        parts_differ = "pairs token" in str(refused) and not isinstance(here, slice)
        assume(not parts_differ)  # tokens of one part would pair with those of another
        raise
    wanted = by_hand(model, family, base, source, here, there)
    torch.testing.assert_close(real(got, base), real(wanted, base), rtol=1e-11, atol=1e-11)
    data, rows = last_classes(base, source), torch.tensor([2, 0, 1])
    for passes in (FullPasses(edited, data), plan_all([edited], data, check=False, memory=memory)):
        with torch.no_grad():
            scored = passes.scored(rows)
        logits = (scored if isinstance(passes, FullPasses) else scored[0]).logits
        torch.testing.assert_close(logits, last_logits(wanted, base)[rows], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("backend", ["hooks", "nnsight"])
def test_collected_states_and_a_constant_follow_the_order_of_naming(backend: str) -> None:
    model, (base, _) = ARCHITECTURES["llama"](), runs("left")
    collects = {"forth": [2, 4], "back": [4, 2], "parts": "city+who"}
    base |= {"spans": {"who": [[0]] * 3, "city": [[3, 1]] * 3}}
    seen = cr.InterventionGraph(
        **{name: cr.Collect("base", cr.Site(1, positions=where)) for name, where in collects.items()},
        every=cr.Collect("base", cr.Site(1)),
    )
    got = IntervenedModel(model, seen, backend=backend).collect(base)
    assert torch.equal(got["back"], got["forth"].flip(1))
    by_token = got["every"]  # (batch, most tokens of a row, d_model), from each row's first token on
    assert torch.equal(got["back"], by_token[:, [4, 2]]) and torch.equal(got["parts"], by_token[:, [3, 1, 0]])

    values = torch.arange(2.0 * D_MODEL, dtype=torch.float64).reshape(2, D_MODEL)
    for where, order in (([4, 2], [0, 1]), ([2, 4], [1, 0])):
        edit = cr.Interchange(cr.Site(0, positions=where), cr.Identity(D_MODEL), cr.Constant(values[order]))
        after = cr.Collect("base", cr.Site(0, positions=[2, 4]))
        put = IntervenedModel(model, cr.InterventionGraph(edit=edit, after=after), backend=backend).collect(base)
        assert torch.equal(put["after"], values.flip(0).expand(3, 2, D_MODEL))


def test_all_tokens_from_the_last_to_the_first_are_not_taken_for_all_as_they_stand() -> None:
    model, (base, source) = ARCHITECTURES["gpt2"](), (prompts((5, 5), "none", seed) for seed in (1, 2))
    wanted = by_hand(model, "gpt2", base, source, "all", slice(None, None, -1))
    got = IntervenedModel(model, graph("all", slice(None, None, -1)))(base, source=source).logits
    torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-11)


def test_spans_of_other_lengths_that_only_add_up_to_the_same_number_are_refused() -> None:
    """Two tokens of "who" and one of "city" against one and two: the second "who" would take a "city"."""
    spans = {"who": [[0, 1]] * 3, "city": [[3]] * 3}, {"who": [[0]] * 3, "city": [[3, 4]] * 3}
    base, source = runs("right", spans)
    edited = IntervenedModel(ARCHITECTURES["gpt2"](), graph("who+city", "who+city"))
    with pytest.raises(PositionError, match=r"row 0 pairs token 1 as part 1 of .* with part 2 of .* equal length"):
        edited(base, source=source)
    with pytest.raises(PositionError, match="pairs token 1"), torch.no_grad():
        plan_all([edited], last_classes(base, source), check=False).scored(torch.tensor([0]))


def test_spans_pair_by_name_in_prompts_of_other_wording() -> None:
    """ "who" comes first in some prompts and last in others."""
    spans = {"who": [[0], [4], [1]], "city": [[3], [1], [2]]}, {"who": [[3], [0], [2]], "city": [[1], [4], [0]]}
    model, (base, source) = ARCHITECTURES["neox"](), runs("left", spans)
    got = IntervenedModel(model, graph("who+city", "who+city"))(base, source=source).logits
    wanted = by_hand(model, "neox", base, source, "who+city", "who+city")
    torch.testing.assert_close(real(got, base), real(wanted, base), rtol=1e-11, atol=1e-11)


def test_generation_edits_the_prompt_in_the_order_of_naming() -> None:
    model, (base, source) = ARCHITECTURES["llama"](), runs("left")
    edited = IntervenedModel(model, graph([0, 2], [3, 1]))
    options = {"max_new_tokens": 1, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    got = edited.generate(base, source=source, **options).logits[0]
    wanted = by_hand(model, "llama", base, source, [0, 2], [3, 1])[:, -1]
    torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-5)


def test_an_edit_before_the_scored_token_may_read_from_a_token_after_it() -> None:
    """The window that a plan computes holds every token from which an edit reads."""
    model, base = ARCHITECTURES["llama"](), runs("right")[0]
    reads = cr.Collect("base", cr.Site(0, positions=[4, 3]))
    learned = cr.LearnedSource(5, D_MODEL, init="random", reads=reads).double()
    edited = IntervenedModel(model, cr.InterventionGraph(edit=cr.Interchange(cr.Site(1, positions=[0, 1]), F, learned)))
    labels = base["input_ids"].clone()
    labels[:, :2], labels[:, 3:] = -100, -100
    data = Examples({"base": base | {"prompt_lengths": base["attention_mask"].sum(1)}}, labels)
    with torch.no_grad():
        full = FullPasses(edited, data).scored(torch.arange(3)).logits
        fast = plan_all([edited], data, check=False).scored(torch.arange(3))[0].logits
    torch.testing.assert_close(fast, full, rtol=1e-11, atol=1e-11)
