"""The page docs/architectures.md, written by running every family x component here on tiny random models.

    python -m tests.status_table            run everything and write the page
    python -m tests.status_table llama t5   run some families and print their rows

Columns: *collect* equals a plain torch hook at the module; *interchange* puts the source's state there; *gradient*
    equals a central difference; *generate* with a cache gives the tokens that it gives without one; *fast path* is
    exact against full passes; *nnsight* gives the logits of hooks. A check that fails prints why and makes the script
    fail.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path

import torch
from torch import nn

import causal_reft as cr
from causal_reft.execution import FullPasses
from causal_reft.sites import ARCHITECTURES, Location, locate
from tests.families import FAMILIES, inputs_of, model_of, output_of

PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"
STEP = 2e-4  # larger ones meet T5's kinks, smaller ones the rounding of norms that are computed in float32
YES, CACHED, FULL, LACKS = "✓", "○", "·", ""
HEAD = """# Architectures

This page is written by `python -m tests.status_table`, which runs every cell on tiny random models in float64;
nothing in it is written by hand. An empty row means that the family has no such value as a module's input or output;
name any other module by its path, `Site.at("path.of.the.module")`, or describe a family of your own with
`register_architecture`.

- **collect**: what is collected equals a plain torch hook at that module.
- **interchange**: after an interchange of the last token the state there is the source's.
- **gradient**: the gradient of a LoReFT edit equals a central difference.
- **generate**: with a cache, an edit of the prompt and of generated tokens gives the tokens that it gives without a
  cache.
- **fast path**: computed from a block on (✓), or with cached states of other runs (○), with the gradients of full
  passes; `·` where full passes are used.
- **nnsight**: the logits under the nnsight backend are those under hooks.

A component means the same in every family: queries, keys and values are what the projections give, before rotary
embeddings and norms of heads; `attention_output` and `mlp_output` are what the last projection gives, before a norm
that some families put after it. An encoder-decoder model has two stacks, and a site names one of them: `Site(3,
"decoder.block_output")`.
"""


def site_of(component: str, positions: str = "all") -> cr.Site:
    """The component of the last block (or of the whole model)."""
    return cr.Site(None if component.endswith(("embeddings", "final_norm")) else 1, component, positions)


@cache
def wrapped(name: str):
    """An nnsight model around a copy."""
    from nnsight import NNsight

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return NNsight(deepcopy(model_of(name)))


@cache
def width(name: str, component: str) -> int:
    """How wide the component is."""
    graph = cr.InterventionGraph(seen=cr.Collect("base", site_of(component)))
    return cr.IntervenedModel(model_of(name), graph).collect(inputs_of(name))["seen"].shape[-1]


def loreft(name: str, component: str, positions: str) -> cr.InterventionGraph:
    """A LoReFT edit with masters in float64."""
    graph = cr.loreft(site_of(component, positions), width(name, component), 2, init="random")
    graph.modules.double()
    return graph


def loss_of(model: cr.IntervenedModel, name: str) -> torch.Tensor:
    """A smooth number that every edit moves."""
    return torch.nan_to_num(output_of(model(inputs_of(name)))).pow(2).mean()


def collects(name: str, component: str) -> str:
    """Against a hook of our own."""
    found: list[torch.Tensor] = []
    location = locate(model_of(name), site_of(component))

    def take(value: object) -> None:
        found.append((value[0] if isinstance(value, tuple) else value).clone())  # falcon adds to it in place

    handle = _plain_hook(location, take)
    graph = cr.InterventionGraph(seen=cr.Collect("base", site_of(component)))
    inputs = inputs_of(name, lengths=(5, 5))
    try:
        seen = cr.IntervenedModel(model_of(name), graph).collect(inputs)["seen"]
    finally:
        handle.remove()
    features = location.features(found[0].shape[-1])
    value = found[0] if features is None else found[0][..., features]
    assert torch.equal(seen.flatten(), value.flatten())
    return YES


def _plain_hook(location: Location, take: Callable[[object], None]):
    if location.port == "output":
        return location.module.register_forward_hook(lambda module, args, output: take(output))
    return location.module.register_forward_pre_hook(
        lambda module, args, kwargs: take(
            args[0] if args else next(v for v in kwargs.values() if isinstance(v, torch.Tensor))
        ),
        with_kwargs=True,
    )


def interchanges(name: str, component: str) -> str:
    """The state of the source at the last token, and only there."""
    where, d = site_of(component, "last"), width(name, component)
    graph = cr.InterventionGraph(
        edit=cr.Interchange(where, cr.Identity(d), cr.Collect("source")), seen=cr.Collect("base", where)
    )
    source = cr.InterventionGraph(seen=cr.Collect("base", where))
    seen = cr.IntervenedModel(model_of(name), graph)(inputs_of(name), source=inputs_of(name, 1)).collected["seen"]
    wanted = cr.IntervenedModel(model_of(name), source).collect(inputs_of(name, 1))["seen"]
    own = cr.IntervenedModel(model_of(name), source).collect(inputs_of(name))["seen"]
    assert torch.equal(seen, wanted)
    assert not torch.equal(own, wanted)
    return YES


def differentiates(name: str, component: str) -> str:
    """One random direction in the space of all parameters, by central difference."""
    graph = loreft(name, component, "f2+l1")
    model, parameters = cr.IntervenedModel(model_of(name), graph), list(graph.parameters())
    gradient = torch.autograd.grad(loss_of(model, name), parameters)
    draw = torch.Generator().manual_seed(0)
    steps = [torch.randn(p.shape, generator=draw, dtype=p.dtype) for p in parameters]
    slope = sum((g * s).sum() for g, s in zip(gradient, steps, strict=True))
    difference = _central_difference(model, name, parameters, steps)
    assert abs(slope - difference) <= 1e-2 * abs(difference) + 5e-4, f"{slope:.3e} against {difference:.3e}"
    assert float(sum(g.abs().sum() for g in gradient)) > 1e-6
    return YES


@torch.no_grad()
def _central_difference(
    model: cr.IntervenedModel, name: str, parameters: list[nn.Parameter], steps: list[torch.Tensor]
) -> torch.Tensor:
    """(loss(+STEP) - loss(-STEP)) / (2 STEP) along the steps."""
    values, start = [], [p.clone() for p in parameters]
    for sign in (1, -1):
        for p, s, at in zip(parameters, steps, start, strict=True):
            p.copy_(at + sign * STEP * s)
        values.append(loss_of(model, name))
    for p, at in zip(parameters, start, strict=True):
        p.copy_(at)
    return (values[0] - values[1]) / (2 * STEP)


def generates(name: str, component: str) -> str:
    """With a cache as without."""
    if not getattr(model_of(name), "can_generate", lambda: False)():
        return LACKS
    inputs = {key: value for key, value in inputs_of(name, lengths=(5, 5, 5)).items() if not key.startswith("decoder")}
    model = cr.IntervenedModel(
        model_of(name), loreft(name, component, "last" if component.startswith("encoder") else "last+generated")
    )
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(model.generate(**inputs, **options), model.generate(**inputs, use_cache=False, **options))
    return YES


def is_fast(name: str, component: str) -> str:
    """Exact against full passes, and by which way."""
    if FAMILIES[name].kind != "decoder":
        return FULL
    data = cr.Examples({"base": inputs_of(name)}, torch.tensor([3, 1, 2]))
    graph, rows = loreft(name, component, "last"), torch.arange(3)
    model = cr.IntervenedModel(model_of(name), graph)
    joint = cr.plan(model, data, check=False).joint
    gradients = []
    for scored in (joint.scored(rows)[0], FullPasses(model, data).scored(rows)):
        loss = nn.functional.cross_entropy(scored.logits, scored.targets)
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(graph.parameters()))]))
    assert (gradients[0] - gradients[1]).norm() <= 1e-9 * gradients[1].norm()
    chosen = joint.chosen
    return YES if 0 in chosen.graphs else CACHED if 0 in chosen.source_caches else FULL


def traces(name: str, component: str) -> str:
    """Logits under nnsight."""
    graph = loreft(name, component, "f2+l1")
    mine = output_of(cr.IntervenedModel(wrapped(name), graph, backend="nnsight")(inputs_of(name)))
    assert torch.equal(
        torch.nan_to_num(mine), torch.nan_to_num(output_of(cr.IntervenedModel(model_of(name), graph)(inputs_of(name))))
    )
    return YES


CHECKS = {
    "collect": collects,
    "interchange": interchanges,
    "gradient": differentiates,
    "generate": generates,
    "fast path": is_fast,
    "nnsight": traces,
}


def components_of(name: str) -> list[str]:
    """Every component that the family's row has."""
    row = ARCHITECTURES[model_of(name).config.model_type]
    return (
        [*row.components]
        if row.decoder is None
        else [f"encoder.{c}" for c in row.components] + [f"decoder.{c}" for c in row.decoder.components]
    )


def section(name: str) -> tuple[str, list[str]]:
    """The family's table in Markdown, and what failed."""
    failures, lines = (
        [],
        [
            f"## {name}\n",
            f"`{type(model_of(name)).__name__}`\n",
            f"| component | {' | '.join(CHECKS)} |",
            "|---" * (len(CHECKS) + 1) + "|",
        ],
    )
    for component in components_of(name):
        cells = []
        for title, check in CHECKS.items():
            try:
                cells.append(check(name, component))
            except Exception as error:  # noqa: PERF203 - what fails is a cell
                cells.append("✗")
                failures.append(f"{name} {component} {title}: {type(error).__name__}: {error}")
        lines.append(f"| `{component}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n", failures


SHORT = {
    "embeddings": "emb", "block_input": "in", "block_output": "out", "attention_input": "attn in",
    "attention_query": "q", "attention_key": "k", "attention_value": "v", "attention_head_output": "heads",
    "attention_output": "attn out", "mlp_input": "mlp in", "mlp_activation": "mlp act", "mlp_output": "mlp out",
    "final_norm": "norm",
}  # fmt: skip


def matrix(sections: Sequence[str]) -> str:
    """Family x component, from the sections: how fast it is; nothing where the family lacks it; ✗: a check fails."""
    heads = " | ".join(SHORT.values())
    lines = [f"| family | {heads} |", "|---" * (len(SHORT) + 1) + "|"]
    for text in sections:
        name = text.partition("\n")[0].removeprefix("## ")
        found: dict[str, str] = {}
        for row in re.findall(r"^\| `(.+?)` \| (.+) \|$", text, flags=re.MULTILINE):
            cells = [cell.strip() for cell in row[1].split("|")]
            worst = "✗" if "✗" in cells else cells[list(CHECKS).index("fast path")]
            found.setdefault(row[0].rpartition(".")[2], worst)
        lines.append(f"| [{name}](#{name}) | {' | '.join(found.get(component, '') for component in SHORT)} |")
    return (
        "\n".join(
            [
                "## All families\n",
                "The column *fast path* of the tables below, of two stacks the first one's.\n",
                *lines,
            ]
        )
        + "\n"
    )


def page_of(sections: Sequence[str]) -> str:
    """The whole page."""
    return "\n".join([HEAD, matrix(sections), *sections])


def main(names: list[str]) -> int:
    """Run, write or print, and fail if anything failed."""
    torch.set_num_threads(1)
    sections, failures = zip(*(section(name) for name in names or FAMILIES), strict=True)
    if names:
        print("\n".join(sections))
    else:
        PAGE.write_text(page_of(sections), encoding="utf-8")
    for failure in (failure for found in failures for failure in found):
        print(failure, file=sys.stderr)
    return int(any(failures))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
