"""How the cost of a step of a last-token sweep grows: counted FLOPs and seconds of a naive step and of ours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from benchmarks.comparison.cases import Case, backward, das, ours
from benchmarks.comparison.clock import Contender
from benchmarks.comparison.setting import TINY, Setting, model_of, texts
from causal_reft.execution import FullPasses

BASE = replace(TINY, n_layers=4, d_model=64, T=32)


def growth(quick: bool) -> Iterator[Case]:
    """One axis at a time, from one base shape."""
    sizes = {
        "T": [16, 64] if quick else [16, 32, 64, 128, 256],
        "layers": [2, 4] if quick else [2, 4, 8, 16],
        "d": [32, 64] if quick else [32, 64, 128, 256],
        "sites": [1, 4] if quick else [1, 2, 4, 8],
    }
    for axis, values in sizes.items():
        for value in values:
            changes = {
                "T": {"T": value},
                "layers": {"n_layers": value},
                "d": {"d_model": value},
                "sites": {"n_layers": 8},
            }[axis]
            setting = replace(BASE, name=f"growth {axis} {value}", **changes)
            yield _case(axis, value, setting, value if axis == "sites" else 1)


def _case(axis: str, value: int, setting: Setting, sites: int) -> Case:
    model, examples, rows = model_of(setting), texts(setting, setting.B), torch.arange(setting.B)
    lowest = setting.n_layers // 2 if axis != "sites" else 0
    models = [das(model, setting, lowest + k, "last") for k in range(sites)]
    full = [FullPasses(m, examples) for m in models]
    contenders = {
        "two full passes": Contender(lambda: backward(lambda: [f.scored(rows) for f in full], models)),
        "ours": Contender(ours(models, examples, rows)),
    }
    return Case("H", f"{axis} = {value}", contenders)
