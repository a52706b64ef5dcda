"""Interleaved timing and counted FLOPs of several contenders that do the same work.

Seconds are those of the processor in this process (one thread): what other processes do meanwhile counts for nobody.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten
TURN = 0.2


def _cpu_attention(query, key, value, *args, out_shape=None, **kwargs) -> int:
    return sdpa_flop_count(query, key, value)


def _cpu_attention_backward(grad_out, query, key, value, *args, out_shape=None, **kwargs) -> int:
    return sdpa_backward_flop_count(grad_out, query, key, value)


ON_CPU = {
    aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _cpu_attention_backward,
}


@dataclass(frozen=True)
class Contender:
    """Something that does one unit of work when called; `times`: how many of its calls make up the case's work."""

    run: Callable[[], object]
    times: float = 1.0


@dataclass(frozen=True)
class Measured:
    """Median, fastest and slowest seconds, and counted FLOPs, for the whole work of the case."""

    seconds: float
    fastest: float
    slowest: float
    flops: float


def measure(contenders: Mapping[str, Contender], repeats: int, flops: bool = True) -> dict[str, Measured]:
    """Every contender once to warm up (and to count), then all in turn, `repeats` times.

    A turn is one call, or as many as fit `TURN` seconds: steps of milliseconds run back to back, as in training.
    """
    counted = {name: _flops(c.run) * c.times if flops else _warm(c.run) for name, c in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, contender in contenders.items():
            seconds[name].append(_turn(contender.run) * contender.times)
    return {n: Measured(statistics.median(s), min(s), max(s), counted[n]) for n, s in seconds.items()}


def _turn(run: Callable[[], object]) -> float:
    """Mean seconds of a call."""
    began, calls = time.process_time(), 0
    while not calls or time.process_time() - began < TURN:
        run()
        calls += 1
    return (time.process_time() - began) / calls


def _flops(run: Callable[[], object]) -> float:
    with FlopCounterMode(display=False, custom_mapping=ON_CPU) as counter:
        run()
    return float(counter.get_total_flops())


def _warm(run: Callable[[], object]) -> float:
    run()
    return float("nan")
