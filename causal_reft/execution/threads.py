"""One thread at a time per base model, and nothing of ours acts in another thread.

A lock for each base model object is held while a graph, a plan or a served batch runs on it, so calls from several
threads wait for each other. A call of the plain model does not wait: hooks and forwards that are ours for the time of a
call look at the thread, and leave every other thread's call as it is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from causal_reft.sites import unwrapped

_LOCKS: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
_REGISTRY = threading.Lock()


@contextmanager
def one_at_a_time(model: nn.Module) -> Iterator[None]:
    """Inside, no other thread runs a graph on this model; the same thread may enter again."""
    with _REGISTRY:
        lock = _LOCKS.setdefault(unwrapped(model), threading.RLock())
    with lock:
        yield


def in_this_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    """A hook that acts in the thread that installs it and changes nothing in others."""
    mine = threading.get_ident()

    def only_here(*args: Any, **kwargs: Any) -> Any:
        return hook(*args, **kwargs) if threading.get_ident() == mine else None

    return only_here


def here_or_else(here: Callable[..., Any], elsewhere: Callable[..., Any]) -> Callable[..., Any]:
    """One function in the thread that calls this, another in all others."""
    mine = threading.get_ident()

    def either(*args: Any, **kwargs: Any) -> Any:
        return (here if threading.get_ident() == mine else elsewhere)(*args, **kwargs)

    return either
