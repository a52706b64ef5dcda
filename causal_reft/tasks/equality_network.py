"""The network of the hierarchical-equality experiment: three hidden layers of 16 ReLU units and two classes.

Its hidden states are module outputs ("blocks.0", "blocks.1", "blocks.2"), so an intervention names them as sites. The
paper (Geiger et al. 2023) trains it on 1,048,576 balanced examples; `train_network()` gets there in seconds with fresh
examples in every step, a larger learning rate and a cosine decay, and `PAPER` is the paper's own protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from causal_reft.seeds import derive
from causal_reft.tasks.equality import VECTOR_SIZE, equality_examples
from causal_reft.tensors import Float

PAPER: Mapping[str, float] = MappingProxyType(
    {"steps": 1024 * 3, "batch_size": 1024, "learning_rate": 1e-3, "decay": False, "examples": 1_048_576}
)


class Block(nn.Module):
    """A linear layer and a ReLU; its output is a hidden state."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(d_in, d_out)

    def forward(self, hidden: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        return torch.relu(self.linear(hidden))


class EqualityNetwork(nn.Module):
    """(w, x, y, z) side by side -> logits of (w = x) = (y = z): class 1 is "the same"."""

    def __init__(self, width: int = 16, n_layers: int = 3, d_in: int = 4 * VECTOR_SIZE, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "equality network"))
            self.blocks = nn.ModuleList([Block(width if i else d_in, width) for i in range(n_layers)])
            self.head = nn.Linear(width, 2)

    def forward(self, inputs: Float[Tensor, "... d_in"]) -> Float[Tensor, "... 2"]:
        hidden = inputs
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden)
