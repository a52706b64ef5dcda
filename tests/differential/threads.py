"""Calls of all kinds on one model at once, from many threads, against plain hooks on a copy, one call after another."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

import causal_reft as cr
from causal_reft.execution import Examples, Served, plan
from tests.by_hand import by_hand
from tests.differential.generating import an_edit, model_of
from tests.models import ARCHITECTURES, BLOCKS, prompts

Job = tuple[str, Callable[[], Tensor], Tensor]  # what it is, the call, and the numbers by hand
GENERATE: dict[str, Any] = {"max_new_tokens": 2, "do_sample": False, "pad_token_id": 0}


@contextmanager
def quick_switches() -> Iterator[None]:
    """Threads change often, so that what can be mixed is mixed."""
    was = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(was)


def a_job(draw: random.Random, shared: nn.Module, alone: nn.Module, family: str) -> Job:
    """One call on the shared model, and its numbers by hand on a model that nobody else uses."""
    batch = prompts([draw.randint(1, 5) for _ in range(3)], "left", draw.randrange(1000))
    numbers = (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)
    node, formula = an_edit(draw, draw.randrange(3))
    graph, mask = cr.InterventionGraph(edit=node), batch["attention_mask"]
    kind = draw.choice(["forward", "generate", "plain", "plain generate", "collect", "served", "plan"])
    edits = [] if kind.startswith("plain") or kind == "collect" else [formula]
    block: Any = alone.get_submodule(BLOCKS[family])[1]
    seen: list[Tensor] = []
    look = block.register_forward_hook(lambda m, args, out: seen.append(out[0] if isinstance(out, tuple) else out))
    with by_hand(alone, edits, mask), torch.no_grad():
        if "generate" in kind:
            wanted = alone.generate(**batch, **GENERATE, use_cache=False)
        else:
            wanted = alone(**batch, position_ids=numbers).logits
    look.remove()
    reft = cr.IntervenedModel(shared, graph)
    match kind:
        case "forward":
            return kind, lambda: reft(batch).logits[mask != 0], wanted[mask != 0]
        case "generate":
            return kind, lambda: reft.generate(batch, **GENERATE), wanted
        case "plain":
            return kind, lambda: shared(**batch, position_ids=numbers).logits, wanted
        case "plain generate":
            return kind, lambda: shared.generate(**batch, **GENERATE), wanted
        case "collect":
            site = cr.Site(1, positions="last")
            watched = cr.IntervenedModel(shared, cr.InterventionGraph(seen=cr.Collect("base", site)))
            return kind, lambda: watched.collect(batch)["seen"][:, 0], seen[0][:, -1]
        case "served":
            served = Served(shared)
            served.add("one", graph)
            return kind, lambda: served(batch, graphs=["one"] * 3).logits[mask != 0], wanted[mask != 0]
    planned = plan(reft, Examples({"base": batch}, torch.tensor([4, 5, 6])), check=False)
    return kind, lambda: planned.scored(torch.arange(3)).logits.detach(), wanted[:, -1]


def threads_on_one_model(draw: random.Random) -> str:
    """Every call gets its own numbers, however calls overlap."""
    family = draw.choice(sorted(ARCHITECTURES))
    shared = model_of(family)
    alone = deepcopy(shared)
    jobs = [a_job(draw, shared, alone, family) for _ in range(4)]
    with quick_switches(), ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda i: (jobs[i], jobs[i][1]()), [draw.randrange(4) for _ in range(10)]))
    kinds = [kind for kind, _, _ in jobs]
    for (kind, _, wanted), value in found:
        torch.testing.assert_close(value, wanted, rtol=1e-9, atol=1e-9, msg=f"{family}: {kind} among {kinds}")
    return "equal"
