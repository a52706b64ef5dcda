"""The nnsight backend: the same visits inside one library-side trace, so that a graph also runs where nnsight runs.

Each port is a worker of its own (`tracer.invoke()` without input sees the whole batch), so ports need no order. What
it can and hooks cannot: values inside a forward (`Site.at(path, port="source:<operation>")`), a model that lives
behind nnsight, and `remote=`. What it cannot: edits inside layers that gradient checkpointing recomputes, weights
that accelerate moves.

A source port names an operation as nnsight prints it, `attention_interface_1`; one inside an operation's own source
after a dot, and one element of a tuple in brackets: `source:apply_rotary_pos_emb_0[0]` is the query after the rotary
embedding.
"""

from __future__ import annotations

import causal_reft.execution.beartype_first  # isort: skip  # noqa: F401

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import nnsight
from nnsight import Envoy, NNsight
from nnsight.intervention.source import SourceNotAvailable
from torch import nn

from causal_reft.errors import GraphError, RunError, SiteError, nearest
from causal_reft.execution.backend import Backend, check_weights, eagerly, offloaded
from causal_reft.execution.checkpointing import recomputes
from causal_reft.execution.inputs import Inputs
from causal_reft.execution.locating import locate_graph
from causal_reft.execution.row_check import check_row_axis
from causal_reft.execution.threads import one_at_a_time
from causal_reft.execution.transform import States
from causal_reft.execution.visit import PortWork, Visit, find_input
from causal_reft.graph import InterventionGraph
from causal_reft.sites import unwrapped

_OPERATION = re.compile(r"^source:(?P<names>[\w.]+)(\[(?P<item>\d+)\])?$")


class NNsightBackend(Backend):
    """Runs a graph inside traces of an nnsight model.

    Args:
        model: a module, or an nnsight model around one (a `TransformersModel`, an `NNsight`, with the edits stored in
            it).
        graph: the interventions.
        remote: False; True runs on NDIF; "local" serialises, runs here and returns, as a rehearsal.

    Raises:
        SiteError: an operation that a forward does not have.
        RunError: `remote` with a model that nnsight cannot name to a server.
    """

    def __init__(self, model: nn.Module | Envoy, graph: InterventionGraph, remote: bool | str = False) -> None:
        self.envoy = opened(model)
        self.model: nn.Module = self.envoy._module
        self.graph, self.remote = graph, remote
        self.work: dict[str, tuple[PortWork, ...]] = locate_graph(graph, self.model)
        for port in {port.location.key: port for ports in self.work.values() for port in ports}.values():
            _check_operation(self.envoy, port)
        if remote:
            if not hasattr(self.envoy, "_remote_backend"):
                raise RunError(
                    f"remote={remote!r} needs a model that a server can load: TransformersModel('repo/id') instead "
                    "of a module."
                )
            nnsight.register("causal_reft")

    def forward(self, run: str, inputs: Inputs, states: States, *, training: bool, wants_output: bool) -> Any:
        self._refuse_what_would_be_wrong(run)
        visit = Visit(run, portable(self.work[run]), inputs, states, training, strict=bool(self.remote))
        if not wants_output and not visit.work:
            return None
        with one_at_a_time(self.model), eagerly(self.model):
            output, kept = traced(self.envoy, visit, wants_output, self.remote)
        states.update(kept)
        if visit.doubted:
            check_row_axis(self.model, visit, self._look)
        if wants_output:
            visit.check_complete()
        return output

    def generate(self, inputs: Inputs, states: States, **options: Any) -> Any:
        work, strict = portable(self.work["base"]), bool(self.remote)
        visit = Visit("base", work, inputs, states, training=False, decoding=True, strict=strict)
        with one_at_a_time(self.model), eagerly(self.model), _without_warning():
            output = generated(self.envoy, visit, options, self.remote)
        if visit.doubted:
            check_row_axis(self.model, visit, self._look)
        return output

    def _look(self, visit: Visit) -> None:
        """One whole forward in which a visit only collects."""
        visit.work = portable(tuple(visit.work))
        with eagerly(self.model):
            _, kept = traced(self.envoy, visit, True, False)
        visit.states.update(kept)

    def _refuse_what_would_be_wrong(self, run: str) -> None:
        if self.remote is not True:
            check_weights(self.model)
        inside = [port.location.path for port in self.work[run] if port.location.block is not None]
        if inside and recomputes(self.model):
            raise GraphError(
                f"Gradient checkpointing recomputes the layer around {inside[0]!r} during backward, when nnsight's "
                "trace is over: the recomputation would miss the edit and the gradient would be wrong. Use "
                "backend='hooks', or turn it off."
            )
        if offloaded(self.model):
            raise GraphError(
                "accelerate moves this model's weights around each forward, which nnsight's traces do not follow. "
                "Use backend='hooks'."
            )


def opened(model: Any, tokenizer: Any = None, remote: bool | str = False) -> Envoy:
    """An nnsight model around a module, from a repo id or a folder with a language model, or as it was given.

    A repo id stays without weights where only a server will run it.
    """
    if isinstance(model, Envoy):
        return model
    if isinstance(model, nn.Module):
        return NNsight(unwrapped(model))
    from nnsight import TransformersModel

    task = {"task": "text-generation"} if Path(model).is_dir() else {}
    return TransformersModel(str(model), tokenizer=tokenizer, dispatch=remote is not True, **task)


def traced(envoy: Any, visit: Visit, wants_output: bool, remote: bool | str) -> tuple[Any, States]:
    """One forward in one trace, a worker for each port."""
    args, kwargs, options = visit.frame.inputs.args, visit.frame.inputs.kwargs, {"remote": remote} if remote else {}
    output = None
    states = visit.states
    with envoy.trace(**options) as tracer:
        with tracer.invoke(*args, **kwargs):
            if wants_output:
                output = nnsight.save(tracer.result)
                states = nnsight.save(visit.states)
        for port in visit.work:
            with tracer.invoke():
                visit_port(envoy, visit, port)
                if visit.complete and not wants_output:
                    states = nnsight.save(visit.states)
                    tracer.stop()
    return output, states


def generated(envoy: Any, visit: Visit, options: dict[str, Any], remote: bool | str) -> Any:
    """One `generate` in one trace; each worker visits its port in every step."""
    inputs, where = visit.frame.inputs, {"remote": remote} if remote else {}
    output = None
    with envoy.trace(fn=envoy.generate, **where) as tracer:
        with tracer.invoke(*inputs.args, **inputs.kwargs, **options):
            output = nnsight.save(tracer.result)
        with tracer.invoke():
            for _ in tracer.iter[:]:
                note_window(envoy, visit)
        for port in visit.work:
            with tracer.invoke():
                for _ in tracer.iter[:]:
                    visit_port(envoy, visit, port)
    return output


def visit_port(envoy: Any, visit: Visit, port: PortWork) -> None:
    """Inside a trace: wait for the value at a port, visit it, and put back what comes out."""
    place, location = envoy_at(envoy, port.location.path), port.location
    if location.port == "output":
        value = place.output
        new = visit.see(port, value)
        if new is not value:
            place.output = new
    elif location.port == "input":
        args, kwargs = place.inputs
        name = find_input(place, args, kwargs, location)
        value = args[0] if name is None else kwargs[name]
        new = visit.see(port, value)
        if new is not value:
            place.inputs = ((new, *args[1:]), kwargs) if name is None else (args, {**kwargs, name: new})
    else:
        operation, item = operation_at(place, location.port)
        value = operation.output
        new = visit.see(port, value if item is None else value[item])
        if item is None and new is not value:
            operation.output = new
        if item is not None and new is not value[item]:
            operation.output = type(value)([*value[:item], new, *value[item + 1 :]])


def note_window(envoy: Any, visit: Visit) -> None:
    """Inside a traced `generate`: which columns of the text this step computes."""
    args, kwargs = envoy.inputs
    visit.follow(args, kwargs)


def envoy_at(root: Any, path: str) -> Any:
    """The envoy of a module path; by the modules' own names, some of which nnsight shows under others."""
    for part in path.split(".") if path else ():
        root = root._child_map[part]
    return root


def _parsed(port: str) -> re.Match[str]:
    """The parts of a source port.

    Raises:
        SiteError: it is not written as one.
    """
    found = _OPERATION.match(port)
    if found is None:
        raise SiteError(
            f"port={port!r} is not readable. Write 'source:operation_0', 'source:outer_0.inner_1' or "
            "'source:operation_0[1]'."
        )
    return found


def operation_at(place: Any, port: str) -> tuple[Any, int | None]:
    """The operation that a source port names, and the index of the wanted element of its value."""
    found = _parsed(port)
    for name in found["names"].split("."):
        place = getattr(place.source, name)
    return place, None if found["item"] is None else int(found["item"])


def operations(model: nn.Module | Envoy, path: str) -> list[str]:
    """The operations inside a module's forward, as `Site.at(path, port="source:<operation>")` names them, in order.

    Raises:
        SiteError: no such module, or a forward without Python source.
    """
    root = opened(model)
    try:
        return list(envoy_at(root, path).source.names)
    except KeyError as error:
        raise SiteError(f"{type(root._module).__name__} has no module {path!r}.") from error
    except SourceNotAvailable as error:
        raise SiteError(f"{path!r} has no Python source to look into: {error}.") from error


def _check_operation(envoy: Envoy, port: PortWork) -> None:
    """Refuse an operation that the forward does not have (one inside another operation is only found when it runs)."""
    location = port.location
    if not location.port.startswith("source:"):
        return
    first, names = _parsed(location.port)["names"].partition(".")[0], operations(envoy, location.path)
    if first not in names:
        raise SiteError(f"{location.path!r} has no operation {first!r} in its forward. {nearest(first, names)}")


def portable(work: tuple[PortWork, ...]) -> tuple[PortWork, ...]:
    """The same ports without their modules: paths are enough in a trace, and weights must not travel."""
    nowhere = nn.Identity()

    def light(location: Any) -> Any:
        return replace(location, module=nowhere)

    return tuple(
        PortWork(
            light(port.location),
            tuple((name, node, light(where)) for name, node, where in port.edits),
            tuple((site, light(where)) for site, where in port.reads),
            tuple((site, light(where)) for site, where in port.collects),
        )
        for port in work
    )


@contextmanager
def _without_warning() -> Iterator[None]:
    """A loop over the steps of a generation always asks for one more step than there is; nnsight tells."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(?s).*iter.*", category=UserWarning)
        yield
