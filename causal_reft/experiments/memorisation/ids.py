"""A multitude of access ids: one edit that recalls another word after each of N prompts (Wu et al. 2024).

    prompts   "ID 0 :", "ID 1 :", ...          targets   the first N different words of the text

All prompts share the edit, so only the edited token's state can say which prompt it is. The score is the
share of ids whose whole word is recalled; an edit that does not depend on the ids gets one word right: 1 / N.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
from torch import nn

from causal_reft.analysis.memorisation import (
    Edit,
    Lesson,
    MemoryRecipe,
    check_context,
    known,
    known_prompt,
    learn,
    reach,
    recall,
    started,
    stored_bits,
    unedited,
    warn_of_last_block,
)
from causal_reft.errors import DataError
from causal_reft.execution import IntervenedModel
from causal_reft.experiments.models import identity_of
from causal_reft.sweeps import Result, Store, digest_of, run, table_of
from causal_reft.texts import record, text_tokens

TEMPLATE = "ID {id} :"


@dataclass(frozen=True)
class AccessCell:
    """How many ids share one edit, the seed of its start, and the fields of the edit."""

    ids: int
    seed: int
    method: str
    rank: int
    layers: tuple[int, ...]
    positions: str | int


def access_ids(
    model: nn.Module,
    tokenizer: Any,
    text: str,
    counts: Sequence[int],
    edits: Sequence[Edit],
    seeds: Sequence[int] = (0,),
    template: str = TEMPLATE,
    recipe: MemoryRecipe | None = None,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """One row for each count, edit and seed: `recovery` is the share of ids whose word comes back whole.

    Args:
        model, tokenizer: a causal language model; it is left as it was found.
        text: where the words come from, see `distinct_words`.
        counts: how many ids share one edit.
        edits, seeds: what is learned, and the seeds of its start.
        template: of the prompts, with `{id}`.
        recipe: of the training.
        folder: where finished rows are kept; the same call goes on there.
        progress: whether to show a bar.

    Raises:
        DataError: too few words; a template whose prompts look alike to this tokenizer.

    Warns:
        CausalReftWarning: an edit that cannot change more than the first token of a word.
    """
    recipe, records = recipe or MemoryRecipe(), {n: id_records(tokenizer, text, n, template) for n in counts}
    for some in records.values():
        _warn(model, edits, some)

    def compute(cell: AccessCell) -> Result:
        edit = Edit(cell.method, cell.rank, cell.layers, cell.positions)
        found = _share(model, tokenizer, records[cell.ids], edit, cell.seed, recipe)
        return Result(facts={"rows": [{**edit.row(), **found, "chance": 1 / cell.ids}]})

    description = {"what": "access ids", **identity_of(model, tokenizer), "recipe": asdict(recipe)}
    store = Store.claim(folder, {**description, "template": template, "text": digest_of(text)})
    cells = [AccessCell(n, seed, **asdict(edit)) for n in counts for edit in edits for seed in seeds]
    return table_of(run(cells, compute, store, progress=progress, name="access ids"))


def id_records(tokenizer: Any, text: str, count: int, template: str = TEMPLATE) -> list[dict[str, Any]]:
    """A training record for each id: its prompt and its word.

    Raises:
        DataError: as `access_ids`.
    """
    prompts = [known_prompt(template.format(id=number), tokenizer) for number in range(count)]
    if len(set(prompts)) < count:
        raise DataError(
            f"template={template!r}: {count} ids give only {len(set(prompts))} different prompts in this tokenizer. "
            f"Put the id where the tokenizer sees it: '{{id}}' must occur, as digits that it knows."
        )
    words = distinct_words(text, count)
    return [
        record(prompt, known(text_tokens([word], tokenizer)[0], tokenizer))
        for prompt, word in zip(prompts, words, strict=True)
    ]


def distinct_words(text: str, count: int) -> list[str]:
    """The first `count` different words of a text, in order.

    Raises:
        DataError: the text has fewer.
    """
    words = list(dict.fromkeys(text.split()))
    if len(words) < count:
        raise DataError(f"The text has {len(words)} different words, and {count} ids need one each.")
    return words[:count]


def _warn(model: nn.Module, edits: Sequence[Edit], records: Sequence[dict[str, Any]]) -> None:
    longest = max(len(whole["input_ids"]) - whole["prompt_lengths"] for whole in records)
    shortest = min(whole["prompt_lengths"] for whole in records)
    warn_of_last_block(edits, [reach(model, edit, shortest, longest) for edit in edits], longest)


def _share(
    model: nn.Module,
    tokenizer: Any,
    records: Sequence[dict[str, Any]],
    edit: Edit,
    seed: int,
    recipe: MemoryRecipe,
) -> dict[str, Any]:
    wholes = [_extended(whole, edit) for whole in records]
    for whole in records:
        check_context(model, edit, whole["prompt_lengths"], len(whole["input_ids"]) - whole["prompt_lengths"])
    graph = started(edit, model, seed)
    outcome = learn(model, tokenizer, [Lesson(graph, wholes)], recipe)[0]
    found = recall(IntervenedModel(model, graph, tokenizer), tokenizer, wholes, recipe.batch_size)
    base = unedited(model, tokenizer, records, recipe.batch_size)
    bits = sum(stored_bits(one, other) for one, other in zip(found, base, strict=True) if one.exact)
    numbers = graph.n_trainable_parameters
    return {
        "recovery": sum(one.exact for one in found) / len(found),
        "accuracy": sum(sum(one.right) for one in found) / sum(len(one.right) for one in found),
        "bits": bits,
        "n_trainable_parameters": numbers,
        "bits_per_number": bits / numbers if numbers else float("nan"),
        "steps": outcome.steps,
        "stopped": outcome.stopped,
    }


def _extended(whole: dict[str, Any], edit: Edit) -> dict[str, Any]:
    length = whole["prompt_lengths"]
    return record(edit.extended(whole["input_ids"][:length]), whole["input_ids"][length:])
