"""The network of the hierarchical-equality experiment: three hidden layers of 16 ReLU units and two classes.

Its hidden states are module outputs ("blocks.0", "blocks.1", "blocks.2"), so an intervention names them as sites. The
default recipe draws fresh examples in every step and solves the task in about a second; `PAPER` is the protocol of
Geiger et al. 2023: 1,048,576 examples, batches of 1,024, Adam with a constant 1e-3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from causal_reft.seeds import derive
from causal_reft.tasks.equality import SLOTS, VECTOR_SIZE, equality_examples
from causal_reft.tensors import Float


@dataclass(frozen=True)
class Recipe:
    """How to train: `n_examples` drawn once and passed over `epochs` times, or fresh ones in every step (epochs=1)."""

    n_examples: int = 2000 * 512
    epochs: int = 1
    batch_size: int = 512
    learning_rate: float = 1e-2
    decay: bool = True


QUICK = Recipe()
PAPER = Recipe(n_examples=1_048_576, epochs=10, batch_size=1024, learning_rate=1e-3, decay=False)


class Block(nn.Module):
    """A linear layer and a ReLU; its output is a hidden state."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(d_in, d_out)

    def forward(self, hidden: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        return torch.relu(self.linear(hidden))


class EqualityNetwork(nn.Module):
    """(w, x, y, z) side by side -> two logits; class 1 says that (w = x) and (y = z) are the same."""

    def __init__(self, width: int = 16, n_layers: int = 3, seed: int = 0) -> None:
        super().__init__()
        self.width, self.n_layers = width, n_layers
        d_in = len(SLOTS) * VECTOR_SIZE
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "equality network"))
            self.blocks = nn.ModuleList([Block(width if layer else d_in, width) for layer in range(n_layers)])
            self.head = nn.Linear(width, 2)

    def forward(self, inputs: Float[Tensor, "... d_in"]) -> Float[Tensor, "... classes"]:
        hidden = inputs
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden)


@dataclass(frozen=True)
class TrainedNetwork:
    """A trained network and its accuracy on examples that it did not see."""

    network: EqualityNetwork
    accuracy: float
    seed: int


def train_network(seed: int, recipe: Recipe = QUICK, width: int = 16, n_layers: int = 3) -> TrainedNetwork:
    """Train one network; the seed gives initial weights, data and order by separate streams."""
    network = EqualityNetwork(width, n_layers, seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate)
    inputs, labels = equality_examples(recipe.n_examples, derive(seed, "train"))
    steps = recipe.epochs * -(-len(inputs) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps) if recipe.decay else None
    for rows in _batches(len(inputs), recipe, seed):
        loss = nn.functional.cross_entropy(network(inputs[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()
    return TrainedNetwork(network, accuracy(network, *equality_examples(10_000, derive(seed, "test"))), seed)


def accuracy(network: nn.Module, inputs: Float[Tensor, "n d_in"], labels: Tensor) -> float:
    """The share of examples whose larger logit is the right class."""
    with torch.no_grad():
        return float((network(inputs).argmax(dim=-1) == labels).double().mean())


def _batches(n: int, recipe: Recipe, seed: int) -> list[Tensor]:
    order = torch.Generator().manual_seed(derive(seed, "order"))
    epochs = [torch.randperm(n, generator=order) for _ in range(recipe.epochs)]
    return [rows for epoch in epochs for rows in epoch.split(recipe.batch_size)]
