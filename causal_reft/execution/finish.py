"""Behind the last attention tokens no longer meet: the rest of the last block is computed at the read tokens alone.

The output projection of the attention and the MLP, two thirds of a block, are given the cells that are read (by the
loss, or by the nodes that collect there) and leave zeros at all others: behind them come sums, norms and the head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import nn

from causal_reft.errors import SiteError
from causal_reft.execution.cut import named_cells
from causal_reft.execution.visit import PortWork, Visit
from causal_reft.sites import Blocks, find_blocks
from causal_reft.tensors import Int, Tensor

BEHIND_ATTENTION = ("attention_output", "mlp_input", "mlp_output")
WORTH_IT = 0.75  # reading a larger share of the cells, gathering and scattering cost more than they save


def alone_modules(blocks: Blocks, last: int, work: Sequence[PortWork]) -> tuple[nn.Module, ...]:
    """Modules of the last block behind its attention in which no graph does or reads anything.

    Args:
        blocks: the model's.
        last: the block behind which only tokens of their own matter.
        work: the ports of all graphs of a forward.
    """
    ports = [port for port in work if port.location.block == last]
    if any(port.reads for port in ports):
        return ()
    components, block = blocks.row.components, blocks.modules[last]
    named = [components[name].path for name in BEHIND_ATTENTION if name in components and components[name].path]
    found: list[nn.Module] = []
    for module in map(block.get_submodule, dict.fromkeys(named)):
        inner, is_inside = set(module.modules()), any(module in set(other.modules()) for other in found)
        if not is_inside and not any(port.location.module in inner for port in ports):
            found.append(module)
    return tuple(found)


@contextmanager
def finishing_at_reads(visit: Visit, model: nn.Module, width: int | None) -> Iterator[None]:
    """For a forward that is left at its deepest port: the end of that port's block at the tokens named there alone.

    Not where hooks of somebody else could see the zeros.
    """
    deepest = {port.location.block for port in visit.work}
    last = max((block for block in deepest if block is not None), default=None)
    if last is None or None in deepest or width is None or any(port.location.stack for port in visit.work):
        yield
        return
    try:
        blocks = find_blocks(model)
    except SiteError:
        yield
        return
    cells = named_cells(visit, [port for port in visit.work if port.location.block == last], width)
    modules = alone_modules(blocks, last, visit.work) if float(cells.float().mean()) < WORTH_IT else ()
    if any(inner._forward_hooks or inner._forward_pre_hooks for module in modules for inner in module.modules()):
        modules = ()
    device = next(model.parameters()).device
    rows, columns = (index.to(device) for index in cells.nonzero(as_tuple=True))
    with only_at(modules, rows, columns):
        yield


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


def _at_cells(own: Callable[..., Any], rows: Tensor, columns: Tensor, *args: Any, **kwargs: Any) -> Any:
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
    whole = found.new_zeros(*hidden.shape[:2], found.shape[-1])
    return whole.index_put((rows, columns), found[0])
