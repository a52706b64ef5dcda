"""What a LoReFT on a 4096-wide model may cost: no d x d buffer anywhere, weights of some kilobytes, built at once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import causal_reft as cr
from causal_reft.featurizers import computed_once

D = 4096


class Sizes(TorchDispatchMode):
    """Records how many numbers the largest tensor that any operation makes holds."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(value, torch.Tensor):
                self.largest = max(
                    self.largest, value.numel(), value.untyped_storage().nbytes() // value.element_size()
                )
        return out


class Wide(nn.Module):
    """A place of width 4096 and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.site = nn.Identity()

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return self.site(h) + 0


@pytest.mark.parametrize("rank", [1, 4])
def test_no_tensor_is_larger_than_three_d_r(rank: int) -> None:
    h = torch.randn(1, D)
    with Sizes() as sizes:
        graph = cr.loreft(cr.Site.at("site"), D, rank)
        optimizer = torch.optim.AdamW(graph.parameters(), lr=1e-3, foreach=False)
        with computed_once():
            cr.IntervenedModel(Wide(), graph)(h).square().sum().backward()
        optimizer.step()
    assert D * rank <= sizes.largest <= 3 * D * rank
    assert sum(p.numel() for p in graph.modules.state_dict().values()) == 2 * D * rank + rank, "and no buffer is kept"


def test_saved_weights_are_small(tmp_path: Path) -> None:
    cr.loreft(cr.Site(15, positions="last"), D, 1).save(str(tmp_path))
    assert (tmp_path / "weights.safetensors").stat().st_size < 100_000
    assert (tmp_path / "graph.json").stat().st_size < 10_000


def test_it_builds_in_under_fifty_milliseconds() -> None:
    """The best of ten, so that a busy machine does not decide; a d x d parametrisation takes seconds."""
    taken = []
    for _ in range(10):
        start = time.perf_counter()
        cr.loreft(cr.Site(15, positions="last"), D, 1)
        taken.append(time.perf_counter() - start)
    assert min(taken) < 0.05


def test_sizes_would_notice_a_square_buffer() -> None:
    with Sizes() as sizes:
        torch.nn.utils.parametrizations.orthogonal(torch.nn.Linear(64, 2, bias=False))
    assert sizes.largest >= 64 * 64
