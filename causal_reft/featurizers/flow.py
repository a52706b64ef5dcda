"""An invertible non-linear map f of the whole space; its first `rank` outputs are the coordinates. A capacity control.

    read(h) = f(h)[:rank]        write(h, z) = f^-1(z, f(h)[rank:])        f = coupling layers after a rotation

Each coupling layer adds to one half of the features a small network of the other half, so its inverse is exact whatever
the network (RevNet; Gomez et al. 2017, arXiv 1707.04585). All three lens laws hold. With such maps almost any
algorithm aligns with almost any network, a random one included (Sutter et al. 2025): it shows what capacity alone buys.
"""

from __future__ import annotations

import warnings

import torch
from torch import nn

from causal_reft.errors import CausalReftWarning
from causal_reft.featurizers.featurizer import Featurizer, check_rank, computing
from causal_reft.featurizers.orthonormal import Rotation
from causal_reft.seeds import derive
from causal_reft.tensors import Coordinates, Hidden


class Flow(Featurizer):
    """A trainable bijection of R^d_model, started at a random rotation; `rank` of its outputs are read and written.

    Args:
        d_model: width of the hidden states, at least 2.
        rank: number of coordinates.
        n_layers: coupling layers.
        width: hidden units of each coupling network; `2 * d_model` by default.
        seed: of the random start.

    Warns:
        CausalReftWarning: always: a high score of such a map is no evidence.
    """

    def __init__(self, d_model: int, rank: int, n_layers: int = 4, width: int | None = None, seed: int = 0) -> None:
        super().__init__()
        check_rank(rank, d_model, "Flow")
        warnings.warn(
            f"Flow(d_model={d_model}, rank={rank}) is an unrestricted non-linear map: it can align almost any algorithm "
            f"with almost any network. Use it to see what capacity alone buys, beside the same map on a random network.",
            CausalReftWarning,
            stacklevel=2,
        )
        self.d_model, self.rank, self.n_layers, self.seed = d_model, rank, n_layers, seed
        self.width = width or 2 * d_model
        self.rotation = Rotation.random(d_model, d_model, seed)
        self.half = d_model // 2
        generator = torch.Generator().manual_seed(derive(seed, "flow"))
        self.couplings = nn.ModuleList(
            _Coupling(*((self.half, d_model - self.half)[:: 1 if layer % 2 else -1]), self.width, generator)
            for layer in range(n_layers)
        )

    def read(self, h: Hidden) -> Coordinates:
        return self._outputs(h)[..., : self.rank]

    def write(self, h: Hidden, z: Coordinates) -> Hidden:
        outputs = self._outputs(h)
        new = torch.cat([z.to(outputs.dtype), outputs[..., self.rank :]], dim=-1)
        return self._inputs(new).to(h.dtype)

    def config(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in ("d_model", "rank", "n_layers", "width", "seed")}

    def _outputs(self, h: Hidden) -> Hidden:
        """f(h)."""
        dtype = computing(h, self.rotation.master)
        halves = list((h.to(dtype) @ self.rotation.rows(dtype).mT).split([self.half, self.d_model - self.half], dim=-1))
        for layer, coupling in enumerate(self.couplings):
            halves[layer % 2] = halves[layer % 2] + coupling(halves[1 - layer % 2])
        return torch.cat(halves, dim=-1)

    def _inputs(self, outputs: Hidden) -> Hidden:
        """f^-1(outputs)."""
        halves = list(outputs.split([self.half, self.d_model - self.half], dim=-1))
        for layer, coupling in reversed(list(enumerate(self.couplings))):
            halves[layer % 2] = halves[layer % 2] - coupling(halves[1 - layer % 2])
        return torch.cat(halves, dim=-1) @ self.rotation.rows(outputs.dtype)


class _Coupling(nn.Module):
    """tanh network from one half to the other; its last layer starts at zero, so the flow starts as a rotation."""

    def __init__(self, d_in: int, d_out: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.into = nn.Parameter(torch.randn(width, d_in, generator=generator) / max(d_in, 1) ** 0.5)
        self.offset = nn.Parameter(torch.zeros(width))
        self.out = nn.Parameter(torch.zeros(d_out, width))

    def forward(self, x: Hidden) -> Hidden:
        into, offset, out = (p.to(x.dtype) for p in (self.into, self.offset, self.out))
        return torch.tanh(x @ into.mT + offset) @ out.mT
