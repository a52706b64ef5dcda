"""A plan as text: what runs, how often, over how many tokens and blocks, what it costs and what is cached.

FLOPs are estimates from the sizes of the weights (two for each weight and token; twice that where a gradient flows back
through frozen weights) and leave attention's products out. The benchmarks measure them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from causal_reft.display import counted
from causal_reft.execution.planning.chosen_passes import ChosenPasses
from causal_reft.execution.planning.joint_passes import Group, JointPasses
from causal_reft.execution.planning.selfcheck import Check
from causal_reft.execution.planning.source_cache import source_runs

HEAD = ("what", "how often", "blocks", "tokens a row", "FLOPs a row", "cached")


def explanation(plan: ChosenPasses) -> str:
    """The table, the checks, and the reasons."""
    rows = [HEAD]
    notes: list[str] = []
    if plan.joint_passes is not None:
        rows += _rows(plan.joint_passes)
        notes += _notes(plan.joint_passes)
    if why_full := plan.why_full():
        notes.append(
            f"as the model is now, every run in full for every batch: {why_full}; fits and scores freeze it and "
            "turn its dropout off first, so for them the rest of this plan holds"
        )
    for reason in dict.fromkeys(plan.refused.values()):
        numbers = [n for n, r in plan.refused.items() if r == reason]
        caches = [plan.source_caches[n] for n in numbers if n in plan.source_caches]
        what = "states of other runs are cached, the base run is computed in full" if caches else "every run in full"
        if caches and caches[0].plain:
            what = "states of other runs and all that is computed before the first edit are cached"
        notes.append(f"{_graphs(len(numbers))}: {what}; no blocks are skipped: {reason}")
    for number, ineffective in plan.ineffective.items():
        notes += [
            f"graph {number}, node {name!r} changes nothing that the loss reads: {reason}"
            for name, reason in ineffective.items()
        ]
    if plan.options.check:
        notes.append(_checks(plan.checks))
    title = f"Plan for {_graphs(len(plan.models))} on {counted(len(plan.examples), 'example')}"
    return "\n".join([title, *(_table(rows) if len(rows) > 1 else []), *(f"  - {note}" for note in notes)])


def _rows(joint: JointPasses) -> list[tuple[str, ...]]:
    how_often = "every batch" if joint.rebuilds else "once per example"
    runs = dict.fromkeys(run for graph in joint.graphs for run in source_runs(graph.model.graph))
    sources = [(f"run {run}", how_often, "to the deepest site", "", "", "states at the sites") for run in runs]
    recorded = [_recorded_row(joint, how_often)] if joint.to_record.places else []
    return [*sources, *recorded, *(_group_row(joint, group) for group in joint.groups)]


def _recorded_row(joint: JointPasses, how_often: str) -> tuple[str, ...]:
    asked = joint.to_record
    last = max(block for block, _ in asked.places)
    tokens = _text(joint) if asked.entries else float(asked.prefix.double().mean())
    flops = sum(_weights(joint, block) for block in range(last + 1)) * 2 * tokens
    cached = f"{_bytes(joint.bytes_per_row)} a row" if joint.rebuilds is not None else "not built yet"
    cached = f"{_bytes(joint.bytes)} in all" if joint.bytes else cached
    return ("base, no edits", how_often, f"0-{last}", f"{tokens:.1f}", _number(flops), cached)


def _group_row(joint: JointPasses, group: Group) -> tuple[str, ...]:
    tokens, reads = _tokens(joint, group), float(joint.data.scored.counts.double().mean())
    entries, n_blocks = [graph.entry for graph in group.graphs], joint.decoder.n_blocks
    first = f"{min(entries) + 1}-{n_blocks - 1}" if min(entries) + 1 < n_blocks else "none"
    shape = " as a staircase" if len(set(entries)) > 1 else " stacked" if len(entries) > 1 else ""
    where = f"{tokens:.1f} of {_text(joint):.1f}, head {reads:.1f}"
    return (
        f"base, {_graphs(len(entries))}{shape}",
        "every batch",
        first,
        where,
        _number(sum(_flops(joint, group))),
        "",
    )


def row_flops(plan: ChosenPasses) -> list[float]:
    """FLOPs of one row in one training step of each graph; 1 for each where the plan does not know."""
    found = [1.0] * len(plan.models)
    if plan.joint_passes is not None:
        numbers = list(plan.graphs)  # of the joint passes' graphs among all
        for group in plan.joint_passes.groups:
            for number, flops in zip(group.numbers, _flops(plan.joint_passes, group), strict=True):
                found[numbers[number]] = flops
    return found


def _flops(joint: JointPasses, group: Group) -> list[float]:
    """Of one row of each graph of a group in one step."""
    tokens, reads = _tokens(joint, group), float(joint.data.scored.counts.double().mean())
    weights = [_weights(joint, block) for block in range(joint.decoder.n_blocks)]
    head = sum(p.numel() for p in joint.decoder.head.parameters()) * reads
    return [4 * (sum(weights[graph.entry + 1 :]) * tokens + head) for graph in group.graphs]


def _tokens(joint: JointPasses, group: Group) -> float:
    """Tokens of a row that every step computes, on average."""
    windows = group.windows if joint.uses_prefix else group.windows.without_prefix()
    return float((windows.stop - windows.start).double().mean())


def _text(joint: JointPasses) -> float:
    """Real tokens of a row, on average."""
    mask = joint.data.inputs.mask
    assert mask is not None
    return float((mask != 0).sum(1).double().mean())


def _notes(joint: JointPasses) -> list[str]:
    found = []
    if joint.decoder.prefix_refused:
        found.append(f"early tokens are computed again in every step: {joint.decoder.prefix_refused}")
    if joint.rebuilds:
        size = _bytes(joint.bytes_per_row * len(joint.examples))
        found.append(
            f"recorded again for every batch: {size} would be cached, the budget is {_bytes(joint.memory)} (memory=...)"
        )
    if any(path for _, _, path in joint.to_record.entries):
        found.append("cached too: queries, keys and values of unedited tokens in the first block after each entry")
    if joint.format.dtype is not None:
        found.append(f"keys and values are cached in {joint.format.dtype}: not exact")
    if any(graph.entry < 0 for graph in joint.graphs):
        found.append("a graph edits inside block 0 or before it, so no block is skipped for it")
    return found


def _checks(checks: Mapping[int, Check]) -> str:
    if not checks:
        return "self-check: on the first batch (check=False switches it off)"
    seconds = sum(check.seconds for check in checks.values())
    worst = max(
        checks.values(),
        key=lambda check: max(check.logits, check.gradient if check.gradient == check.gradient else 0.0),
    )
    passed = sum(check.passed for check in checks.values())
    return f"self-check: {passed} of {_graphs(len(checks))} passed in {seconds:.2f} s; worst: {worst}"


def _weights(joint: JointPasses, block: int) -> int:
    return sum(p.numel() for p in joint.decoder.blocks.modules[block].parameters())


def _graphs(count: int) -> str:
    return counted(count, "graph")


def _number(value: float | int) -> str:
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


def _bytes(value: float | int) -> str:
    return f"{_number(value)}B" if value >= 1e3 else f"{value:.0f} B"


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
