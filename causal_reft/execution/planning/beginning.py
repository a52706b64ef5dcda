"""The first block that runs for a graph: in front of its attention, a token that no edit touched is what it was.

Queries, keys and values of such tokens are recorded with the base run; those of edited tokens alone are computed.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from causal_reft.execution.cells import hooked
from causal_reft.execution.planning.decoder import Decoder
from causal_reft.execution.planning.members import Member
from causal_reft.execution.planning.window import Windows

IN_FRONT_OF_ATTENTION = ("attention_query", "attention_key", "attention_value")
FEW = 8.0  # untouched tokens a row below which recording and scattering cost as much as they save


def known_at_entry(
    decoder: Decoder, member: Member, windows: Windows, alone: Collection[nn.Module]
) -> tuple[tuple[int, str], ...]:
    """(block, path inside it) of the projections whose output is worth recording for a graph.

    Args:
        decoder: the model.
        member: the graph.
        windows: the tokens of every row that are computed.
        alone: modules that are computed at the read tokens only, which is less still.
    """
    block = member.entry + 1
    if block >= decoder.n_blocks:
        return ()
    untouched = windows.stop - windows.start - member.touched.counts
    if float(untouched.to(torch.float64).mean()) < FEW:
        return ()
    components, inside = decoder.blocks.row.components, decoder.blocks.modules[block]
    ports = [components[name] for name in IN_FRONT_OF_ATTENTION if name in components]
    paths = dict.fromkeys(port.path for port in ports if port.path and port.port == "output")
    modules = {path: inside.get_submodule(path) for path in paths}
    return tuple((block, path) for path, module in modules.items() if module not in alone and not hooked(module))
