"""A network that is known inside: state = secret rotation of [left, right, rest], answer = (left > 0) == (right > 0).

left and right are sums of four inputs each. The rest is independent noise ("independent"), or holds inert linear copies
of left's inputs ("copies"): correlated with left, read by nothing. With "absent" there is noise in left's place, and
the answer goes with right alone.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from causal_reft.alignment import Alignment, TensorEncoding
from causal_reft.causal import CausalModel, CounterfactualDataset
from causal_reft.featurizers import Subspace
from causal_reft.graph import Collect, Interchange, InterventionGraph
from causal_reft.seeds import derive, numpy_stream
from causal_reft.sites import Site

SITE, SAME_SITE = Site.at("hidden"), Site.at("read", port="input")
WIDTH = 16
N_REST = WIDTH - 2
SLOPE = 2.0


def causal_model() -> CausalModel:
    return CausalModel(
        inputs=dict.fromkeys(("a", "b", "c")),
        mechanisms={
            "left": lambda a: a.sum(-1) > 0,
            "right": lambda b: b.sum(-1) > 0,
            "answer": lambda left, right: left == right,
        },
    )


class Planted(nn.Module):
    def __init__(self, kind: str, secret: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(derive(secret, "planted"))
        rotation = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator)).Q
        into = torch.zeros(WIDTH, 8 + N_REST)
        into[0, :4], into[1, 4:8] = 0.5, 0.5
        into[2:, 8:] = torch.eye(N_REST)
        if kind == "copies":
            into[2:, 8:] = 0
            into[2:, :4] = torch.randn(N_REST, 4, generator=generator) / 2
        if kind == "absent":
            into[0] = 0
            into[0, 8] = 1.0
        self.hidden = nn.Linear(8 + N_REST, WIDTH, bias=False)
        self.hidden.weight = nn.Parameter(rotation @ into)
        self.read = nn.Linear(WIDTH, 2, bias=False)
        self.read.weight = nn.Parameter(rotation[:, :2].T.contiguous())
        self.absent = kind == "absent"

    @property
    def direction(self) -> Tensor:
        return self.read.weight[:1].detach()

    def forward(self, x: Tensor) -> Tensor:
        left, right = (SLOPE * self.read(self.hidden(x))).tanh().unbind(-1)
        agree = 4 * (right if self.absent else left * right)
        return torch.stack([-agree, agree], -1)


truth = partial(Planted, "independent", 0)


def counterfactuals(n: int, seed: int) -> CounterfactualDataset:
    """Pairs that interchange left."""
    model, stream = causal_model(), numpy_stream(seed, "planted data")
    base, source = (model.run(_drawn(stream, n)) for _ in range(2))
    labels = model.interchange(base, left=source)[["answer"]]
    return CounterfactualDataset(base, {"left": source}, labels, ("left",), ("a", "b", "c"), seed)


def _drawn(stream: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    return {"a": stream.normal(size=(n, 4)), "b": stream.normal(size=(n, 4)), "c": stream.normal(size=(n, N_REST))}


def inputs(data: CounterfactualDataset) -> dict[str, Tensor]:
    return {run: _tensor(frame) for run, frame in data.runs.items()}


def _tensor(frame: pd.DataFrame) -> Tensor:
    return torch.from_numpy(np.concatenate([np.stack(list(frame[name])) for name in ("a", "b", "c")], 1)).float()


ENCODING = TensorEncoding(inputs, output="answer")


def alignment(rank: int = 1, seed: int = 0, site: Site = SITE) -> Alignment:
    edit = Interchange(site, Subspace(WIDTH, rank, seed), Collect())
    return Alignment(causal_model(), InterventionGraph(left=edit))
