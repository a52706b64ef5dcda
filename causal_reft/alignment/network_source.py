"""Where a study's network comes from, so that every worker has its own: a folder or hub id, a factory, an object.

A worker loads a network once and keeps it for all cells of the study; threads of one process keep one each, because a
network under hooks must not be run from two threads. A live object stays in this process.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from causal_reft.errors import StudyError

Source = nn.Module | str | os.PathLike[str] | Callable[[], nn.Module]
_kept = threading.local()


@dataclass(frozen=True)
class NetworkSource:
    """`given` is what the user passed; by the digest of the weights a worker knows that it has the right ones."""

    given: Any
    digest: str
    device: str

    @staticmethod
    def of(given: Any, device: str) -> NetworkSource:
        """Loads once in this process to know the weights.

        Raises:
            StudyError: neither a module, a folder or hub id, nor a factory.
        """
        network = _built(given, device)
        found = NetworkSource(given, digest_of(network), device)
        _kept.network = (found.digest, network)
        return found

    @property
    def live(self) -> bool:
        """Whether it is an object of this process."""
        return isinstance(self.given, nn.Module)

    def network(self) -> nn.Module:
        """The network of this worker (of this thread), loaded at the first call.

        Raises:
            StudyError: the worker loads other weights than the study was made with.
        """
        kept = getattr(_kept, "network", None)
        if kept is not None and kept[0] == self.digest:
            return kept[1]
        network = _built(self.given, self.device)
        found = digest_of(network)
        if found != self.digest:
            raise StudyError(
                f"A worker loaded {self.name} and got other weights ({found}) than the study was made with "
                f"({self.digest}). Let the factory seed its random numbers, or pin the revision: give a local folder."
            )
        _kept.network = (self.digest, network)
        return network

    @property
    def name(self) -> str:
        """The folder, the hub id, or the class or factory in words."""
        if isinstance(self.given, nn.Module):
            return f"a live {type(self.given).__name__}"
        return (
            str(self.given)
            if isinstance(self.given, (str, os.PathLike))
            else getattr(self.given, "__name__", type(self.given).__name__)
        )

    def check_sendable(self) -> None:
        """Refuse what cannot reach another worker.

        Raises:
            StudyError: a live object, or a factory that cannot be pickled.
        """
        if self.live:
            raise StudyError(
                f"study.run(executor=...) cannot send {self.name} to workers. Give the study what each worker can load "
                "for itself: a folder or hub id (Study('runs/my-model', ...)), or a function at the top of a module "
                "that returns the network (Study(make_network, ...)). Without an executor a live network is fine."
            )
        try:
            pickle.dumps(self.given)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise StudyError(
                f"The factory {self.name} cannot be sent to workers ({error}). Define it with def at the top of a "
                "module."
            ) from error


def digest_of(network: nn.Module) -> str:
    """Sixteen hexadecimal digits over the names, shapes, types and bits of all weights and buffers."""
    found = hashlib.sha256(type(network).__name__.encode())
    for name, tensor in sorted(network.state_dict().items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def _built(given: Any, device: str) -> nn.Module:
    if isinstance(given, nn.Module):
        return given
    if isinstance(given, (str, os.PathLike)):
        from transformers import AutoModelForCausalLM

        return _ready(AutoModelForCausalLM.from_pretrained(os.fspath(given)), device)
    if not callable(given):
        raise StudyError(
            f"A study's model is a module, a folder or hub id, or a function that returns a module, not "
            f"{type(given).__name__}."
        )
    network = given()
    if not isinstance(network, nn.Module):
        raise StudyError(f"The factory {given!r} returned a {type(network).__name__}, not a torch module.")
    return _ready(network, device)


def _ready(network: nn.Module, device: str) -> nn.Module:
    return network.to(device).eval()
