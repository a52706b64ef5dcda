"""Calls, training, generation, storage and counterfactuals change nothing that is global in the process."""

from __future__ import annotations

import gc
import logging
import os
import sys
import warnings
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
import transformers

import causal_reft as cr
from tests.alignment import planted
from tests.alignment.small import small_study
from tests.models import D_MODEL as D
from tests.models import ToyMLP, gpt2, prompts


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
        "transformers' logging": transformers.logging.get_verbosity(),
        "progress bars": transformers.logging.is_progress_bar_enabled(),
        "figures": dict(mpl.rcParams),
        "options of numpy": np.get_printoptions(),
        "errors of numpy": np.geterr(),
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "path": list(sys.path),
        "recursion": sys.getrecursionlimit(),
    }


def test_nothing_that_is_global_in_the_process_is_changed(tmp_path: Path) -> None:
    model, batch, network = gpt2(dtype=torch.float32), prompts([3, 5], "left"), planted.truth()
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
        few = {"seeds": [0], "sites": [planted.SITE], "controls": cr.Controls(random=2, ladder=False, illusion=False)}
        small_study(tmp_path / "study", model=network, **few).run(progress=False).report()
        after = state()
    assert {name for name in before if before[name] != after[name]} == set()


def live() -> int:
    """How many tensors there are."""
    gc.collect()
    return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())


def test_a_thousand_steps_keep_no_tensor() -> None:
    x, labels = torch.randn(8, 6, dtype=torch.float64), torch.arange(8) % 3
    reft, seen = cr.IntervenedModel(ToyMLP(), cr.loreft(cr.Site.at("second"), 8, 2)), []

    def count(share: float) -> None:
        seen.extend([live()] if round(1000 * share) in (10, 990) else [])

    cr.fit(reft, cr.Examples({"base": x}, labels), epochs=1000, batch_size=8, progress=count)
    for call in range(1, 101):
        reft(x)
        count(call / 100 if call in (1, 99) else 0)
    assert len(seen) == 4 and seen[0] == seen[1] and seen[2] == seen[3], seen
