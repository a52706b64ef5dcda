"""What a page cost: processor time and memory of every call that worked on its folder, one that was killed included.

with metered(folder) as spent:
    text, seconds = said_before(folder / "plan.json", plan)
    ...
    print(spent())      # "2 calls, 512 s of processor time ..."
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import torch

from causal_reft.display import counted
from causal_reft.sweeps.sealed import write_whole

CALLS = "calls"
EVERY = 5.0  # seconds: what a call that is killed may lose of its time


@contextmanager
def metered(folder: Path) -> Iterator[Callable[[], str]]:
    """Inside, the folder holds what this call has taken; the value says what all calls on the folder took together."""
    file, begun, ended = folder / CALLS / f"{time.time_ns()}-{os.getpid()}.json", time.time(), threading.Event()
    file.parent.mkdir(parents=True, exist_ok=True)

    def keep() -> None:
        taken = {"processor": time.process_time(), "clock": time.time() - begun, "memory": _peak()}
        write_whole(file, json.dumps(taken).encode())

    def keep_on() -> None:
        while not ended.wait(EVERY):
            keep()

    def spent() -> str:
        keep()
        return _in_words([json.loads(call.read_bytes()) for call in sorted(file.parent.glob("*.json"))])

    thread = threading.Thread(target=keep_on, daemon=True)
    thread.start()
    try:
        yield spent
    finally:
        ended.set()
        thread.join()
        keep()


def said_before(file: Path, make: Callable[[], tuple[str, Mapping[str, float]]]) -> tuple[str, Mapping[str, float]]:
    """A plan in words and its seconds by stage, as the file holds it: made before the work began, and not again."""
    if not file.is_file():
        text, seconds = make()
        write_whole(file, json.dumps({"text": text, "seconds": seconds}).encode())
    plan = json.loads(file.read_bytes())
    return plan["text"], plan["seconds"]


def beside_what_was_said(stages: pd.DataFrame, said: Mapping[str, float]) -> pd.DataFrame:
    """For each stage (`stage`, `cells`, `seconds`), and for all, the processor time that was said and that it took."""
    table = stages.assign(said=stages["stage"].map(said))
    every = {"stage": "all", **table[["cells", "said", "seconds"]].sum()}
    table = pd.concat([table, pd.DataFrame([every])], ignore_index=True).astype({"cells": int})
    named = {"said, s": table["said"], "taken, s": table["seconds"], "said / taken": table["said"] / table["seconds"]}
    return table[["stage", "cells"]].assign(**named)


def _in_words(calls: list[dict[str, float]]) -> str:
    processor, clock = (sum(call[name] for call in calls) for name in ("processor", "clock"))
    return (
        f"{counted(len(calls), 'call')}, {processor:.0f} s of processor time in {clock:.0f} s, with "
        f"{counted(torch.get_num_threads(), 'thread')} of {counted(os.cpu_count() or 1, 'processor core')}, at most "
        f"{max(call['memory'] for call in calls) / 2**30:.1f} GiB of memory"
    )


def _peak() -> int:
    """Bytes of memory that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
