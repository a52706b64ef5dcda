"""Behind the last attention tokens no longer meet: the rest of the last block is computed at the read tokens alone.

The output projection of the attention and the MLP, two thirds of a block, are given the cells that the loss reads and
leave zeros at all others, which nobody reads: behind them come sums, norms and the head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import nn

from causal_reft.execution.decoder import Decoder
from causal_reft.execution.visit import PortWork
from causal_reft.tensors import Int, Tensor

WORTH_IT = 0.75  # reading a larger share of the cells, gathering and scattering cost more than they save


def alone_modules(decoder: Decoder, work: Sequence[PortWork]) -> tuple[nn.Module, ...]:
    """Modules of the last block behind its attention in which no graph does or reads anything.

    Args:
        decoder: the model.
        work: the ports of all graphs of a joint forward.
    """
    last = decoder.n_blocks - 1
    ports = [port for port in work if port.location.block == last]
    if any(port.reads for port in ports):
        return ()
    components, block = decoder.blocks.row.components, decoder.blocks.modules[last]
    named = [components[name].path for name in ("attention_output", "mlp_input", "mlp_output") if name in components]
    found: list[nn.Module] = []
    for module in map(block.get_submodule, dict.fromkeys(named)):
        inner, is_inside = set(module.modules()), any(module in set(other.modules()) for other in found)
        if not is_inside and not any(port.location.module in inner for port in ports):
            found.append(module)
    return tuple(found)


@contextmanager
def only_at(modules: Iterable[nn.Module], rows: Int[Tensor, " cell"], columns: Int[Tensor, " cell"]) -> Iterator[None]:
    """For the time of a call the modules are given some cells of the batch, and leave zeros at all others."""
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(forward_is(module, partial(_at_cells, module.forward, rows, columns)))
        yield


@contextmanager
def forward_is(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """A module's forward is another one inside."""
    own = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


def _at_cells(own: Callable[..., Any], rows: Tensor, columns: Tensor, hidden: Tensor, *args: Any) -> Any:
    """The module at some cells of (row, column, width); other arguments of that shape (a residual) are cut alike."""
    if hidden.ndim != 3:
        return own(hidden, *args)
    cut = [a[rows, columns][None] if isinstance(a, Tensor) and a.shape[:2] == hidden.shape[:2] else a for a in args]
    found = own(hidden[rows, columns][None], *cut)
    if not isinstance(found, Tensor):
        return own(hidden, *args)
    whole = found.new_zeros(*hidden.shape[:2], found.shape[-1])
    return whole.index_put((rows, columns), found[0])
