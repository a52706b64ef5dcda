"""From the parts of a dataset to the rows of a study: filtered, encoded, and described.

Rows are kept whose sites name equally many tokens in every run and which the network solves without
any edit; how many were dropped, and why, goes into the report.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from causal_reft.alignment.compute_cells import Part, VariableData
from causal_reft.alignment.encoding import Encoding, TextEncoding
from causal_reft.alignment.metrics import Means
from causal_reft.alignment.row_facts import clusters_of, factors_of, kinds_of, records_of, target_examples
from causal_reft.alignment.row_scores import NO_EDIT, preferred, score_rows, states_at
from causal_reft.alignment.sampling import PARTS, Sampling
from causal_reft.causal import (
    CAUSE,
    CausalModel,
    CounterfactualDataset,
    Splits,
    Task,
    keep_solved,
    shared,
)
from causal_reft.causal.counterfactuals import PROMPT, TEXT
from causal_reft.errors import DataError, StudyError
from causal_reft.execution import Examples
from causal_reft.seeds import numpy_stream
from causal_reft.sites import Site
from causal_reft.tensors import Tensor

FEWEST = 8


@dataclass(frozen=True, eq=False)
class Prepared:
    """One variable alternative: what workers are sent, what results say about report and training rows, what was
    dropped, and what every two parts have in common all the same.
    """

    data: VariableData
    records: pd.DataFrame
    training: pd.DataFrame
    dropped: Mapping[str, int]
    shared: Sequence[Mapping[str, Any]]
    digest: str

    @property
    def counts(self) -> str:
        """How many rows each part has, and how many were dropped and why."""
        shown = [f"{count} {why}" for why, count in self.dropped.items() if count]
        dropped = f" (dropped: {', '.join(shown)})" if shown else ""
        parts = {
            "training": self.data.train,
            "selection": self.data.select.examples,
            "report": self.data.report.examples,
        }
        return ", ".join(f"{len(examples)} {name}" for name, examples in parts.items()) + f" rows{dropped}"


def prepare(
    network: nn.Module,
    encoding: Encoding,
    splits: Splits,
    task: Task | CausalModel | None,
    sites: Sequence[Site],
    how: Sampling,
    control_seeds: Sequence[int],
    batch_size: int,
    metric: str = "iia",
    tick: Callable[[], object] = lambda: None,
) -> Prepared:
    """Filter and encode the three parts; `tick` is called after each.

    Raises:
        StudyError: fewer than 8 rows are left in a part; selection or report cannot measure the metric; no answer of
            the report rows changes.
    """
    kept, dropped = {}, {}
    for name, part in zip(PARTS, splits, strict=True):
        paired = part[encoding.equal_token_counts(part, [site.where for site in sites])]
        right = _right(network, encoding, paired, batch_size) if how.solved and len(paired) else {}
        solved = keep_solved(paired, right).data if right else paired
        kept[name] = solved if name == "train" else _different(solved)
        tick()
        counts = {
            "unequal tokens": len(part) - len(paired),
            "not solved": len(paired) - len(solved),
            "repeated prompts": len(solved) - len(kept[name]),
        }
        dropped |= {f"{name}: {why}": count for why, count in counts.items()}
        if len(kept[name]) < FEWEST:
            raise StudyError(
                f"Only {len(kept[name])} of {len(part)} rows are left for {name!r}: {counts['unequal tokens']} name "
                f"unequal numbers of tokens in base and source, the network fails {counts['not solved']} without any "
                f"edit, and {counts['repeated prompts']} repeat the prompts of another row. Draw more "
                "(Sampling(rows=...)), give the part more settings (Sampling(fractions=...)), choose other prompts, or "
                f"Sampling(solved=False).{_a_failure(network, encoding, paired, right)}"
            )
    report = kept["test"]
    data = VariableData(
        runs={name: report.run_of(name) for name in report.variables},
        train=encoding.examples(kept["train"]),
        select=_part(encoding, kept["select"], task, how.unit),
        report=_part(encoding, report, task, how.unit),
        shuffled_report=_for_shuffled(encoding, report, task),
        permuted={
            seed: (_permuted(encoding, kept["train"], seed), _permuted(encoding, report, seed))
            for seed in control_seeds
        },
    )
    for name, part in (("select", data.select), ("test", data.report)):
        _check_measurable(metric, name, part, task)
    _check_that_answers_change(report, data.report, task)
    digest = _digest([data.train, data.select.examples, data.report.examples])
    records, training = (records_of(kept[name], clusters_of(kept[name], how.unit), task) for name in ("test", "train"))
    return Prepared(data, records, training, dropped, _shared(kept, splits.by), digest)


def width_at(network: nn.Module, site: Site, examples: Examples) -> int:
    """d_model at a site, from one row."""
    one = examples.rows(torch.tensor([0]))
    return states_at(network, site, one, ["base"])["base"].shape[-1]


def _right(
    network: nn.Module, encoding: Encoding, data: CounterfactualDataset, batch_size: int
) -> dict[str, np.ndarray]:
    """For each run, which rows the network answers rightly without any edit."""
    return {
        run: score_rows(network, NO_EDIT, encoding.clean_run(data, run), batch_size)["iia"] == 1 for run in data.runs
    }


def _a_failure(
    network: nn.Module, encoding: Encoding, data: CounterfactualDataset, right: Mapping[str, np.ndarray]
) -> str:
    """A prompt that the network fails, the right answer, and what it would rather say."""
    failed = [(run, int(row)) for run, rows in right.items() for row in np.flatnonzero(~rows)[:1]]
    if not failed or not isinstance(encoding, TextEncoding):
        return ""
    run, row = failed[0]
    one = data[np.array([row])]
    says = encoding.tokenizer.decode(preferred(network, encoding.clean_run(one, run)).tolist())
    asked = one.runs[run].iloc[0]
    return f" For example {asked[PROMPT]!r} goes on with {asked[TEXT]!r}; the network prefers {says!r}."


def _check_measurable(metric: str, name: str, part: Part, task: Task | CausalModel | None) -> None:
    if Means.of(metric, part.kinds, part.weights).is_known:
        return
    counts = {kind: int((part.kinds == kind).sum()) for kind in ("cause", "isolate")}
    why = " What leaks is known from the task: Study(..., data=..., task=...)." if task is None else ""
    raise StudyError(
        f"metric={metric!r} cannot be measured on the {name!r} rows: {counts['cause']} must change their answer, "
        f"{counts['isolate']} must keep it where a leak would change it.{why} Draw other rows "
        "(Sampling(strategy='uniform')), or choose metric='iia'."
    )


def _check_that_answers_change(report: CounterfactualDataset, part: Part, task: Task | CausalModel | None) -> None:
    """Where no answer changes, no edit at all scores highest, and a study finds nothing."""
    if task is None or (part.kinds == CAUSE).any():
        return
    causal = task.causal_model if isinstance(task, Task) else task
    named, used = ", ".join(report.variables), list(causal.outputs)
    for name in used:
        used += [parent for parent in causal.parents[name] if parent not in used]
    raise StudyError(
        f"Interchanging {named} changes no answer of the report rows, so that an edit which does nothing would score "
        f"1. The answer depends on {', '.join(sorted(set(used) - set(causal.outputs)))}: Study(variable=...). If it "
        f"depends on {named}, draw more rows: Sampling(rows=...)."
    )


def _shared(parts: Mapping[str, CounterfactualDataset], by: Sequence[str]) -> list[dict[str, Any]]:
    """What every two parts have in common: settings, prompts, pairs, and values of the columns `by`, counted."""
    found = [{str(name): value for name, value in row.items()} for row in shared(parts).to_dict("records")]
    for column in by if len(by) < len(parts["train"].inputs) else ():
        held = {name: set().union(*(frame[column] for frame in part.runs.values())) for name, part in parts.items()}
        for row in found:
            row[column] = len(set.intersection(*(held[name] for name in row["parts"].split(" and "))))
    return found


def _different(data: CounterfactualDataset) -> CounterfactualDataset:
    """One row for each combination of prompts; a repeated one would give the same numbers and say nothing new."""
    if PROMPT not in data.base:
        return data
    return data[np.sort(np.unique(clusters_of(data), return_index=True)[1])]


def _part(encoding: Encoding, data: CounterfactualDataset, task: Task | CausalModel | None, unit: str) -> Part:
    target = None if task is None else target_examples(task, data, encoding)
    return Part(encoding.examples(data), target, factors_of(data, unit), *kinds_of(data, task))


def _for_shuffled(encoding: Encoding, data: CounterfactualDataset, task: Task | CausalModel | None) -> Examples:
    """Report rows for networks with shuffled weights: they choose among the task's answers where these are single
    tokens, because the most likely of the full vocabulary is hardly ever one of them.
    """
    if isinstance(encoding, TextEncoding) and not encoding.choices and lists_answers(task):
        assert isinstance(task, Task)
        try:
            return replace(encoding, choices=task.choices).examples(data)
        except DataError:  # answers of several tokens
            pass
    return encoding.examples(data)


def lists_answers(task: Task | CausalModel | None) -> bool:
    """Whether the task names all of its answers."""
    return isinstance(task, Task) and isinstance(task.answers, Mapping)


def _permuted(encoding: Encoding, data: CounterfactualDataset, seed: int) -> Examples:
    order = numpy_stream(seed, "permuted labels").permutation(len(data))
    return encoding.examples(replace(data, labels=data.labels.iloc[order].reset_index(drop=True)))


def _digest(parts: Sequence[Examples]) -> str:
    found = hashlib.sha256()
    for part in parts:
        for tensor in _tensors(part):
            found.update(repr((tuple(tensor.shape), str(tensor.dtype))).encode())
            found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        for run, inputs in part.runs.items():
            found.update(f"{run} {'' if isinstance(inputs, Tensor) else inputs.get('spans')}".encode())
    return found.hexdigest()[:16]


def _tensors(part: Examples) -> list[Tensor]:
    runs = [
        [inputs] if isinstance(inputs, Tensor) else [v for v in inputs.values() if isinstance(v, Tensor)]
        for inputs in part.runs.values()
    ]
    return [part.labels.cpu(), *(tensor.cpu() for run in runs for tensor in run)]
