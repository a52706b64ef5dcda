"""A pass that only collects from a causal text model needs no token behind the last one that anybody reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from causal_reft.execution.inputs import Inputs
from causal_reft.execution.visit import PortWork, Visit
from causal_reft.sites import UNNAMED
from causal_reft.tensors import Bool, Tensor

TEXT_ARGUMENTS = ("input_ids", "attention_mask", "position_ids", "token_type_ids", "labels")


def directions(model: nn.Module) -> set[bool]:
    """What the attention modules of a model say of themselves: {True} where all of them look only back."""
    return {
        bool(module.is_causal) for module in model.modules() if isinstance(getattr(module, "is_causal", None), bool)
    }


def cut_behind_reads(visit: Visit, inputs: Inputs) -> Inputs:
    """For a model that looks only back: the inputs up to the last token that the visit names; the whole inputs where
    later tokens could matter."""
    if inputs.mask is None or set(inputs.kwargs) - set(TEXT_ARGUMENTS):
        return inputs
    text = inputs.mask.shape[1]
    named = named_cells(visit, visit.work, text).any(0)
    stop = int(named.nonzero().max()) + 1 if bool(named.any()) else text
    stop = min(max(stop, 2), text)  # with one token, values that lie token by token would look like one for each row
    visit.frame.seen = stop
    return inputs.with_kwargs(**{key: value[:, :stop] for key, value in inputs.kwargs.items() if value is not None})


def named_cells(visit: Visit, work: Sequence[PortWork], width: int) -> Bool[Tensor, "batch pos"]:
    """The first `width` columns of the texts, true where a node of these ports names a token."""
    named = torch.zeros(visit.frame.inputs.batch, width, dtype=torch.bool)
    edited = [node.site for port in work for _, node, _ in port.edits]
    seen = [site for port in work for site, _ in (*port.reads, *port.collects)]
    for where in dict.fromkeys(site.where for site in (*edited, *seen)):
        named |= (visit.frame.mentions(where, width, width)[:, :width] != UNNAMED).cpu()
    return named
