"""What a training step of a method costs: its time over that of a step of LoRA, and its peak of memory.

The two take turns on one batch in one process, so what slows the machine for a while slows both; seconds of cells that
run minutes apart cannot be compared on a shared machine.
"""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import TrainerCallback

from causal_reft.experiments.finetuning.cell import Bench
from causal_reft.experiments.finetuning.methods import METHODS, Shape
from causal_reft.sweeps import Result, tick

YARDSTICK = "LoRA"
WARM_UP, TIMED = 2, 5
STEPS = WARM_UP + 2 * TIMED + 3  # of both, with the self-check of a planned path
COLUMNS = (
    f"step_time: seconds of a training step over those of a step of {YARDSTICK} of the same rank on the same batch, "
    f"median of {TIMED} pairs of steps that take turns, low and high the smallest and the largest. peak_bytes: of the "
    "tensors that training adds to the model's weights (gradients, the optimizer's state, what the backward pass "
    "needs), the most that are held at once in a step, without what a kernel uses inside."
)


@dataclass(frozen=True)
class StepCell:
    """The steps of one method on one batch of a benchmark."""

    benchmark: str
    method: str
    rank: int = 4


def step_cost(bench: Bench, cell: StepCell) -> Result:
    """Train on one batch, again and again: `step_time`, `step_time_low`, `step_time_high` and `peak_bytes`."""
    items = bench.parts(cell.benchmark)["train"][: bench.batch_size]
    module, yardstick = (
        METHODS[name].build(bench.model, bench.tokenizer, Shape(cell.rank), 0) for name in (cell.method, YARDSTICK)
    )
    batch = {key: value for key, value in bench.batch(items).items() if key != "prompt_lengths"}
    turns = _Turns(_step(yardstick, batch), bench.model.device)
    with bench.trainer(module, items, turns, max_steps=WARM_UP + TIMED) as trainer:
        trainer.train()
    low, high = min(turns.ratios), max(turns.ratios)
    ratio = {"step_time": statistics.median(turns.ratios), "step_time_low": low, "step_time_high": high}
    return Result(facts={**ratio, "peak_bytes": turns.memory.peak})


class _Turns(TrainerCallback):
    """After each timed step of a training, one of the yardstick; the second step's peak of memory."""

    def __init__(self, yardstick: Callable[[], None], device: torch.device) -> None:
        self.yardstick, self.device = yardstick, device
        self.ratios: list[float] = []
        self.memory = _CudaBytes(device) if device.type == "cuda" else TensorBytes()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.memory.__enter__()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == WARM_UP - 1:
            self.memory.restart()
        self.began = self._now()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        ended = self._now()
        if state.global_step == WARM_UP:
            self.memory.__exit__(None, None, None)
        if state.global_step > WARM_UP:
            self.yardstick()
            self.ratios.append((ended - self.began) / (self._now() - ended))
        tick(state.global_step / state.max_steps)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _step(module: nn.Module, batch: dict[str, torch.Tensor]) -> Callable[[], None]:
    """A training step as `Trainer` takes it, without its logs."""
    trained = [p for p in module.train().parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0)

    def step() -> None:
        module(**batch).loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


class TensorBytes(TorchDispatchMode):
    """Bytes of the tensors that are made inside and still held, and their peak; the same in every run."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def restart(self) -> None:
        """Forget the peak so far."""
        self.peak = self.held

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = {leaf.untyped_storage() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor) and (storage := leaf.untyped_storage()) not in given:
                self._add(storage)
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._known:
            self._known.add(storage)
            size = storage.nbytes()
            self.held += size
            self.peak = max(self.peak, self.held)
            weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.held -= size


class _CudaBytes:
    """The same from CUDA's allocator."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __enter__(self) -> None:
        self.before = torch.cuda.memory_allocated(self.device)

    def restart(self) -> None:
        """Forget the peak so far."""
        torch.cuda.reset_peak_memory_stats(self.device)

    def __exit__(self, *exception: object) -> None:
        self.peak = torch.cuda.max_memory_allocated(self.device) - self.before
