"""Records from a file as counterfactuals: the file's own prompts, the causal model's labels, each checked by the other.

A benchmark brings prompts and answers. Read as settings of a causal model they must give the file's answers again;
where they do not, the reading is wrong, and that is an error, not a label.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from causal_reft.causal import CausalModel, CounterfactualDataset, next_word
from causal_reft.causal.columns import as_columns
from causal_reft.causal.sampling import Pairs
from causal_reft.causal.settings import check_known
from causal_reft.causal.strategies import label
from causal_reft.errors import DataError


@dataclass(frozen=True)
class Record:
    """One run of a file's row: the setting, the prompt, the answer (None: the file has none) and its spans."""

    setting: dict[str, Any]
    prompt: str
    answer: str | None
    spans: dict[str, range] = field(default_factory=dict)


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a .json (a list), .jsonl or .parquet file."""
    path = Path(path)
    if path.suffix == ".parquet":
        return [{str(k): v for k, v in row.items()} for row in pd.read_parquet(path).to_dict("records")]
    if path.suffix not in (".json", ".jsonl"):
        raise DataError(f"Cannot read {path.name}: give a .json list, a .jsonl or a .parquet file.")
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    return json.loads(text)


def from_records(
    model: CausalModel, variable: str, base: Sequence[Record], source: Sequence[Record]
) -> CounterfactualDataset:
    """Counterfactuals of one variable from the base and source records of a file, row by row."""
    check_known((variable,), model.variables, "variable")
    pairs = Pairs(as_columns(_settings(base)), {variable: as_columns(_settings(source))})
    data = label(model.equations, pairs, seed=None)
    output = model.outputs[0]
    for run, records in {"base": base, "source": source}.items():
        _check_answers(run, records, data.runs[run][output].tolist())
    return replace(
        data,
        base=_with_texts(data.base, base, output),
        sources={variable: _with_texts(data.sources[variable], source, output)},
        labels=data.labels.assign(
            text=[next_word(r.prompt, str(v)) for v, r in zip(data.labels[output], base, strict=True)]
        ),
        spans={"base": _spans(base), "source": _spans(source)},
    )


def _settings(records: Sequence[Record]) -> pd.DataFrame:
    columns = {name: pd.Series([record.setting[name] for record in records]) for name in records[0].setting}
    return pd.DataFrame(columns)


def _with_texts(frame: pd.DataFrame, records: Sequence[Record], output: str) -> pd.DataFrame:
    texts = [next_word(record.prompt, str(value)) for value, record in zip(frame[output], records, strict=True)]
    return frame.assign(prompt=[record.prompt for record in records], text=texts)


def _check_answers(run: str, records: Sequence[Record], answers: list[Any]) -> None:
    for row, (record, answer) in enumerate(zip(records, answers, strict=True)):
        if record.answer is not None and str(answer).strip() != record.answer.strip():
            raise DataError(
                f"Row {row} ({run}): the file answers {record.answer!r}, the causal model {str(answer)!r}, for "
                f"{record.prompt!r} read as {record.setting}."
            )


def _spans(records: Sequence[Record]) -> pd.DataFrame:
    names = [name for name in records[0].spans if all(name in record.spans for record in records)]
    return pd.DataFrame(
        {name: pd.Series([record.spans[name] for record in records], dtype=object) for name in names},
        index=pd.RangeIndex(len(records)),
    )
