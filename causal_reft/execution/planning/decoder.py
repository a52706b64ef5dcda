"""What the fast path must know of a causal decoder, read off the model itself: its blocks, its head, what its forward
takes."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from torch import nn

from causal_reft.errors import SiteError
from causal_reft.execution.backend import offloaded
from causal_reft.execution.cut import TEXT_ARGUMENTS, directions
from causal_reft.execution.kernels import chains
from causal_reft.sites import Blocks, Location, find_blocks


@dataclass(frozen=True)
class Decoder:
    """A causal language model that can be entered at any block.

    `chains`: its activations that one kernel computes. `prefix_refused`: why keys and values of earlier tokens cannot
    be kept; empty where they can.
    """

    model: nn.Module
    blocks: Blocks
    head: nn.Module
    takes_positions: bool
    chains: tuple[nn.Module, ...] = ()
    prefix_refused: str = ""

    @property
    def n_blocks(self) -> int:
        """How many blocks there are."""
        return len(self.blocks.modules)

    def entry(self, location: Location) -> int | None:
        """The deepest block whose output is the same whatever is edited at a location: -1 for the embeddings, `None`
        if unknown.

        The edit of a block's own output still happens on that output.
        """
        if location.block is None:
            return self.n_blocks - 1 if self._is_behind(location.path) else None
        at_output = location.path == f"{self.blocks.path}.{location.block}" and location.port == "output"
        return location.block if at_output else location.block - 1

    def mixes_tokens(self, location: Location) -> bool:
        """Whether an edit at a token of this location can reach other tokens."""
        if location.block is None:
            return not self._is_behind(location.path)
        if location.block < self.n_blocks - 1:
            return True
        return not (self.entry(location) == location.block or location.part in ALONE)

    def _is_behind(self, path: str) -> bool:
        last_norm = self.blocks.row.components.get("final_norm")
        return last_norm is not None and path == f"{self.blocks.parent}.{last_norm.path[2:]}".lstrip(".")


ALONE = (
    "block_output",
    "attention_output",
    "attention_head_output",
    "attention_query",
    "mlp_input",
    "mlp_activation",
    "mlp_output",
)


def find_decoder(model: nn.Module, arguments: frozenset[str]) -> Decoder | str:
    """The decoder in a model, or the reason why it is not one that can be entered in the middle.

    Args:
        model: the base model.
        arguments: the keyword arguments that the base run gives it.
    """
    try:
        blocks = find_blocks(model)
    except SiteError:
        return "the model has no block list in the architecture table"
    config: Any = model.config
    generates = getattr(model, "can_generate", None)
    if (
        getattr(config, "is_encoder_decoder", False)
        or not (callable(generates) and generates())
        or False in directions(model)
    ):
        return "the model is not a causal language model"
    head = model.get_output_embeddings()  # type: ignore[operator]
    if not isinstance(head, nn.Module):
        return "the model has no output embeddings"
    if extra := sorted(arguments - set(TEXT_ARGUMENTS)):
        return f"the base run gives the model {', '.join(extra)}"
    if offloaded(model):
        return "accelerate moves the weights around each forward"
    takes = inspect.signature(model.forward).parameters
    takes_positions = blocks.row.counts_positions and "position_ids" in takes
    return Decoder(model, blocks, head, takes_positions, chains(model), _prefix_refused(model, takes))


def _prefix_refused(model: Any, takes: Any) -> str:
    if "past_key_values" not in takes:
        return "its forward takes no past_key_values"
    if getattr(model, "_is_stateful", False):
        return "it keeps a state that is not keys and values"
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ()) - {
        "full_attention",
        "sliding_attention",
        "chunked_attention",
    }
    return f"it has layers of kind {', '.join(sorted(kinds))}" if kinds else ""
