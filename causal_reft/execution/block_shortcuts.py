"""Parts of a forward that need not run at every token: they run at some cells (row, token) of the batch.

Projections and MLPs are token-local: their output at a token depends on their input at that token alone. So they are
computed at the cells where the output is used; elsewhere the output is cached or unused. A causal model, moreover,
needs no token after the last one that is collected. Collecting uses both here; the planner uses the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from causal_reft.errors import SiteError
from causal_reft.execution.inputs import Inputs
from causal_reft.execution.threads import here_or_else
from causal_reft.execution.visit import PortWork, Visit
from causal_reft.sites import UNNAMED, Blocks, find_blocks
from causal_reft.tensors import Bool, Float, Int, Tensor

WORTH_IT = 0.75  # at a larger share of the cells, gathering and scattering cost more than they save
OUTPUT_CAPTURING = "transformers.utils.output_capturing"
TEXT_ARGUMENTS = ("input_ids", "attention_mask", "position_ids", "token_type_ids", "labels")
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "torchao")  # their layers do what their names say
TOKEN_LOCAL = ("attention_query", "attention_output", "mlp_input", "mlp_output")

Cached = Callable[[], Float[Tensor, "row pos width"]]  # gives a fresh tensor, which is written to


def worth_it(cells: int, of: int) -> bool:
    """Whether `cells` of `of` are few enough to be computed separately."""
    return cells < WORTH_IT * of


@contextmanager
def computed_at(
    modules: Iterable[nn.Module],
    rows: Int[Tensor, " cell"],
    columns: Int[Tensor, " cell"],
    cached: Cached | None = None,
) -> Iterator[None]:
    """Inside, token-local modules compute these cells; elsewhere their output is `cached`, or zero where unused."""
    with ExitStack() as stack:
        for module in modules:
            forward = partial(_at_cells, module.forward, rows, columns, cached)
            stack.enter_context(replaced_forward(module, forward))
        yield


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Inside, and in this thread, a module has another forward."""
    own = module.__dict__.get("forward")
    module.forward = here_or_else(forward, module.forward)
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


def is_hooked(module: nn.Module) -> bool:
    """Whether a hook would see what flows in or out of a module or of one inside it.

    The hooks of `output_hidden_states=True`, which transformers leaves in place, do nothing in other calls.
    """
    hooks = (
        hook
        for inner in module.modules()
        for hook in (*inner._forward_hooks.values(), *inner._forward_pre_hooks.values())
    )
    return any(getattr(hook, "__module__", "") != OUTPUT_CAPTURING for hook in hooks)


def is_altered(module: nn.Module) -> bool:
    """Whether a module, or one inside it, runs other code than a library's, which may do anything with the tokens."""
    return any(
        "forward" in vars(inner) or type(inner).__module__.partition(".")[0] not in LIBRARIES
        for inner in module.modules()
    )


def directions(model: nn.Module) -> set[bool]:
    """The `is_causal` of a model's attention modules: {True} where no token attends to a later one."""
    return {
        bool(module.is_causal) for module in model.modules() if isinstance(getattr(module, "is_causal", None), bool)
    }


@contextmanager
def collecting(model: nn.Module, visit: Visit, inputs: Inputs) -> Iterator[Inputs]:
    """For a forward that stops at its deepest port: the part of the inputs that it needs.

    The inputs of a causal model end at the last token that a node names, unless later tokens could matter. Inside, the
    block of the deepest port runs after its attention only at the tokens that are named there. Of a model that somebody
    altered nothing is known, so it gets its inputs and runs as it is.
    """
    if is_altered(model):
        yield inputs
        return
    given = _until_last_named(visit, inputs) if directions(model) == {True} else inputs
    last = max((port.location.block for port in visit.work if port.location.block is not None), default=None)
    try:
        blocks = find_blocks(model)
    except SiteError:
        blocks = None
    if last is None or blocks is None or given.width is None or any(p.location.block is None for p in visit.work):
        yield given
        return
    cells = _named_cells(visit, [port for port in visit.work if port.location.block == last], given.width)
    modules = token_local_modules(blocks, last, visit.work) if worth_it(int(cells.sum()), cells.numel()) else ()
    device = next(blocks.modules.parameters()).device
    rows, columns = (index.to(device) for index in cells.nonzero(as_tuple=True))
    with computed_at(modules, rows, columns):
        yield given


def token_local_modules(blocks: Blocks, last: int, work: Sequence[PortWork]) -> tuple[nn.Module, ...]:
    """The queries, the attention's output projection and the MLP of a block; empty where a graph reads or a hook sees
    what is inside, or where its code is somebody else's.

    Args:
        blocks: the model's.
        last: a block after which only the tokens that are read matter.
        work: the ports of all graphs of a forward; modules around an edited port are left out.
    """
    ports, block = [port for port in work if port.location.block == last], blocks.modules[last]
    if any(port.reads for port in ports) or is_hooked(block) or is_altered(block):
        return ()
    components = blocks.row.components
    named = [components[name] for name in TOKEN_LOCAL if name in components]
    paths = [port.path for port in named if port.path and port.layout == "whole"]
    found: list[nn.Module] = []
    for module in map(block.get_submodule, dict.fromkeys(paths)):
        inner, is_inside = set(module.modules()), any(module in set(other.modules()) for other in found)
        if not is_inside and not any(port.location.module in inner for port in ports):
            found.append(module)
    return tuple(found)


def _until_last_named(visit: Visit, inputs: Inputs) -> Inputs:
    if inputs.mask is None or set(inputs.kwargs) - set(TEXT_ARGUMENTS):
        return inputs
    text = inputs.mask.shape[1]
    named = _named_cells(visit, visit.work, text).any(0)
    stop = int(named.nonzero().max()) + 1 if bool(named.any()) else text
    stop = min(max(stop, 2), text)  # with one token, values that lie token by token would look like one for each row
    visit.frame.seen = stop
    return inputs.with_kwargs(**{key: value[:, :stop] for key, value in inputs.kwargs.items() if value is not None})


def _named_cells(visit: Visit, work: Sequence[PortWork], width: int) -> Bool[Tensor, "batch pos"]:
    """The first `width` columns of the texts, true where a node of these ports names a token."""
    named = torch.zeros(visit.frame.inputs.batch, width, dtype=torch.bool)
    edited = [node.site for port in work for _, node, _ in port.edits]
    seen = [site for port in work for site, _ in (*port.reads, *port.collects)]
    for where in dict.fromkeys(site.where for site in (*edited, *seen)):
        named |= (visit.frame.mentions(where, width, width)[:, :width] != UNNAMED).cpu()
    return named


def _at_cells(
    own: Callable[..., Any], rows: Tensor, columns: Tensor, cached: Cached | None, *args: Any, **kwargs: Any
) -> Any:
    """The module at some cells of its first argument (row, column, width), with other arguments of that shape cut
    alike.

    It runs whole where it is called in another way, or returns anything but a tensor.
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
    whole = found.new_zeros(*hidden.shape[:2], found.shape[-1]) if cached is None else cached()
    return whole.index_put_((rows, columns), found[0])
