"""The tasks of MIB, the mechanistic interpretability benchmark (Mueller et al. 2025), from its dataset files.

Each row is a base prompt with named counterfactuals beside it ("s2_io_flip_counterfactual", ...). `load_mib` reads the
base and one counterfactual of every row as settings of a causal model:

| kind | fields read | variables |
|---|---|---|
| ioi | prompt, choices, answerKey | io_place |
| arithmetic | prompt, operand1, operand2, label | carry, ones, tens |
| choice (MCQA, ARC) | prompt, choices {label, text}, answerKey | place: where the right choice is |
| ravel | prompt, entity, attribute, Continent, Country, Language | Continent, Country, Language |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causal_reft.causal import CausalModel, CounterfactualDataset, rowwise
from causal_reft.errors import DataError, nearest
from causal_reft.tasks.addition import addition_model
from causal_reft.tasks.ioi import ioi_model
from causal_reft.tasks.lookup import Select
from causal_reft.tasks.records import Record, from_records, read_records

ATTRIBUTES = ("Continent", "Country", "Language")
Row = Mapping[str, Any]


def load_mib(path: str | Path, kind: str, variable: str, counterfactual: str) -> CounterfactualDataset:
    """Counterfactuals of one variable: base prompts, and the named counterfactual of each row as the source."""
    if kind not in KINDS:
        raise DataError(f"MIB has no kind {kind!r}. {nearest(kind, KINDS)}")
    rows = read_records(path)
    offered = sorted(name for name in rows[0] if name.endswith("_counterfactual"))
    if counterfactual not in offered:
        raise DataError(f"The rows of {Path(path).name} have no {counterfactual!r}. {nearest(counterfactual, offered)}")
    reader = KINDS[kind]
    base = [reader.read(row) for row in rows]
    source = [reader.read(row[counterfactual]) for row in rows]
    return from_records(reader.model([*base, *source]), variable, base, source)


@dataclass(frozen=True)
class Reader:
    """How one kind of row becomes a record, and which causal model its settings belong to."""

    read: Callable[[Row], Record]
    model: Callable[[Sequence[Record]], CausalModel]


def _read_ioi(row: Row) -> Record:
    prompt, choices = row["prompt"], list(row["choices"])
    found = [(m.start(), m.end(), m.group()) for m in re.finditer("|".join(map(r"\b{}\b".format, choices)), prompt)]
    if len(found) != 3 or found[0][2] == found[1][2]:
        raise DataError(
            f"An indirect-object prompt names two people and then repeats one, but of {choices} this one has "
            f"{[name for *_, name in found]}: {prompt!r}. Counterfactuals without a repeated name have no answer."
        )
    (*_, first), (*_, second), (*_, giver) = found
    setting = {"name_a": first, "name_b": second, "giver_is_first": giver == first, "place": "", "object": ""}
    spans = {
        name: range(a, b) for name, (a, b, _) in zip(("first_name", "second_name", "repeated"), found, strict=True)
    }
    return Record(setting, prompt, choices[row["answerKey"]], spans)


def _ioi(records: Sequence[Record]) -> CausalModel:
    names = sorted({record.setting[name] for record in records for name in ("name_a", "name_b")})
    return ioi_model(names, places=("",), objects=("",))


def _read_sum(row: Row) -> Record:
    prompt, a, b = row["prompt"], int(row["operand1"]), int(row["operand2"])
    if row.get("operator", "+") != "+" or max(a, b) > 99:
        raise DataError(f"Only sums of numbers below 100 are read here, not {a} {row.get('operator', '+')} {b}.")
    match = re.search(rf"\b(?P<a>{a})\b.*?\b(?P<b>{b})\b", prompt, re.DOTALL)
    if match is None:
        raise DataError(f"The prompt does not show its operands {a} and {b} in this order: {prompt!r}")
    setting = {"tens_a": a // 10, "ones_a": a % 10, "tens_b": b // 10, "ones_b": b % 10}
    spans = {"operand1": range(*match.span("a")), "operand2": range(*match.span("b"))}
    return Record(setting, prompt, str(row["label"]), spans)


def _sum(records: Sequence[Record]) -> CausalModel:
    return addition_model()


def _symbol_at(symbols: tuple[str, ...], place: int) -> str:
    return symbols[place] if place < len(symbols) else ""


def _read_choice(row: Row) -> Record:
    symbols = tuple(str(symbol) for symbol in row["choices"]["label"])
    return Record({"symbols": symbols, "place": int(row["answerKey"])}, row["prompt"], symbols[int(row["answerKey"])])


def _choice(records: Sequence[Record]) -> CausalModel:
    symbols = list(dict.fromkeys(record.setting["symbols"] for record in records))
    places = range(max(map(len, symbols)))
    return CausalModel({"symbols": symbols, "place": places}, {"answer": rowwise(_symbol_at)})


def _read_ravel(row: Row) -> Record:
    values = {name: row[name] for name in ATTRIBUTES}
    asked = row["attribute"] if row["attribute"] in ATTRIBUTES else ""
    at = row["prompt"].rfind(row["entity"])
    if at < 0:
        raise DataError(f"The prompt does not show its entity {row['entity']!r}: {row['prompt']!r}")
    setting = {**values, "entity": row["entity"], "asked": asked}
    return Record(setting, row["prompt"], values.get(asked, ""), {"entity": range(at, at + len(row["entity"]))})


def _ravel(records: Sequence[Record]) -> CausalModel:
    domains = {name: list(dict.fromkeys(r.setting[name] for r in records)) for name in records[0].setting}
    return CausalModel(domains, {"answer": Select("asked", ATTRIBUTES)})


KINDS: dict[str, Reader] = {
    "ioi": Reader(_read_ioi, _ioi),
    "arithmetic": Reader(_read_sum, _sum),
    "choice": Reader(_read_choice, _choice),
    "ravel": Reader(_read_ravel, _ravel),
}
