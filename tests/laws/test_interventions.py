"""Laws of whole interventions: featurizer x source x family, positions, padding and batch size drawn by hypothesis."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import causal_reft as cr
from causal_reft.errors import FeaturizerError, GraphError, PositionError
from tests.models import ARCHITECTURES, D_MODEL, N_LAYERS, at_real_tokens, blocks, prompts, same_prompts

D = D_MODEL
EXACT = {
    "gpt2": 1e-11,
    "llama": 3e-5,
    "neox": 3e-5,
}  # the rotary families round angles (and Llama its norms) to float32
POSITIONS = ["all", "first", "last", "f2+l2", -2, [0, 2], slice(1, None), "subject"]
lengths = st.lists(st.integers(4, 7), min_size=1, max_size=4)


@cache
def model(family: str) -> nn.Module:
    return ARCHITECTURES[family]()


def featurizers(seed: int) -> dict[str, cr.Featurizer]:
    generator = torch.Generator().manual_seed(seed)
    mask = cr.Mask(cr.Identity(D), temperature=1.0)
    mask.logits.data.normal_(generator=generator)
    features = cr.Autoencoder(torch.randn(D, 20, generator=generator), torch.randn(20, D, generator=generator) / 4)
    made = {
        "identity": cr.Identity(D),
        "subspace": cr.Subspace(D, 3, seed),
        "slice": cr.Subspace(D, 5, seed).split(a=2, b=3)["b"],
        "projection": cr.Projection(D, 3, seed),
        "mask": mask,
        "boundary": cr.Mask(cr.Subspace(D, D, seed)),
        "features": features,
    }
    return {name: F.double() for name, F in made.items()}


def sources(rank: int, seed: int) -> dict[str, Any]:
    learned, reads = (
        cr.LearnedSource(rank, D, init="random", seed=seed, reads=site).double()
        for site in (None, cr.Collect("base", cr.Site(0)))
    )
    return {
        "collect": cr.Collect("source"), "constant": cr.Constant(0.5), "noise": cr.Noise(1.0, seed), "learned": learned,
        "schematic": reads, "shift": cr.Shift(cr.Constant(0.5)), "shifted source": cr.Shift(cr.Collect("source")),
        "shifted learned": cr.Shift(learned),
    }  # fmt: skip


FEATURIZERS, SOURCES = list(featurizers(0)), list(sources(3, 0))


def graph(F: cr.Featurizer, source: Any, positions: Any, layer: int = 1) -> cr.InterventionGraph:
    if isinstance(source, cr.LearnedSource) and source.reads is not None:
        source.reads = cr.Collect("base", cr.Site(0, positions=positions))
    return cr.InterventionGraph(edit=cr.Interchange(cr.Site(layer, positions=positions), F, source))


def logits(intervened: cr.IntervenedModel, base: dict, source: dict, positions: Any) -> Tensor:
    spans = [[0], [2, 1], [3], [0, 1, 3]][: len(base["input_ids"])]
    more = {"spans": {"subject": spans}} if positions == "subject" else {}
    runs = {"source": {**source, **more}} if "source" in intervened.graph.runs else {}
    with torch.no_grad():
        return intervened({**base, **more}, **runs).logits


cases = {
    "family": st.sampled_from(list(ARCHITECTURES)),
    "positions": st.sampled_from(POSITIONS),
    "seed": st.integers(0, 99),
    "rows": lengths,
    "side": st.sampled_from(["left", "right"]),
}


@given(kind=st.sampled_from(FEATURIZERS), **cases)
@settings(max_examples=60)
def test_an_interchange_with_itself_is_the_identity(
    kind: str, family: str, positions: Any, seed: int, rows: list[int], side: str
) -> None:
    base = prompts(rows, side, seed)
    intervened = cr.IntervenedModel(model(family), graph(featurizers(seed)[kind], cr.Collect("source"), positions))
    got, plain = (
        logits(intervened, base, base, positions),
        logits(intervened.with_graph(cr.InterventionGraph()), base, base, positions),
    )
    torch.testing.assert_close(at_real_tokens(got, base), at_real_tokens(plain, base), rtol=0, atol=EXACT[family])


@given(**{k: v for k, v in cases.items() if k != "positions"}, layer=st.integers(0, N_LAYERS - 1))
@settings(max_examples=30)
def test_a_whole_swap_at_all_positions_is_the_source_run(
    family: str, seed: int, rows: list[int], side: str, layer: int
) -> None:
    base, source = prompts(rows, side, seed), prompts(rows, side, seed + 1)
    swap = cr.IntervenedModel(model(family), cr.patch(cr.Site(layer), D))
    plain = logits(swap.with_graph(cr.InterventionGraph()), source, source, "all")
    got = logits(swap, base, source, "all")
    torch.testing.assert_close(at_real_tokens(got, base), at_real_tokens(plain, base), rtol=0, atol=EXACT[family])


def after_the_edit(intervened: cr.IntervenedModel, family: str, base: dict, source: dict, positions: Any) -> Tensor:
    """What leaves the edited block, by a raw hook."""
    kept: list[Tensor] = []
    handle = blocks(model(family), family)[2].register_forward_pre_hook(
        lambda m, args, kwargs: kept.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    try:
        logits(intervened, base, source, positions)
    finally:
        handle.remove()
    return kept[-1]


@given(kind=st.sampled_from(FEATURIZERS), source_kind=st.sampled_from(SOURCES), **cases)
@settings(max_examples=120)
def test_positions_that_are_not_named_do_not_move(
    kind: str, source_kind: str, family: str, positions: Any, seed: int, rows: list[int], side: str
) -> None:
    base, source = prompts(rows, side, seed), prompts(rows, side, seed + 1)
    F = featurizers(seed)[kind]
    intervened = cr.IntervenedModel(model(family), graph(F, sources(F.rank, seed)[source_kind], positions))
    edited = after_the_edit(intervened, family, base, source, positions)
    plain = after_the_edit(intervened.with_graph(cr.InterventionGraph()), family, base, source, positions)
    for row, mask in enumerate(base["attention_mask"].tolist()):
        start, n = mask.index(1), sum(mask)
        named = {
            "all": range(n),
            "first": [0],
            "last": [n - 1],
            "f2+l2": [0, 1, n - 2, n - 1],
            "-2": [n - 2],
            "[0, 2]": [0, 2],
            "slice(1, None, None)": range(1, n),
            "subject": [[0], [2, 1], [3], [0, 1, 3]][row],
        }[str(positions)]
        rest = [c for c in range(len(mask)) if c - start not in named]
        assert torch.equal(edited[row, rest], plain[row, rest])
        if source_kind != "collect" and (kind != "features" or source_kind != "constant"):
            assert all((edited[row, start + t] != plain[row, start + t]).any() for t in named)


@given(kind=st.sampled_from(FEATURIZERS), source_kind=st.sampled_from(SOURCES), **cases, extra=st.integers(0, 2))
@settings(max_examples=120)
def test_batch_size_padding_side_and_room_change_nothing(
    kind: str, source_kind: str, family: str, positions: Any, seed: int, rows: list[int], side: str, extra: int
) -> None:
    base, source = prompts(rows, side, seed), prompts(rows, side, seed + 1)
    F = featurizers(seed)[kind]
    intervened = cr.IntervenedModel(model(family), graph(F, sources(F.rank, seed)[source_kind], positions))
    together = at_real_tokens(logits(intervened, base, source, positions), base)
    other = "left" if side == "right" else "right"
    moved, moved_source = same_prompts(base, other, extra), same_prompts(source, other)
    again = at_real_tokens(logits(intervened, moved, moved_source, positions), moved)
    torch.testing.assert_close(again, together, rtol=0, atol=EXACT[family])
    if positions != "subject":
        alone = []
        for row in range(len(rows)):
            one, its_source = ({k: v[[row]] for k, v in batch.items()} for batch in (base, source))
            alone.append(at_real_tokens(logits(intervened, one, its_source, positions), one))
        torch.testing.assert_close(torch.cat(alone), together, rtol=0, atol=EXACT[family])


@pytest.mark.parametrize("source_kind", SOURCES)
@pytest.mark.parametrize("kind", FEATURIZERS)
def test_half_precision_models_are_edited_in_single_and_stay_what_they_are(kind: str, source_kind: str) -> None:
    """A bf16 model gives bf16 logits; an edit at all its tokens equals the fp32 formula rounded once."""
    network = ARCHITECTURES["gpt2"](dtype=torch.bfloat16)
    F = featurizers(0)[kind].float()
    source = sources(F.rank, 0)[source_kind]
    whole = graph(F, source, "all") + cr.InterventionGraph(seen=cr.Collect("base", cr.Site(1)))
    whole.modules.float()
    base, other = prompts([5, 5], "none", 1), prompts([5, 5], "none", 2)
    intervened = cr.IntervenedModel(network, whole)
    runs = {"source": other} if "source" in whole.runs else {}
    output = intervened(base, **runs)
    assert output.logits.dtype == torch.bfloat16 == output.collected["seen"].dtype
    h = intervened.with_graph(whole.only("seen"))(base).collected["seen"]
    if source_kind == "constant":
        z = torch.full((*h.shape[:-1], F.rank), 0.5)
        assert torch.equal(output.collected["seen"], F.write(h, z))


def test_what_an_edit_cannot_take_is_refused_with_both_sides() -> None:
    """States of later sites, of another width, of other rows, of another number of tokens."""
    base, other = prompts([4, 5], "left"), prompts([5, 5, 5], "none")
    late = cr.LearnedSource(2, D, reads=cr.Collect("base", cr.Site(2)), init="random")
    ahead = cr.InterventionGraph(edit=cr.Interchange(cr.Site(1), cr.Subspace(D, 2), late))
    with pytest.raises(GraphError, match=r"'edit' at Site\(1.* reads Site\(2.* of run 'base', which comes later"):
        cr.IntervenedModel(model("gpt2"), ahead)(base)
    with pytest.raises(FeaturizerError, match=r"'edit': Site\(1.* is 16 wide .* Build it with d_model=16"):
        cr.IntervenedModel(model("gpt2"), cr.patch(cr.Site(1), 8))(base, source=base)
    with pytest.raises(PositionError, match="run 'source' has 3 rows and the edited run has 2"):
        cr.IntervenedModel(model("gpt2"), cr.patch(cr.Site(1, positions="last"), D))(base, source=other)
    with pytest.raises(PositionError, match=r"row 0 names 4 tokens at Site.* but 5 at Site.* pair one to one"):
        cr.IntervenedModel(model("gpt2"), cr.patch(cr.Site(1), D))(base, source=prompts([5, 5], "none"))
