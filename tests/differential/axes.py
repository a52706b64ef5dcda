"""Networks whose inner values lie in any order of axes, against a plain hook that knows the order."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn

import causal_reft as cr
from causal_reft.errors import PositionError

WIDTH, HEADS = 4, 2
Move = tuple[Callable[[Tensor], Tensor], Callable[[Tensor, int, int], Tensor], Callable[[Tensor, int, int], Tensor]]


def _cell(index: Callable[[int], tuple]) -> Callable[[Tensor, int, int], Tensor]:
    """The value with zeros at a token of every row."""

    def zeroed(h: Tensor, column: int, time: int) -> Tensor:
        h = h.clone()
        h[index(column)] = 0
        return h

    return zeroed


def _every(start: Callable[[Tensor, int, int], slice]) -> Callable[[Tensor, int, int], Tensor]:
    """The same where rows and tokens are one axis."""

    def zeroed(h: Tensor, column: int, time: int) -> Tensor:
        h = h.clone()
        h[start(h, column, time)] = 0
        return h

    return zeroed


ALL = slice(None)
# name: there from (batch, time, width), back, and a token of every row set to zero there
ORDERS: dict[str, Move] = {
    "batch time width": (lambda x: x, lambda h, b, t: h, _cell(lambda c: (ALL, c))),
    "time batch width": (
        lambda x: x.transpose(0, 1), lambda h, b, t: h.transpose(0, 1), _cell(lambda c: (c,)),
    ),
    "batch*time width": (
        lambda x: x.reshape(-1, WIDTH), lambda h, b, t: h.reshape(b, t, WIDTH),
        _every(lambda h, c, t: slice(c, None, t)),
    ),
    "time*batch width": (
        lambda x: x.transpose(0, 1).reshape(-1, WIDTH), lambda h, b, t: h.reshape(t, b, WIDTH).transpose(0, 1),
        _every(lambda h, c, t: slice(c * (len(h) // t), (c + 1) * (len(h) // t))),
    ),
    "batch time heads size": (
        lambda x: x.unflatten(-1, (HEADS, -1)), lambda h, b, t: h.flatten(-2), _cell(lambda c: (ALL, c)),
    ),
    "batch heads time size": (
        lambda x: x.unflatten(-1, (HEADS, -1)).transpose(1, 2), lambda h, b, t: h.transpose(1, 2).flatten(-2),
        _cell(lambda c: (ALL, ALL, c)),
    ),
    "heads batch time size": (
        lambda x: x.unflatten(-1, (HEADS, -1)).permute(2, 0, 1, 3), lambda h, b, t: h.permute(1, 2, 0, 3).flatten(-2),
        _cell(lambda c: (ALL, ALL, c)),
    ),
    "time batch heads size": (
        lambda x: x.unflatten(-1, (HEADS, -1)).transpose(0, 1), lambda h, b, t: h.transpose(0, 1).flatten(-2),
        _cell(lambda c: (c,)),
    ),
}  # fmt: skip


class Net(nn.Module):
    """Mixes along time, moves the axes, `inner`, and moves them back; with or without an embedding of tokens."""

    def __init__(self, order: str, text: bool, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.there, self.back, _ = ORDERS[order]
        self.embed = nn.Embedding(9, WIDTH) if text else nn.Identity()
        inside = WIDTH // HEADS if "heads" in order else WIDTH
        self.inner = nn.Sequential(nn.Linear(inside, inside), nn.Tanh())
        self.outer = nn.Linear(WIDTH, WIDTH)
        self.double()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.embed(input_ids)
        x = x + x.cumsum(1)
        batch, time = x.shape[:2]
        return self.outer(self.back(self.inner(self.there(x)), batch, time)).cumsum(1)


def another_order_of_axes(draw: random.Random) -> str:
    """The same output, or a refusal; never a refusal where the batch comes first and the text says what time is."""
    order, text = draw.choice(sorted(ORDERS)), draw.random() < 0.5
    batch, time, seed = draw.randint(2, 4), draw.randint(1, 4), draw.randrange(1000)
    column, port = draw.randrange(time), draw.choice(["input", "output"])
    model = Net(order, text, seed)
    x = torch.randint(0, 9, (batch, time)) if text else torch.randn(batch, time, WIDTH).double()
    given = {"input_ids": x} if text else x
    edit = cr.Interchange(cr.Site.at("inner", port=port, positions=column), cr.Identity(WIDTH), cr.Constant(0.0))
    try:
        found = cr.IntervenedModel(model, cr.InterventionGraph(edit=edit))(given)
    except PositionError:
        assert order != "batch time width", f"{order} refused: batch {batch}, time {time}, text {text}"
        return "refused"
    zeroed = ORDERS[order][2]
    hook = (
        model.inner.register_forward_hook(lambda module, args, output: zeroed(output, column, time))
        if port == "output"
        else model.inner.register_forward_pre_hook(lambda module, args: (zeroed(args[0], column, time),))
    )
    wanted = model(x)
    hook.remove()
    said = f"{order}, batch {batch}, time {time}, column {column}, text {text}, {port}"
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10, msg=said)
    return "equal"
