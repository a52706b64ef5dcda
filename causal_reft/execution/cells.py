"""A module that is computed at some cells (row, token) of a batch; at all others its output is known, or nobody's.

Projections and MLPs look at one token at a time, so this is exact wherever the rest of the output is not read, or was
recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import nn

from causal_reft.execution.threads import here_or_else
from causal_reft.tensors import Float, Int, Tensor

WORTH_IT = 0.75  # at a larger share of the cells, gathering and scattering cost more than they save

CAPTURING = "transformers.utils.output_capturing"

Elsewhere = Callable[[], Float[Tensor, "row pos width"]]  # a fresh tensor, which is written to


def worth_it(cells: int, of: int) -> bool:
    """Whether so many cells of so many are few enough to be computed alone."""
    return cells < WORTH_IT * of


@contextmanager
def only_at(modules: Iterable[nn.Module], rows: Int[Tensor, " cell"], columns: Int[Tensor, " cell"]) -> Iterator[None]:
    """For the time of a call the modules are given some cells of the batch, and leave zeros at all others."""
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(forward_is(module, partial(_at_cells, module.forward, rows, columns, None)))
        yield


@contextmanager
def known_but_at(
    module: nn.Module, rows: Int[Tensor, " cell"], columns: Int[Tensor, " cell"], elsewhere: Elsewhere
) -> Iterator[None]:
    """For the time of a call a module is given some cells of the batch; at all others it returns what is known."""
    with forward_is(module, partial(_at_cells, module.forward, rows, columns, elsewhere)):
        yield


@contextmanager
def forward_is(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """A module's forward is another one inside."""
    own = module.__dict__.get("forward")
    module.forward = here_or_else(forward, module.forward)
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


def hooked(module: nn.Module) -> bool:
    """Whether anybody's hook would see what flows in or out of a module or of one inside.

    Those of `output_hidden_states=True`, which stay for good after the first such call, see nothing until the next.
    """
    hooks = (
        hook
        for inner in module.modules()
        for hook in (*inner._forward_hooks.values(), *inner._forward_pre_hooks.values())
    )
    return any(getattr(hook, "__module__", "") != CAPTURING for hook in hooks)


def _at_cells(
    own: Callable[..., Any], rows: Tensor, columns: Tensor, elsewhere: Elsewhere | None, *args: Any, **kwargs: Any
) -> Any:
    """The module at some cells of (row, column, width); whatever it is given besides in that shape is cut alike.

    Whole where it is called in another way than with such a tensor first, or gives back another thing than a tensor.
    """
    hidden = args[0] if args else None
    if not isinstance(hidden, Tensor) or hidden.ndim != 3:
        return own(*args, **kwargs)

    def cut(value: Any) -> Any:
        alike = isinstance(value, Tensor) and value.shape[:2] == hidden.shape[:2]
        return value[rows, columns][None] if alike else value

    found = own(*map(cut, args), **{name: cut(value) for name, value in kwargs.items()})
    if not isinstance(found, Tensor):
        return own(*args, **kwargs)
    whole = found.new_zeros(*hidden.shape[:2], found.shape[-1]) if elsewhere is None else elsewhere()
    return whole.index_put_((rows, columns), found[0])
