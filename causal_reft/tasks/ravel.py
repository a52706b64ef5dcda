"""RAVEL (Huang et al. 2024): entities with several attributes, and prompts that ask for one of them.

Cause and Isolate are two questions to one causal model: swapping `Country` must change the answer of prompts that ask
for the country (Cause), and must not change the others (Isolate); `ravel_scores` computes both as RAVEL does. Files,
in one folder per entity type:

    ravel_<type>_entity_attributes.json    {entity: {attribute: value}}
    ravel_<type>_attribute_to_prompts.json {attribute: [prompt with one %s]}
    ravel_<type>_entity_to_split.json      {entity: split}      ravel_<type>_prompt_to_split.json {prompt: split}
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from causal_reft.causal import CausalModel, Task, Template, next_word
from causal_reft.errors import DataError, nearest
from causal_reft.tasks.lookup import Lookup, Select

FILES = ("entity_attributes", "attribute_to_prompts", "entity_to_split", "prompt_to_split")


@dataclass(frozen=True, eq=False, repr=False)
class Ravel:
    """entities: index entity; a column per attribute, and `split`. prompts: `attribute`, `text`, `split`; its index is
    the number of the wording."""

    entity_type: str
    entities: pd.DataFrame
    prompts: pd.DataFrame

    @property
    def attributes(self) -> tuple[str, ...]:
        """What the entities have and the prompts can ask for."""
        return tuple(str(name) for name in self.entities if name != "split")

    def task(
        self, attributes: Sequence[str] | None = None, entity_split: str | None = None, prompt_split: str | None = None
    ) -> Task:
        """The task over some attributes (default: all), on one split of the entities and of the prompts (default: all).

        A setting is an entity and a wording (which asks for one attribute); `answer` is the entity's value of it.
        """
        names = tuple(attributes or self.attributes)
        _check_among(names, self.attributes, "attribute")
        prompts = self._on(self.prompts, prompt_split)
        prompts = prompts.loc[prompts["attribute"].isin(names)]
        entities = self._on(self.entities, entity_split)
        if prompts.empty or entities.empty:
            raise DataError(f"No prompts or no entities are left for {names} in {entity_split!r}, {prompt_split!r}.")
        lookups = {name: Lookup("entity", entities[name].to_dict()) for name in names}
        asked = Lookup("wording", prompts["attribute"].to_dict())
        model = CausalModel(
            inputs={"entity": entities.index.tolist(), "wording": prompts.index.tolist()},
            mechanisms={**lookups, "asked": asked, "answer": Select("asked", names)},
            averaged_by=("asked", "wording"),
        )
        texts = {number: _as_template(text) for number, text in prompts["text"].items()}
        return Task(
            f"RAVEL {self.entity_type}", model, Template(texts, by="wording"), variables=names, continues=next_word
        )

    def _on(self, frame: pd.DataFrame, split: str | None) -> pd.DataFrame:
        if split is None:
            return frame
        _check_among((split,), frame["split"].unique().tolist(), "split")
        return frame.loc[frame["split"] == split]

    def __repr__(self) -> str:
        asked = self.prompts["attribute"].value_counts()
        return (
            f"RAVEL {self.entity_type}: {len(self.entities)} entities, {len(self.prompts)} prompts\n"
            f"  prompts per attribute: {', '.join(f'{name} {asked[name]}' for name in asked.index)}\n"
            f"  entities per split: {self.entities['split'].value_counts().to_dict()}"
        )


def load_ravel(folder: str | Path, entity_type: str = "city") -> Ravel:
    """Read the four files of one entity type; every entity and prompt must have its split."""
    attributes, prompts, entity_split, prompt_split = (_read(Path(folder), entity_type, name) for name in FILES)
    entities = pd.DataFrame.from_dict(attributes, orient="index")
    entities["split"] = pd.Series(entity_split).reindex(entities.index)
    rows = [(attribute, text, prompt_split.get(text)) for attribute, texts in prompts.items() for text in texts]
    table = pd.DataFrame(rows, columns=["attribute", "text", "split"])
    for name, frame in {"entities": entities, "prompts": table}.items():
        if frame.isna().to_numpy().any():
            gaps = frame.index[frame.isna().any(axis=1)].tolist()
            raise DataError(f"{len(gaps)} {name} of RAVEL {entity_type} lack a value or a split, first {gaps[0]!r}.")
    return Ravel(entity_type, entities, table)


def _read(folder: Path, entity_type: str, name: str) -> dict[str, Any]:
    path = folder / f"ravel_{entity_type}_{name}.json"
    if not path.is_file():
        there = ", ".join(sorted(found.name for found in folder.glob("*"))) or "nothing"
        raise DataError(f"RAVEL needs the file {path.name} in {folder}, which holds: {there}.")
    return json.loads(path.read_text(encoding="utf-8"))


def _as_template(text: str) -> str:
    if text.count("%s") != 1:
        raise DataError(f"A RAVEL prompt shows its entity once, as %s, but this one does not: {text!r}")
    return text.replace("{", "{{").replace("}", "}}").replace("%s", "{entity}")


def _check_among(names: Sequence[str], allowed: Sequence[str], what: str) -> None:
    unknown = [name for name in names if name not in allowed]
    if unknown:
        raise DataError(f"RAVEL has no {what} {unknown[0]!r}. {nearest(unknown[0], allowed)}")
