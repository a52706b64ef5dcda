"""The method table: every row, on three families, padded on either side, at one, several and ragged positions, equals
its formula under raw torch hooks, forward and gradients, to 1e-12 in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import causal_reft as cr
from tests.laws.methods import EARLIER, LAYER, METHODS, D, Method
from tests.models import ARCHITECTURES, SIDES, at_real_tokens, blocks, prompts

BASE, SOURCE = (5, 7, 4), (6, 4, 5)
SPANS = {"base": [[1, 2], [0], [3, 1, 2]], "source": [[0, 4], [3], [1, 2, 3]]}
POSITIONS: dict[str, Any] = {"single": -2, "several": [0, 2, -1], "ragged": "subject"}
Cells = tuple[Tensor, Tensor, Tensor]


def cells(batch: dict[str, Tensor], where: str, run: str) -> Cells:
    """Rows, columns and ordinals of the tokens in the order in which they are named, counted by hand."""
    found = []
    for row, mask in enumerate(batch["attention_mask"].tolist()):
        start, length = mask.index(1), sum(mask)
        named = {"single": [length - 2], "several": [0, 2, length - 1], "ragged": SPANS[run][row]}[where]
        found += [(row, start + index, ordinal) for ordinal, index in enumerate(named)]
    rows, columns, ordinals = torch.tensor(found).T
    return rows, columns, ordinals


def hooked(
    model: nn.Module, batch: dict[str, Tensor], hooks: dict[nn.Module, Callable[[Tensor], Tensor | None]]
) -> Tensor:
    """The logits with a raw hook on some blocks; a hook returns the new hidden state or None."""

    def on(change: Callable[[Tensor], Tensor | None]) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            new = change(output if isinstance(output, Tensor) else output[0])
            return None if new is None else new if isinstance(output, Tensor) else (new, *output[1:])

        return hook

    handles = [block.register_forward_hook(on(change)) for block, change in hooks.items()]
    numbers = (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)
    logits = model(**batch, position_ids=numbers).logits
    for handle in handles:
        handle.remove()
    return logits


def written(h: Tensor, where: Cells, new: Tensor) -> Tensor:
    changed = h.clone()
    changed[where[0], where[1]] = new
    return changed


def states_at(model: nn.Module, batch: dict[str, Tensor], block: nn.Module, where: Cells) -> Tensor:
    kept: list[Tensor] = []
    hooked(model, batch, {block: lambda h: kept.append(h[where[0], where[1]])})
    return kept[0]


def reference(model: nn.Module, family: str, method: Method, base: dict, source: dict, where: str) -> Tensor:
    """Two hooked passes; one where the formula reads another layer of the base run itself."""
    layers, at_base = blocks(model, family), cells(base, where, "base")
    rows, columns, ordinals = at_base
    s: list[Tensor] = []
    reading: dict[nn.Module, Callable[[Tensor], Tensor | None]] = {}
    if method.reads is None:
        s.append(states_at(model, source, layers[LAYER], cells(source, where, "source")))
    else:
        reading[layers[method.reads]] = lambda h: s.append(h[rows, columns])
    edit = {layers[LAYER]: lambda h: written(h, at_base, method.formula(h[rows, columns], s[0], ordinals))}
    return hooked(model, base, {**reading, **edit})


def assert_equal(ours: Tensor, theirs: Tensor) -> None:
    scale = float(theirs.detach().abs().max().clamp_min(1))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12 * scale)


def gradients(logits: Tensor, leaves: list[Tensor]) -> tuple[Tensor, ...]:
    """Of a sum over all logits with unequal weights."""
    weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)
    return torch.autograd.grad((logits * weights).sum(), leaves)


def two_batches(side: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return prompts(BASE, side, seed=1), prompts(SOURCE, side, seed=2)


def call(model: cr.IntervenedModel, base: dict, source: dict, where: str) -> Tensor:
    spans = where == "ragged"
    base = {**base, "spans": {"subject": SPANS["base"]}} if spans else base
    source = {**source, "spans": {"subject": SPANS["source"]}} if spans else source
    return model(base, **({"source": source} if "source" in model.graph.runs else {})).logits


@pytest.mark.parametrize("where", POSITIONS)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("family", ARCHITECTURES)
@pytest.mark.parametrize("method", METHODS)
def test_a_row_of_the_method_table_equals_its_formula(method: str, family: str, side: str, where: str) -> None:
    model = ARCHITECTURES[family]()
    base, source = two_batches(side)
    row = METHODS[method](cr.Site(LAYER, positions=POSITIONS[where]))
    ours = at_real_tokens(call(cr.IntervenedModel(model, row.graph).train(row.training), base, source, where), base)
    theirs = at_real_tokens(reference(model, family, row, base, source, where), base)
    untouched = at_real_tokens(hooked(model, base, {}), base)

    assert (theirs - untouched).abs().max() > 1e-3, "the edit must matter, or this test could not fail"
    assert_equal(ours, theirs)
    assert {id(p) for p in row.leaves} <= {id(p) for p in row.graph.parameters()}
    leaves = [*row.leaves, model.get_input_embeddings().weight]
    for mine, plain in zip(gradients(ours, leaves), gradients(theirs, leaves), strict=True):
        assert plain.abs().max() > 1e-6, "no gradient, so nothing would be compared"
        assert_equal(mine, plain)


@pytest.mark.parametrize("where", POSITIONS)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_path_patching_equals_three_hooked_passes(family: str, side: str, where: str) -> None:
    """The source's state enters run `mid` early; only what then arrives at a later layer enters the base."""
    model = ARCHITECTURES[family]()
    base, source = two_batches(side)
    early, late = (cr.Site(layer, positions=POSITIONS[where]) for layer in (EARLIER, LAYER))
    graph = cr.path_patch(early, late, D)
    spans = {run: {"spans": {"subject": SPANS[run]}} if where == "ragged" else {} for run in ("base", "source")}
    intervened = cr.IntervenedModel(model, graph)
    ours = intervened(
        {**base, **spans["base"]}, mid={**base, **spans["base"]}, source={**source, **spans["source"]}
    ).logits

    first, second = blocks(model, family)[EARLIER], blocks(model, family)[LAYER]
    at_base, at_source = cells(base, where, "base"), cells(source, where, "source")
    sent = states_at(model, source, first, at_source)
    arrived: list[Tensor] = []
    hooked(
        model,
        base,
        {first: lambda h: written(h, at_base, sent), second: lambda h: arrived.append(h[at_base[0], at_base[1]])},
    )
    theirs = hooked(model, base, {second: lambda h: written(h, at_base, arrived[0])})
    ours, theirs = at_real_tokens(ours, base), at_real_tokens(theirs, base)
    assert_equal(ours, theirs)
    leaves = [model.get_input_embeddings().weight]
    assert_equal(*(gradients(logits, leaves)[0] for logits in (ours, theirs)))
