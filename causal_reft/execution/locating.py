"""Which port of which module does what in each run: a graph located in a model, once."""

from __future__ import annotations

from itertools import chain

import torch
from torch import nn

from causal_reft.execution.visit import PortWork
from causal_reft.graph import Collect, Interchange, InterventionGraph
from causal_reft.graph.intervention_graph import held_modules
from causal_reft.sites import Location, Site, locate


def locate_graph(graph: InterventionGraph, model: nn.Module) -> dict[str, tuple[PortWork, ...]]:
    """For each run, its ports in the order of the graph.

    Raises:
        SiteError: a site that the model does not have.
    """
    located: dict[Site, Location] = {}

    def find(site: Site) -> Location:
        if site not in located:
            located[site] = locate(model, site)
        return located[site]

    ports: dict[str, dict[tuple[str, str], PortWork]] = {run: {} for run in graph.runs}

    def add(run: str, site: Site, role: str, item: tuple) -> None:
        location = find(site)
        port = ports[run].get(location.key) or PortWork(location)
        already = getattr(port, role)
        if item not in already:
            ports[run][location.key] = PortWork(port.location, **{**_roles(port), role: (*already, item)})

    for name, node in graph.nodes.items():
        if isinstance(node, Collect):
            assert node.site is not None
            add(node.run, node.site, "collects", (node.site, find(node.site)))
            continue
        add(node.run, node.site, "edits", (name, node, find(node.site)))
        for need in node.needs():
            assert need.site is not None
            add(need.run, need.site, "reads" if need.run == node.run else "collects", (need.site, find(need.site)))
    return {run: tuple(found.values()) for run, found in ports.items()}


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes: the device of its first parameter or buffer; the CPU where it holds neither."""
    held = next(chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if held is None else held.device


def move_to_sites(graph: InterventionGraph, model: nn.Module) -> None:
    """Move the tensors of each node to the device of its site, where the model has devices and the node is elsewhere.

    A model without weights here (on `meta`) moves nothing.
    """
    home = next((p.device for p in model.parameters()), None)
    if home is None or all(p.device == home for p in graph.parameters()):
        return
    for node in graph.nodes.values():
        assert node.site is not None
        place = next((p.device for p in locate(model, node.site).module.parameters()), home)
        if place.type != "meta":
            for module in held_modules(node).values():
                module.to(place)


def _roles(port: PortWork) -> dict[str, tuple]:
    return {"edits": port.edits, "reads": port.reads, "collects": port.collects}


def is_trainable(node: Interchange | Collect) -> bool:
    """Whether a node holds parameters that ask for gradients."""
    return any(p.requires_grad for module in held_modules(node).values() for p in module.parameters())
