"""In the last block a token gives others its key and its value: all else is computed at the read tokens alone.

The queries, the output projection of the attention and the MLP, three quarters of a block, are given the cells that are
read (by the loss, or by the nodes that collect there) and leave zeros at all others: behind them come sums, norms and
the head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from causal_reft.execution.cells import hooked, only_at, worth_it
from causal_reft.execution.cut import named_cells
from causal_reft.execution.visit import PortWork, Visit
from causal_reft.sites import Blocks

FOR_ITSELF = ("attention_query", "attention_output", "mlp_input", "mlp_output")


def alone_modules(blocks: Blocks, last: int, work: Sequence[PortWork]) -> tuple[nn.Module, ...]:
    """Modules of the last block whose output serves its own token alone, and in which no graph does or reads anything.

    None where a hook of somebody else in that block could see the zeros.

    Args:
        blocks: the model's.
        last: the block behind which only tokens of their own matter.
        work: the ports of all graphs of a forward.
    """
    ports, block = [port for port in work if port.location.block == last], blocks.modules[last]
    if any(port.reads for port in ports) or hooked(block):
        return ()
    components = blocks.row.components
    named = [components[name] for name in FOR_ITSELF if name in components]
    paths = [port.path for port in named if port.path and port.layout == "whole"]
    found: list[nn.Module] = []
    for module in map(block.get_submodule, dict.fromkeys(paths)):
        inner, is_inside = set(module.modules()), any(module in set(other.modules()) for other in found)
        if not is_inside and not any(port.location.module in inner for port in ports):
            found.append(module)
    return tuple(found)


@contextmanager
def finishing_at_reads(visit: Visit, blocks: Blocks | None, width: int | None) -> Iterator[None]:
    """For a forward that is left at its deepest port: the end of that port's block at the tokens named there alone."""
    deepest = {port.location.block for port in visit.work}
    last = max((block for block in deepest if block is not None), default=None)
    if last is None or None in deepest or blocks is None or width is None:
        yield
        return
    cells = named_cells(visit, [port for port in visit.work if port.location.block == last], width)
    modules = alone_modules(blocks, last, visit.work) if worth_it(int(cells.sum()), cells.numel()) else ()
    device = next(blocks.modules.parameters()).device
    rows, columns = (index.to(device) for index in cells.nonzero(as_tuple=True))
    with only_at(modules, rows, columns):
        yield
