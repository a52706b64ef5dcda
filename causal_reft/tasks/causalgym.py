"""CausalGym (Arora et al. 2024): minimal pairs of sentences that differ in one feature, which decides the next word.

Two formats. *Templates* (a .json of suites) list what may fill each slot; one or more label slots depend on the
type ("singular", "plural"), and every type has its own continuations. *Pairs* (.json or .jsonl) are sentences drawn
from them, cut into regions: `base`, `src` (lists of texts), `base_type`, `src_type`, `base_label`, `src_label`, `task`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from causal_reft.causal import CausalModel, CounterfactualDataset, Task, Template
from causal_reft.causal.columns import Column
from causal_reft.errors import DataError, nearest
from causal_reft.tasks.lookup import Select
from causal_reft.tasks.records import Record, from_records, read_records


def load_causalgym_task(path: str | Path, suite: str, template: int = 0) -> Task:
    """One suite of a template file as a task: the variable is `kind` (the type), the answer its first continuation."""
    suites = json.loads(Path(path).read_text(encoding="utf-8"))
    if suite not in suites:
        raise DataError(f"{Path(path).name} has no suite {suite!r}. {nearest(suite, suites)}")
    return _task(suite, suites[suite], template)


def load_causalgym_pairs(path: str | Path, task: str) -> CounterfactualDataset:
    """The pairs of one task as counterfactuals of `kind`; every region is a span, `region_0`, `region_1`, ..."""
    rows = read_records(path)
    chosen = [row for row in rows if row["task"] == task]
    if not chosen:
        raise DataError(f"{Path(path).name} has no task {task!r}. {nearest(task, {row['task'] for row in rows})}")
    kinds = sorted({row[name] for row in chosen for name in ("base_type", "src_type")})
    sides = {run: [_record(row, run) for row in chosen] for run in ("base", "src")}
    data = from_records(CausalModel({"kind": kinds}, {"answer": _same}), "kind", sides["base"], sides["src"])
    texts = {run: [row[f"{run}_label"] for row in chosen] for run in ("base", "src")}
    return replace(
        data,
        base=data.base.assign(text=texts["base"]),
        sources={"kind": data.sources["kind"].assign(text=texts["src"])},
        labels=data.labels.assign(text=texts["src"]),
    )


def _same(kind: Column) -> Column:
    return kind.copy()


def _record(row: Mapping[str, Any], run: str) -> Record:
    edges = [0]
    for region in row[run]:
        edges.append(edges[-1] + len(region))
    spans = {f"region_{i}": range(edges[i], edges[i + 1]) for i in range(len(row[run]))}
    return Record({"kind": row[f"{run}_type"]}, "".join(row[run]), None, spans)


def _task(name: str, suite: Mapping[str, Any], template: int) -> Task:
    kinds = {kind: _identifier(kind) for kind in suite["labels"]}
    label_slots = [suite["label"]] if isinstance(suite["label"], str) else list(suite["label"])
    space = " " if suite.get("label_prepend_space", False) else ""
    inputs: dict[str, Sequence[str]] = {"kind": list(kinds)}
    mechanisms: dict[str, Any] = {}
    for slot, words in suite["variables"].items():
        if slot in label_slots:
            named = {kind: f"{slot}_{word}" for kind, word in kinds.items()}
            inputs |= {named[kind]: list(dict.fromkeys(space + word for word in words[kind])) for kind in kinds}
            mechanisms[slot] = Select("kind", tuple(named.values()), values=tuple(named))
        else:
            inputs[slot] = list(dict.fromkeys(words))
    model = CausalModel(inputs, {**mechanisms, "answer": _same}, outputs=("answer",))
    lead = " " if suite["result_prepend_space"] else ""
    answers = {kind: lead + labels[0] for kind, labels in suite["labels"].items()}
    return Task(f"CausalGym {name}", model, Template(_numbered(suite["templates"][template])), answers, ("kind",))


def _identifier(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _numbered(text: str) -> str:
    """Name the second and later showings of one slot, so that each is a span of its own."""
    seen: dict[str, int] = {}

    def name(match: re.Match[str]) -> str:
        slot = match.group(1)
        seen[slot] = seen.get(slot, 0) + 1
        return f"{{{slot}}}" if seen[slot] == 1 else f"{{{slot}_{seen[slot]}={slot}}}"

    return re.sub(r"\{(.+?)\}", name, text)
