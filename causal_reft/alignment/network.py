"""Where a study's network comes from, so that every worker has its own: a folder or hub id, a factory, an object.

A worker loads a network once and keeps it for all cells of the study; threads of one process keep one each, because a
network under hooks must not be run from two threads. A live object stays in this process, and is itself what runs.

What a network computes is known by its fingerprint: weights and buffers, the tree of modules with their classes and
settings, the configuration, functions that are attributes, and hooks.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import nn

from causal_reft.errors import StudyError, nearest

Source = nn.Module | str | os.PathLike[str] | Callable[[], nn.Module]
LIBRARIES = ("torch", "transformers")
DTYPES = ("float32", "float64", "bfloat16", "float16")
_kept = threading.local()


@dataclass(frozen=True)
class NetworkSource:
    """`given` is what the user passed, which a worker builds or loads; the rest says how and where to put it.

    Attributes:
        device: by default "cpu"; a live network stays where it is.
        dtype: by default "float32" for a folder or hub id ("auto": as stored), and as it is for everything else.
        device_map: of `from_pretrained`, for a folder or hub id whose network takes several devices.

    Raises:
        StudyError: neither a module, a folder or hub id, nor a factory; a device or dtype that a live network does not
            have; a `device_map` for anything but a folder or hub id, or beside a device.
    """

    given: Any
    device: str | None = None
    dtype: str | torch.dtype | None = None
    device_map: str | dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.given, (nn.Module, str, os.PathLike)) and not callable(self.given):
            raise StudyError(
                f"A study's model is a module, a folder or hub id, or a function that returns a module, not "
                f"{type(self.given).__name__}."
            )
        if self.device_map is not None and (not self.is_pretrained or self.device is not None):
            raise StudyError(
                f"device_map={self.device_map!r} places a network that is loaded from a folder or hub id, without "
                f"device=...; the model here is {self.name}, with device={self.device!r}."
            )
        if not self.is_live:
            self.precision()
            return
        live: Any = self.given
        place, dtype = place_of(live), dtype_of(live)
        if self.device is not None and str(torch.device(self.device)) != place:
            raise StudyError(
                f"device={self.device!r}, but {self.name} is on {place}. Move it yourself: model.to({self.device!r})."
            )
        if self.dtype is not None and str(self.precision()) != f"torch.{dtype}":
            raise StudyError(
                f"dtype={self.dtype!r}, but {self.name} is {dtype}. Convert it yourself: model.to({self.precision()})."
            )

    @property
    def is_live(self) -> bool:
        """Whether it is an object of this process."""
        return isinstance(self.given, nn.Module)

    @property
    def is_pretrained(self) -> bool:
        """Whether it is a folder or hub id."""
        return isinstance(self.given, (str, os.PathLike))

    def precision(self) -> Any:
        """The torch.dtype to load in, "auto", or None for the one that the network has."""
        asked = ("float32" if self.is_pretrained else None) if self.dtype is None else self.dtype
        if asked is None or isinstance(asked, torch.dtype) or (asked == "auto" and self.is_pretrained):
            return asked
        if asked not in DTYPES:
            raise StudyError(f"dtype={asked!r} does not exist. {nearest(asked, DTYPES)}")
        return getattr(torch, asked)

    def load(self) -> tuple[nn.Module, LoadedSource]:
        """The network, kept for this thread, and what workers are sent to load the same."""
        network = _built(self)
        found = LoadedSource(**vars(self), digest=fingerprint(network)["digest"])
        _kept.network = (found, network)
        return network, found

    def __str__(self) -> str:
        if self.is_live:
            return f"{self.name}, {dtype_of(self.given)} on {place_of(self.given)}"
        dtype = {None: "in its own dtype", "auto": "as stored"}.get(self.precision(), str(self.precision())[6:])
        return f"{self.name}, {dtype} on {self.device_map or self.device or 'cpu'}"

    @property
    def name(self) -> str:
        """The folder, the hub id, or the name of the class or factory."""
        if self.is_live:
            return f"a live {type(self.given).__name__}"
        if isinstance(self.given, (str, os.PathLike)):
            return str(self.given)
        factory = self.given.func if isinstance(self.given, partial) else self.given
        return getattr(factory, "__name__", type(factory).__name__)

    def check_sendable(self) -> None:
        """Refuse what cannot reach another worker.

        Raises:
            StudyError: a live object, or a factory that cannot be pickled.
        """
        if self.is_live:
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


@dataclass(frozen=True)
class LoadedSource(NetworkSource):
    """A source whose network is known: `digest` is that of its fingerprint."""

    digest: str = ""

    def network(self) -> nn.Module:
        """The network of this worker (of this thread), loaded at the first call; a live one is itself.

        Raises:
            StudyError: the worker loads another network than the study was made with.
        """
        if self.is_live:
            return self.given
        kept = getattr(_kept, "network", None)
        if kept is not None and replace(kept[0], given=self.given) == self:
            return kept[1]
        network = _built(self)
        found = fingerprint(network)["digest"]
        if found != self.digest:
            raise StudyError(
                f"A worker loaded {self.name} and got other weights ({found}) than the study was made with "
                f"({self.digest}). Let the factory seed its random numbers, or pin the revision: give a local folder."
            )
        _kept.network = (self, network)
        return network


def fingerprint(network: nn.Module) -> dict[str, Any]:
    """What determines a network's outputs, as JSON: class, digests of weights and structure, configuration, hooks.

    `digest` is over all of it.
    """
    config = getattr(network, "config", None)
    found = {
        "class": _name(type(network)),
        "weights": digest_of(network),
        "modules": _digest("\n".join(_structure(network))),
        "config": _config(config) if hasattr(config, "to_dict") else {},
        "hooks": list(_hooks(network)),
    }
    return {**found, "digest": _digest(json.dumps(found, sort_keys=True))}


def digest_of(network: nn.Module) -> str:
    """Sixteen hexadecimal digits over the names, shapes, types and bits of all weights and buffers."""
    found = hashlib.sha256(type(network).__name__.encode())
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers()), **_tensors(network.state_dict())}
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def rounded_digest(module: nn.Module) -> str:
    """Sixteen hexadecimal digits over a module's structure and each tensor's norm and eight sums, in two digits.

    What a seed builds has the same on machines whose random numbers differ in the last bits.
    """
    words = list(_structure(module))
    for name, tensor in sorted({**dict(module.named_parameters()), **dict(module.named_buffers())}.items()):
        numbers = tensor.detach().cpu().double().flatten()
        waves = torch.outer(torch.arange(1.0, 9.0, dtype=torch.double), torch.arange(len(numbers))).cos()
        norm = float(numbers.norm())
        sums = [round(found, 2) + 0.0 for found in (waves @ numbers / (norm or 1.0)).tolist()]
        words.append(f"{name} {tuple(tensor.shape)} {tensor.dtype} {norm:.2g} {sums}")
    return _digest("\n".join(words))


def _tensors(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def _structure(network: nn.Module) -> Iterator[str]:
    """For each module its path, class, settings, and functions; the source of forward for classes of the user."""
    for path, module in network.named_modules():
        own = type(module).__module__.partition(".")[0] not in LIBRARIES
        yield f"{path} {_name(type(module))}({module.extra_repr()})"
        if own:
            yield f"  forward {_function(type(module).forward)}"
        for name, value in sorted(vars(module).items()):
            if callable(value) and not isinstance(value, nn.Module):
                yield f"  {name} {_function(value)}"
            elif own and name != "training" and _is_plain(value):
                yield f"  {name} {value!r}"


def _hooks(network: nn.Module) -> Iterator[str]:
    for path, module in network.named_modules():
        for kind in ("_forward_pre_hooks", "_forward_hooks"):
            for hook in getattr(module, kind).values():
                if (getattr(hook, "__module__", None) or "").partition(".")[0] not in LIBRARIES:
                    yield f"{path}{kind} {_function(hook)}"


def _config(config: Any) -> dict[str, Any]:
    """Without what says where it came from."""
    plain = json.loads(json.dumps(config.to_dict(), default=str))
    return {name: value for name, value in plain.items() if name not in ("_name_or_path", "transformers_version")}


def _function(value: Any, depth: int = 3) -> str:
    """A function in words that last: its name, and for one of the user its source and what it closes over."""
    if isinstance(value, partial):
        return f"partial({_function(value.func)}, {value.args!r}, {value.keywords!r})"
    value = inspect.unwrap(getattr(value, "__func__", value))
    name = _name(value) if hasattr(value, "__qualname__") else _name(type(value))
    if not isinstance(value, FunctionType) or name.partition(".")[0] in LIBRARIES or not depth:
        return name
    inside = [_closed_over(cell.cell_contents, depth) for cell in value.__closure__ or () if _is_filled(cell)]
    defaults = [_closed_over(one, depth) for one in value.__defaults__ or ()]
    return f"{name} {_digest(_code(value.__code__))} {inside} {defaults}"


def _closed_over(value: Any, depth: int) -> str:
    if isinstance(value, nn.Module):
        return f"{_name(type(value))} {digest_of(value)}"
    if isinstance(value, torch.Tensor):
        return _digest(repr((tuple(value.shape), value.detach().cpu().double().flatten().tolist())))
    if callable(value):
        return _function(value, depth - 1)
    return repr(value) if _is_plain(value) else _name(type(value))


def _code(code: CodeType) -> str:
    """Its source where there is one (it lasts longer than bytecode), else what it does."""
    try:
        return inspect.getsource(code)
    except (OSError, TypeError):
        constants = [_code(one) if isinstance(one, CodeType) else repr(one) for one in code.co_consts]
        return f"{code.co_code.hex()} {code.co_names} {constants}"


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (str, int, float, bool, torch.dtype))


def _name(of: Any) -> str:
    return f"{of.__module__}.{of.__qualname__}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def place_of(network: nn.Module) -> str:
    """The devices of its tensors, joined by "+"; "cpu" where it has none."""
    return "+".join(sorted({str(tensor.device) for tensor in _held(network)})) or "cpu"


def dtype_of(network: nn.Module) -> str:
    """The dtypes of its floating-point tensors, joined by "+"; torch's default where it has none."""
    found = {str(tensor.dtype)[6:] for tensor in _held(network) if tensor.is_floating_point()}
    return "+".join(sorted(found)) or str(torch.get_default_dtype())[6:]


def _held(network: nn.Module) -> list[torch.Tensor]:
    return list(_tensors(network.state_dict()).values())


def _built(source: NetworkSource) -> nn.Module:
    given, dtype = source.given, source.precision()
    if isinstance(given, nn.Module):
        return given
    if isinstance(given, (str, os.PathLike)):
        from transformers import AutoModelForCausalLM

        places = source.device_map or {"": source.device or "cpu"}
        return AutoModelForCausalLM.from_pretrained(os.fspath(given), dtype=dtype, device_map=places).eval()
    network = given()
    if not isinstance(network, nn.Module):
        raise StudyError(f"The factory {given!r} returned a {type(network).__name__}, not a torch module.")
    return network.to(device=source.device or "cpu", dtype=dtype).eval()
