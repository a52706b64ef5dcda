"""The cases (A) to (F): for each, contenders that do the same work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import causal_reft as cr
from benchmarks.comparison import theirs
from benchmarks.comparison.clock import Contender
from benchmarks.comparison.setting import Setting, answers, model_of, texts
from causal_reft.execution import Examples, FullPasses, IntervenedModel, plan, plan_all
from causal_reft.featurizers import Rotation, computed_once, random_frames
from causal_reft.tensors import Tensor
from causal_reft.training import cross_entropy

ROWS = 8


@dataclass(frozen=True)
class Case:
    """One comparison. The first contender is the reference of every ratio."""

    part: str
    name: str
    contenders: dict[str, Contender]


def das(model: nn.Module, setting: Setting, layer: int, position: object) -> IntervenedModel:
    """Our DAS at one block's output."""
    return IntervenedModel(model, cr.das(cr.Site(layer, positions=position), setting.d_model, setting.rank)).train()


def backward(passes: Callable[[], list], models: list[IntervenedModel]) -> None:
    """One step without the optimizer."""
    with computed_once():
        losses = [cross_entropy(scored.logits, scored.targets).mean() for scored in passes()]
        torch.stack(losses).sum().backward()
    for model in models:
        model.zero_grad()


def ours(models: list[IntervenedModel], examples: Examples, rows: Tensor) -> Callable[[], None]:
    """One step of several graphs together; what is computed once is computed here."""
    joint = kept_open(plan_all(models, examples, check=False))
    with torch.no_grad():
        joint.scored(rows)
    return lambda: backward(lambda: joint.scored(rows), models)


def kept_open(passes: Any) -> Any:
    """A plan whose loop is never over, so that every round finds what was cached."""
    return passes.__enter__()


def explained(setting: Setting) -> str:
    """A sweep over all layers at two positions, in the plan's own words after its first batch."""
    model, examples = model_of(setting), texts(setting, ROWS)
    sites = [(layer, where) for where in (-1, setting.middle) for layer in range(setting.n_layers)]
    with plan_all([das(model, setting, layer, where) for layer, where in sites], examples) as joint:
        joint.scored(torch.arange(2))
        return joint.explain()


def single_steps(setting: Setting) -> Iterator[Case]:
    """(A) One DAS step, by layer and position."""
    model, examples, rows = model_of(setting), texts(setting, ROWS), torch.arange(setting.B)
    for layer in (0, setting.n_layers // 2, setting.n_layers - 2):
        for label, position in (("last", -1), ("middle", setting.middle)):
            mine = das(model, setting, layer, position)
            full = FullPasses(mine, examples)
            contenders = {
                "pyvene": Contender(theirs.das_step(model, setting, layer, examples, rows, position % setting.T)),
                "ours, full passes": Contender(
                    lambda full=full, mine=mine: backward(lambda: [full.scored(rows)], [mine])
                ),
                "ours": Contender(ours([mine], examples, rows)),
            }
            yield Case("A", f"{setting.name}, layer {layer}, {label}", contenders)


def sweeps(setting: Setting) -> Iterator[Case]:
    """(B) All layers at some positions; pyvene's sweep is the mean of its first and last layer, times the sites."""
    model, examples, rows = model_of(setting), texts(setting, ROWS), torch.arange(setting.B)
    n = setting.n_layers
    sweep = {"last": [-1], "middle": [setting.middle], "last, -2, -4, middle": [-1, -2, -4, setting.middle]}
    for label, positions in sweep.items():
        sites = [(layer, where) for where in positions for layer in range(n if where == -1 else n - 1)]
        models = [das(model, setting, layer, where) for layer, where in sites]
        first, last = (theirs.das_step(model, setting, k, examples, rows, positions[0] % setting.T) for k in (0, n - 1))

        def both(first: Callable[[], None] = first, last: Callable[[], None] = last) -> None:
            first()
            last()

        contenders = {"pyvene": Contender(both, len(sites) / 2), "ours": Contender(ours(models, examples, rows))}
        if label == "last":
            steps = [ours([m], examples, rows) for m in models]
            contenders["ours, site by site"] = Contender(lambda steps=steps: [step() for step in steps])
        yield Case("B", f"{setting.name}, {len(sites)} sites: all layers, {label}", contenders)


def controls(setting: Setting, count: int = 100) -> Iterator[Case]:
    """(B) A hundred random subspaces of one last-token site, evaluated on one batch."""
    model, examples = model_of(setting), texts(setting, setting.B)
    layer, rows = setting.n_layers // 2, torch.arange(setting.B)
    frames, site = random_frames(count, setting.rank, setting.d_model, 0), cr.Site(layer, positions="last")
    full = FullPasses(das(model, setting, layer, "last"), examples)
    joint = controls_plan(model, examples, site, frames)

    def naive() -> None:
        with torch.no_grad():
            full.scored(rows)

    contenders = {
        "one naive evaluation": Contender(naive),
        f"ours, {count} subspaces": Contender(joint),
        f"ours, {count} subspaces with recording": Contender(lambda: controls_plan(model, examples, site, frames)),
    }
    yield Case("B", f"{setting.name}, {count} random subspaces, layer {layer}, last", contenders)


def controls_plan(model: nn.Module, examples: Examples, site: cr.Site, frames: Tensor) -> Callable[[], None]:
    """Records and evaluates once; what comes back is the evaluation alone."""
    graphs = [cr.InterventionGraph(c=cr.Interchange(site, cr.Subspace.from_rows(f), cr.Collect())) for f in frames]
    joint = plan_all(
        [IntervenedModel(model, graph).train(False) for graph in graphs], examples, check=False
    ).__enter__()
    rows = torch.arange(len(examples))

    def run() -> None:
        with torch.no_grad(), computed_once():
            joint.scored(rows)

    run()
    return run


@dataclass(frozen=True)
class Places:
    """Prompt tokens that LoReFT edits: as our sites name them and as pyreft's columns, a subspace for each."""

    name: str
    sites: tuple[str, ...]
    columns: Callable[[int], list[list[int]]]


F5_L5 = Places("f5+l5", ("f5", "l5"), lambda prompt: [list(range(5)), list(range(prompt - 5, prompt))])
SHARED = Places("f5+l5 shared", ("f5+l5",), lambda prompt: [[*range(5), *range(prompt - 5, prompt)]])
L5 = Places("l5", ("l5",), lambda prompt: [list(range(prompt - 5, prompt))])


def loreft(setting: Setting, rank: int = 4) -> Iterator[Case]:
    """(C) LoReFT steps at all layers. `f5+l5` has one subspace for the first and one for the last tokens, as pyreft
    has unless it is told to share."""
    model, rows, n = model_of(setting), torch.arange(setting.B), setting.n_layers
    for places, n_answer in ((F5_L5, 8), (F5_L5, 1), (SHARED, 8), (SHARED, 1), (L5, 8)):
        examples, columns = answers(setting, ROWS, n_answer), places.columns(setting.T - n_answer)
        graph = cr.loreft(cr.site_grid(range(n), places.sites), setting.d_model, rank, init="random")
        reft = theirs.loreft_model(model, setting, rank, len(columns))

        def step(reft: object = reft, examples: Examples = examples, columns: list[list[int]] = columns) -> None:
            theirs.loreft_loss(reft, examples, rows, columns, n).backward()
            reft.zero_grad()  # type: ignore[attr-defined]

        mine = ours([IntervenedModel(model, graph).train()], examples, rows)
        name = f"{setting.name}, LoReFT, {places.name}, {n_answer} answer token{'s' * (n_answer > 1)}"
        yield Case("C", name, {"pyreft": Contender(step), "ours": Contender(mine)})


def collection(setting: Setting) -> Iterator[Case]:
    """(D) States of all layers at one position."""
    model, examples, rows = model_of(setting), texts(setting, setting.B), torch.arange(setting.B)
    base = theirs.batch(examples, "base", rows)
    for label, position in (("last", setting.T - 1), ("middle", setting.middle)):
        collecting = theirs.collector(model, range(setting.n_layers))
        where = {"sources->base": (None, [[[position]] * setting.B] * setting.n_layers)}
        nodes = {f"at_{k}": cr.Collect("base", cr.Site(k, positions=position)) for k in range(setting.n_layers)}
        mine = IntervenedModel(model, cr.InterventionGraph(**nodes))

        def collect(mine: IntervenedModel = mine) -> None:
            with torch.no_grad():
                mine.collect(base)

        def their_collect(collecting: object = collecting, where: object = where) -> None:
            with torch.no_grad():
                collecting(base, unit_locations=where)  # type: ignore[operator]

        contenders = {"pyvene": Contender(their_collect), "ours": Contender(collect)}
        yield Case("D", f"{setting.name}, all layers, {label}", contenders)


def generation(setting: Setting, new_tokens: int = 32) -> Iterator[Case]:
    """(E) Greedy generation from edited prompts."""
    model, examples = model_of(setting), texts(setting, setting.B)
    base = theirs.batch(examples, "base", torch.arange(setting.B))
    layer, rank = setting.n_layers // 2, 4
    options = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False, "pad_token_id": 0}
    mine = IntervenedModel(model, cr.loreft(cr.Site(layer, positions="last"), setting.d_model, rank, init="random"))
    reft = theirs.single_loreft(model, setting, layer, rank)
    where = {"sources->base": (None, [[[setting.T - 1]] * setting.B])}
    contenders = {
        "pyvene": Contender(lambda: reft.generate(base, unit_locations=where, intervene_on_prompt=True, **options)),
        "the model's own generate": Contender(lambda: model.generate(**base, **options)),  # type: ignore[operator]
        "ours": Contender(lambda: mine.generate(base, **options)),
    }
    yield Case("E", f"{setting.name}, {new_tokens} tokens, layer {layer}, last", contenders)


def rotations(sizes: list[tuple[int, int]]) -> Iterator[Case]:
    """(F) Orthonormal rows forward and backward, against torch's Householder parametrisation."""
    for d_model, rank in sizes:
        mine = Rotation.random(rank, d_model, 0)
        linear = nn.Linear(rank, d_model, bias=False)
        orthogonal = torch.nn.utils.parametrizations.orthogonal(linear)
        weights = torch.randn(rank, d_model)

        def own(mine: Rotation = mine, weights: Tensor = weights) -> None:
            (mine.rows(torch.float32) * weights).sum().backward()

        def householder(orthogonal: nn.Module = orthogonal, weights: Tensor = weights) -> None:
            (orthogonal.weight.T * weights).sum().backward()

        contenders = {"Householder parametrisation": Contender(householder), "ours": Contender(own)}
        yield Case("F", f"rotation, d = {d_model}, r = {rank}", contenders)


def equality(batch: int) -> Iterator[Case]:
    """(A) One step of the hierarchical-equality study, a network of three layers of 16 units, with its data and
    optimizer."""
    from causal_reft.tasks.equality_network import EqualityNetwork

    network = EqualityNetwork(16, 3).eval().requires_grad_(False)
    runs = {run: torch.randn(2 * batch, 16) for run in ("base", "source")}
    examples = Examples(runs, torch.randint(0, 2, (2 * batch,)))
    mine = IntervenedModel(network, cr.das(cr.Site.at("blocks.0"), 16, 8)).train()
    rows, optimizer = torch.arange(batch), torch.optim.AdamW(mine.trainable_parameters(), lr=1e-3)
    passes = kept_open(plan(mine, examples, check=False))

    def step() -> None:
        backward(lambda: [passes.scored(rows)], [])
        optimizer.step()
        optimizer.zero_grad()

    contenders = {
        "pyvene": Contender(theirs.equality_step(examples, rows)),
        "ours": Contender(step),
    }
    yield Case("A", f"hierarchical equality, batch {batch}", contenders)
