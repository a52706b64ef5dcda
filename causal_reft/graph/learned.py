"""Sources that training finds: each is a module whose parameters the graph holds."""

from __future__ import annotations

import torch
from torch import nn

from causal_reft.display import treescope_repr
from causal_reft.errors import GraphError, nearest
from causal_reft.featurizers import Featurizer
from causal_reft.featurizers.featurizer import computing
from causal_reft.graph.collect import Collect, EditContext
from causal_reft.seeds import derive
from causal_reft.tensors import Coordinates, Hidden

ACTIVATIONS = {
    "relu": torch.relu,
    "gelu": nn.functional.gelu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "silu": nn.functional.silu,
}


class LearnedSource(nn.Module):
    """z = act(W h + b), found by training (Wu et al. 2024, arXiv 2404.03592: the learned projected source of LoReFT).

    Args:
        rank: coordinates that it writes.
        d_model: width of what it reads.
        reads_input: False leaves z = b (ConsReFT, LobiReFT).
        bias: whether there is a b; the attribute `bias` is the parameter, (rank,), or None.
        activation: None (linear), "relu", "gelu", "tanh", "sigmoid" or "silu".
        reads: read another site of the same run instead: `Collect("base", site)` (schematic ReFT).
        init: "identity" starts W at the featurizer's rows (at 0 under `Shift`) and b at 0 when the node is built,
            so that training starts from no edit; "random" as `nn.Linear` does.
        seed: of the random start.
    """

    def __init__(
        self,
        rank: int,
        d_model: int,
        reads_input: bool = True,
        bias: bool = True,
        activation: str | None = None,
        reads: Collect | None = None,
        init: str = "identity",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if activation is not None and activation not in ACTIVATIONS:
            raise GraphError(f"LearnedSource(activation={activation!r}). {nearest(activation, ACTIVATIONS)}")
        if init not in ("identity", "random"):
            raise GraphError(f"LearnedSource(init={init!r}). {nearest(init, ['identity', 'random'])}")
        if not reads_input and (reads is not None or not bias):
            raise GraphError("LearnedSource(reads_input=False) is only its bias: it takes bias=True and no reads=.")
        if reads is not None and (reads.site is None or reads.featurizer is not None):
            raise GraphError(
                "LearnedSource(reads=Collect(...)) needs the site whose whole vector it reads: Collect('base', "
                "Site(3))."
            )
        self.rank, self.d_model, self.reads_input = rank, d_model, reads_input
        self.activation, self.reads, self.init, self.seed = activation, reads, init, seed
        self.started = init == "random"
        generator = torch.Generator().manual_seed(derive(seed, "learned source"))
        bound = d_model**-0.5
        start, start_bias = (
            (torch.rand(*shape, generator=generator) * 2 - 1) * bound for shape in ((rank, d_model), (rank,))
        )
        self.weight = nn.Parameter(start) if reads_input else None
        self.bias = nn.Parameter(start_bias) if bias else None

    @torch.no_grad()
    def start_from(self, featurizer: Featurizer, shifted: bool) -> None:
        """Called when a node is built: with init="identity", start from no edit. Later nodes that share this source
        leave it as it is.

        Raises:
            GraphError: no W and b exist for which the edit does nothing.
        """
        if self.started:
            return
        if self.bias is not None:
            self.bias.zero_()
        if self.weight is not None:
            rows = featurizer.rows()
            if shifted and self.activation in ("relu", "sigmoid"):
                raise GraphError(
                    f"LearnedSource(init='identity', activation={self.activation!r}) under Shift cannot start from no "
                    "edit: at 0 the activation is "
                    f"{'flat, so nothing would be learned' if self.activation == 'relu' else 'not 0'}. Pass "
                    "init='random'."
                )
            if shifted:
                self.weight.zero_()
            elif self.reads is not None or self.activation is not None or rows is None:
                reason = (
                    "another site is read"
                    if self.reads
                    else "the activation is not linear"
                    if self.activation
                    else f"{featurizer!r} is not linear"
                )
                raise GraphError(
                    f"LearnedSource(init='identity') cannot start from no edit here: {reason}. Pass init='random'."
                )
            else:
                self.weight.copy_(rows)
        self.started = True

    def coordinates(self, h: Hidden, featurizer: Featurizer, context: EditContext) -> Coordinates:
        read = h if self.reads is None else context.state(self.reads)
        if read.shape[-1] != self.d_model:
            raise GraphError(
                f"{self!r} reads states of width {read.shape[-1]}. Build it with d_model={read.shape[-1]}."
            )
        masters = [master for master in (self.weight, self.bias) if master is not None]
        dtype = computing(h, *masters)
        z = torch.zeros(*h.shape[:-1], self.rank, dtype=dtype, device=h.device)
        if self.weight is not None:
            z = read.to(dtype) @ self.weight.to(dtype).mT
        if self.bias is not None:
            z = z + self.bias.to(dtype)
        return z if self.activation is None else ACTIVATIONS[self.activation](z)

    def needs(self) -> tuple[Collect, ...]:
        return () if self.reads is None else (self.reads,)

    def config(self) -> dict[str, object]:
        names = ("rank", "d_model", "reads_input", "activation", "init", "seed")
        return {**{name: getattr(self, name) for name in names}, "bias": self.bias is not None}

    def extra_repr(self) -> str:
        options = [] if self.reads_input else ["reads_input=False"]
        options += ["bias=False"] if self.bias is None else []
        options += [f"activation={self.activation!r}"] if self.activation else []
        options += [f"reads={self.reads!r}"] if self.reads else []
        return ", ".join([f"rank={self.rank}", f"d_model={self.d_model}", *options])

    def __repr__(self) -> str:
        return f"LearnedSource({self.extra_repr()})"

    __treescope_repr__ = treescope_repr


class LearnedScale(nn.Module):
    """z = s * F.read(h) + b, elementwise and trained; starts at s = 1 and b = 0, which is no edit.

    With the whole vector it is RED (Wu et al. 2024, arXiv 2402.15179), without b (IA)^3 (Liu et al. 2022, arXiv
    2205.05638).

    Args:
        rank: coordinates that it scales.
        bias: whether there is a b; the attribute `bias` is the parameter, (rank,), or None.
    """

    def __init__(self, rank: int, bias: bool = True) -> None:
        super().__init__()
        self.rank = rank
        self.weight = nn.Parameter(torch.ones(rank))
        self.bias = nn.Parameter(torch.zeros(rank)) if bias else None

    def coordinates(self, h: Hidden, featurizer: Featurizer, context: EditContext) -> Coordinates:
        dtype = computing(h, self.weight)
        z = featurizer.read(h).to(dtype) * self.weight.to(dtype)
        return z if self.bias is None else z + self.bias.to(dtype)

    def needs(self) -> tuple[Collect, ...]:
        return ()

    def config(self) -> dict[str, object]:
        return {"rank": self.rank, "bias": self.bias is not None}

    def __repr__(self) -> str:
        return f"LearnedScale(rank={self.rank}{'' if self.bias is not None else ', bias=False'})"

    __treescope_repr__ = treescope_repr
