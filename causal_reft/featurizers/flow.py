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
from causal_reft.featurizers.orthonormal import orthonormal_rows, random_frames
from causal_reft.seeds import derive
from causal_reft.tensors import Coordinates, Float, Hidden, Rows, Tensor


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
            f"Flow(d_model={d_model}, rank={rank}) is an unrestricted non-linear map: it can align almost any "
            "algorithm with almost any network. Use it to see what capacity alone buys, beside the same map on a "
            "random network.",
            CausalReftWarning,
            stacklevel=2,
        )
        self.d_model, self.rank, self.n_layers, self.seed = d_model, rank, n_layers, seed
        self.width = width or 2 * d_model
        self.n_first = d_model // 2
        generator = torch.Generator().manual_seed(derive(seed, "flow"))
        self.master = nn.Parameter(random_frames(1, d_model, d_model, seed)[0])
        for layer in range(n_layers):
            d_in, d_out = self._widths(layer)
            self.register_parameter(
                f"into{layer}", nn.Parameter(torch.randn(self.width, d_in, generator=generator) / max(d_in, 1) ** 0.5)
            )
            self.register_parameter(f"offset{layer}", nn.Parameter(torch.zeros(self.width)))
            self.register_parameter(f"out{layer}", nn.Parameter(torch.zeros(d_out, self.width)))

    def read(self, h: Hidden) -> Coordinates:
        return self._outputs(h)[..., : self.rank]

    def write(self, h: Hidden, z: Coordinates) -> Hidden:
        outputs = self._outputs(h)
        new = torch.cat([z.to(outputs.dtype), outputs[..., self.rank :]], dim=-1)
        return self._inputs(new).to(h.dtype)

    def config(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in ("d_model", "rank", "n_layers", "width", "seed")}

    def _widths(self, layer: int) -> tuple[int, int]:
        """Features that a coupling reads and adds to; even layers add to the first half."""
        return (self.n_first, self.d_model - self.n_first) if layer % 2 else (self.d_model - self.n_first, self.n_first)

    def _rotation(self, dtype: torch.dtype) -> Rows:
        return orthonormal_rows(self.master.to(dtype))

    def _outputs(self, h: Hidden) -> Hidden:
        """f(h)."""
        dtype = computing(h, self.master)
        halves = list(
            (h.to(dtype) @ self._rotation(dtype).mT).split([self.n_first, self.d_model - self.n_first], dim=-1)
        )
        for layer in range(self.n_layers):
            halves[layer % 2] = halves[layer % 2] + self._coupling(layer, halves[1 - layer % 2])
        return torch.cat(halves, dim=-1)

    def _inputs(self, outputs: Hidden) -> Hidden:
        """f^-1(outputs)."""
        halves = list(outputs.split([self.n_first, self.d_model - self.n_first], dim=-1))
        for layer in reversed(range(self.n_layers)):
            halves[layer % 2] = halves[layer % 2] - self._coupling(layer, halves[1 - layer % 2])
        return torch.cat(halves, dim=-1) @ self._rotation(outputs.dtype)

    def _coupling(self, layer: int, half: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        """A tanh network; its last layer starts at zero, so the flow starts as a rotation."""
        into, offset, out = (getattr(self, f"{name}{layer}").to(half.dtype) for name in ("into", "offset", "out"))
        return torch.tanh(half @ into.mT + offset) @ out.mT
