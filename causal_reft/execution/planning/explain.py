"""A plan in words and numbers: what runs, how often, over how many tokens and blocks, what it costs and what is kept.

FLOPs are estimates from the sizes of the weights (two for each weight and token; twice that where a gradient flows back
through frozen weights) and leave attention's products out. The benchmarks measure them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from causal_reft.execution.planning.collected import lending_runs
from causal_reft.execution.planning.together import Group, Together

if TYPE_CHECKING:
    from causal_reft.execution.planning.plan import JointPlan

HEAD = ("what", "how often", "blocks", "tokens a row", "FLOPs a row", "kept")


def explanation(plan: JointPlan) -> str:
    """The table, the checks, and the reasons."""
    rows = [HEAD]
    notes: list[str] = []
    if reason := plan.why_full():
        notes.append(f"everything in full for every batch: {reason}")
    elif plan.together is not None:
        rows += _rows(plan.together)
        notes += _notes(plan.together)
    for reason in dict.fromkeys(plan.refused.values()):
        numbers = [n for n, r in plan.refused.items() if r == reason]
        kept = [n for n in numbers if n in plan.lent]
        what = "states of other runs are kept, the base run is computed in full" if kept else "every run in full"
        if kept and plan.lent[kept[0]].plain:
            what = "states of other runs and all that is computed before the first edit are kept"
        notes.append(f"{_graphs(len(numbers))}: {what}; no blocks are skipped: {reason}")
    for number, ineffective in plan.ineffective.items():
        notes += [
            f"graph {number}, node {name!r} changes nothing that the loss reads: {reason}"
            for name, reason in ineffective.items()
        ]
    if plan.options.check:
        notes.append(_checks(plan))
    title = f"Plan for {_graphs(len(plan.models))} on {len(plan.examples)} examples"
    return "\n".join([title, *(_table(rows) if len(rows) > 1 else []), *(f"  - {note}" for note in notes)])


def _rows(together: Together) -> list[tuple[str, ...]]:
    how_often = "every batch" if together.rebuilds else "once per example"
    runs = dict.fromkeys(run for member in together.members for run in lending_runs(member.model.graph))
    lent = [(f"run {run}", how_often, "to the deepest site", "", "", "states at the sites") for run in runs]
    recorded = [_recorded_row(together, how_often)] if together.wanted.places else []
    return [*lent, *recorded, *(_group_row(together, group) for group in together.groups)]


def _recorded_row(together: Together, how_often: str) -> tuple[str, ...]:
    wanted = together.wanted
    last = max(block for block, _ in wanted.places)
    tokens = _text(together) if wanted.entries else float(wanted.prefix.double().mean())
    flops = sum(_weights(together, block) for block in range(last + 1)) * 2 * tokens
    kept = f"{_bytes(together.bytes_per_row)} a row" if together.rebuilds is not None else "not built yet"
    kept = f"{_bytes(together.bytes)} in all" if together.bytes else kept
    return ("base, no edits", how_often, f"0-{last}", f"{tokens:.1f}", _number(flops), kept)


def _group_row(together: Together, group: Group) -> tuple[str, ...]:
    windows = group.windows if together.uses_prefix else group.windows.from_the_beginning()
    tokens = float((windows.stop - windows.start).double().mean())
    entries, n_blocks = [member.entry for member in group.members], together.decoder.n_blocks
    blocks = sum(_weights(together, block) for entry in entries for block in range(entry + 1, n_blocks))
    reads = float(together.data.reads.columns.counts.double().mean())
    head = sum(p.numel() for p in together.decoder.head.parameters()) * reads * len(entries)
    first = f"{min(entries) + 1}-{n_blocks - 1}" if min(entries) + 1 < n_blocks else "none"
    shape = " as a staircase" if len(set(entries)) > 1 else " stacked" if len(entries) > 1 else ""
    where = f"{tokens:.1f} of {_text(together):.1f}, head {reads:.1f}"
    return (
        f"base, {_graphs(len(entries))}{shape}",
        "every batch",
        first,
        where,
        _number(4 * (blocks * tokens + head)),
        "",
    )


def _text(together: Together) -> float:
    """Real tokens of a row, on average."""
    mask = together.data.inputs.mask
    assert mask is not None
    return float((mask != 0).sum(1).double().mean())


def _notes(together: Together) -> list[str]:
    found = []
    if together.decoder.prefix_refused:
        found.append(f"early tokens are computed again in every step: {together.decoder.prefix_refused}")
    if together.rebuilds:
        size = _bytes(together.bytes_per_row * len(together.examples))
        found.append(
            f"recorded again for every batch: {size} would be kept, the budget is {_bytes(together.memory)} "
            f"(memory=...)"
        )
    if any(path for _, _, path in together.wanted.entries):
        found.append("kept too: queries, keys and values that no edit touches, in the first block behind each entry")
    if together.place.dtype is not None:
        found.append(f"keys and values are kept in {together.place.dtype}: not exact")
    if any(member.entry < 0 for member in together.members):
        found.append("a graph edits inside block 0 or before it, so no block is skipped for it")
    return found


def _checks(plan: JointPlan) -> str:
    if not plan.checks:
        return "self-check: on the first batch (check=False switches it off)"
    seconds = sum(check.seconds for check in plan.checks.values())
    worst = max(
        plan.checks.values(),
        key=lambda check: max(check.logits, check.gradient if check.gradient == check.gradient else 0.0),
    )
    passed = sum(check.passed for check in plan.checks.values())
    return f"self-check: {passed} of {_graphs(len(plan.checks))} passed in {seconds:.2f} s; worst: {worst}"


def _weights(together: Together, block: int) -> int:
    return sum(p.numel() for p in together.decoder.blocks.modules[block].parameters())


def _graphs(count: int) -> str:
    return f"{count} graph{'s' * (count != 1)}"


def _number(value: float | int) -> str:
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


def _bytes(value: float | int) -> str:
    return f"{_number(value)}B".replace("kB", "kB") if value >= 1e3 else f"{value:.0f} B"


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
