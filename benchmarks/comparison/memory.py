"""(G) Peak memory of a plan under a budget, each budget in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.comparison.setting import LLAMA, TINY, Setting, model_of, texts
from causal_reft.execution import plan

ROWS = 64


def peaks(setting: Setting) -> list[dict[str, object]]:
    """One row for each budget: bytes kept, how far the peak rose above the loaded model, and a sum of the logits."""
    found = []
    for budget in (1 << 30, 16 << 20, 0):
        command = [sys.executable, "-m", "benchmarks.comparison.memory", setting.name, str(budget)]
        found.append(
            json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        )
    return found


def _child(setting: Setting, budget: int) -> dict[str, object]:
    from benchmarks.comparison.cases import backward, das

    torch.set_num_threads(1)
    model, examples = model_of(setting), texts(setting, ROWS)
    mine = das(model, setting, setting.n_layers // 2, "last")
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts again from what is held now
    before = _peak()
    total = 0.0
    with plan(mine, examples, memory=budget, check=False) as passes:
        for rows in examples.batches(setting.B):
            backward(lambda rows=rows: [passes.scored(rows)], [mine])
            with torch.no_grad():
                total += float(passes.scored(rows).logits.double().sum())
        after, joint = _peak(), passes.joint.chosen.joint_passes
    assert joint is not None
    return {
        "setting": setting.name,
        "budget": budget,
        "needed": joint.bytes_per_row * ROWS,
        "kept": joint.bytes,
        "peak above the model": after - before,
        "recorded": "every batch" if joint.rebuilds else "once",
        "sum of logits": total,
    }


def _peak() -> int:
    """Most bytes that this process has held. (`ru_maxrss` would begin at what its parent held.)"""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


if __name__ == "__main__":
    chosen = next(setting for setting in (LLAMA, TINY) if setting.name == sys.argv[1])
    print(json.dumps(_child(chosen, int(sys.argv[2]))))
