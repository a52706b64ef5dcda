"""Calls, training, generation, storage and counterfactuals change nothing that is global in the process."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch

import causal_reft as cr
from tests.models import D_MODEL as D
from tests.models import gpt2, prompts


def state() -> dict[str, object]:
    """What a library could change for everybody in the process; beartype draws from Python's own random numbers."""
    return {
        "torch's random numbers": torch.random.get_rng_state().tolist(),
        "numpy's": np.random.get_state()[1].tolist(),  # type: ignore[index] # noqa: NPY002
        "dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "anomalies": torch.is_anomaly_enabled(),
        "hooks on all modules": len(torch.nn.modules.module._global_forward_hooks),
        "warnings": list(warnings.filters),
        "logging": (logging.root.level, len(logging.root.handlers)),
        "figures": dict(mpl.rcParams),
        "options of numpy": np.get_printoptions(),
        "errors of numpy": np.geterr(),
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "path": list(sys.path),
        "recursion": sys.getrecursionlimit(),
    }


def test_nothing_that_is_global_in_the_process_is_changed(tmp_path: Path) -> None:
    model, batch = gpt2(dtype=torch.float32), prompts([3, 5], "left")
    labels = torch.full_like(batch["input_ids"], -100)
    labels[:, -1] = batch["input_ids"][:, -1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mpl, "rcParams", mpl.rcParams.copy())
        before = state()
        reft = cr.IntervenedModel(model, cr.loreft(cr.Site(1, positions="last"), D, 2))
        cr.fit(reft, cr.Examples({"base": batch}, labels), max_steps=2, batch_size=2, progress=False)
        reft.generate(**batch, max_new_tokens=2, do_sample=False)
        reft.graph.save(tmp_path / "saved")
        cr.load_graph(tmp_path / "saved").draw()
        equality = cr.CausalModel({"x": range(3), "y": range(3)}, {"same": lambda x, y: x == y})
        equality.counterfactuals("same", 8, seed=0)
        after = state()
    assert {name for name in before if before[name] != after[name]} == set()
