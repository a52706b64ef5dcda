"""Forwards with masks of any kind and shape, against plain hooks at the columns that the mask calls real."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import causal_reft as cr
from causal_reft.errors import CausalReftError
from tests.differential.generating import model_of
from tests.models import ARCHITECTURES, BLOCKS, D_MODEL, VOCABULARY

Columns = Callable[[list[int]], list[int]]
PLACES: dict[Any, Columns] = {
    "last": lambda real: real[-1:],
    "f1+l1": lambda real: sorted({*real[:1], *real[-1:]}),
    "l2": lambda real: real[-2:],
    0: lambda real: real[:1],
    -2: lambda real: [real[-2]],
    "all": lambda real: real,
}


def a_mask(draw: random.Random, rows: int, width: int) -> Tensor | None:
    """Padded on either side, holed, of another kind, or of a shape that does not fit."""
    columns = torch.arange(width)
    left, right = (torch.tensor([draw.randint(0, width - 1) for _ in range(rows)])[:, None] for _ in range(2))
    real = draw.choice([columns >= left, columns < width - right, (columns >= left) & (columns < width - right)])
    mask = real.long()
    shapes: list[Callable[[], Tensor | None]] = [
        lambda: mask,
        lambda: mask,
        lambda: mask.bool(),
        lambda: mask.double(),
        lambda: mask.int(),
        lambda: None,
        lambda: mask[:1],
        lambda: mask[:, :-1],
        lambda: mask[:, :1],
        lambda: mask[0],
        lambda: mask[:, None],
        lambda: mask[:, None, None],
        lambda: torch.cat([mask, mask]),
        lambda: torch.cat([mask, mask[:, :1]], 1),
        lambda: mask.T,
        lambda: mask * 2,
        lambda: torch.where(torch.rand(mask.shape) < 0.3, 0, mask),
    ]
    return draw.choice(shapes)()


def masks_of_any_shape(draw: random.Random) -> str:
    """The same logits at every real token, or a refusal."""
    torch.manual_seed(draw.randrange(1000))
    family, layer, where = draw.choice(sorted(ARCHITECTURES)), draw.randrange(3), draw.choice(list(PLACES))
    model, rows, width = model_of(family), draw.randint(1, 4), draw.randint(2, 6)
    ids, mask = torch.randint(3, VOCABULARY, (rows, width)), a_mask(draw, rows, width)
    v = torch.randn(D_MODEL).double()
    edit = cr.Interchange(cr.Site(layer, positions=where), cr.Identity(D_MODEL), cr.Shift(cr.Constant(v)))
    seen = cr.Collect("base", cr.Site(2, positions=where))
    reft = cr.IntervenedModel(model, cr.InterventionGraph(edit=edit, seen=seen))
    given = {"input_ids": ids} | ({} if mask is None else {"attention_mask": mask})
    try:
        found = reft(given)
    except CausalReftError:
        return "refused"

    real = torch.ones_like(ids) if mask is None else mask.expand(ids.shape)
    columns = [PLACES[where](row.nonzero().flatten().tolist()) for row in real]
    states: list[Tensor] = []

    def hook(module: Any, args: Any, output: Any) -> Any:
        h = (output[0] if isinstance(output, tuple) else output).clone()
        for row, named in enumerate(columns):
            h[row, named] += v
        return (h, *output[1:]) if isinstance(output, tuple) else h

    def look(module: Any, args: Any, output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    blocks: Any = model.get_submodule(BLOCKS[family])
    handles = [blocks[layer].register_forward_hook(hook), blocks[2].register_forward_hook(look)]
    numbers = (real.long().cumsum(1) - 1).clamp_min(0)
    positions = {"position_ids": numbers} if bool((real[:, 0] == 0).any()) else {}
    wanted = model(**given, **positions).logits
    for handle in handles:
        handle.remove()
    said = f"{family} {edit!r} {mask}"
    torch.testing.assert_close(found.logits[real != 0], wanted[real != 0], rtol=1e-10, atol=1e-10, msg=said)
    for row, named in enumerate(columns):
        mine = found.collected["seen"][row, : len(named)]
        torch.testing.assert_close(mine, states[0][row, named], rtol=1e-10, atol=1e-10, msg=said)
    return "equal"
