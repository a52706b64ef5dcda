"""One vector remembers a page: an edit at the prompt makes a frozen model spell out a given text (Wu et al. 2024).

    memory = memorise(model, tokenizer, text, n=12, edit=Edit("consreft", 1, (3,)), prompt="Recall:")
    memory.recalled, memory.row["recovery"], memory.model.generate(...)

One cell of a `MemorisationGrid`, which sweeps layers, lengths, kinds of text and seeds. What can look like a
limit of memory and is none is refused or named: a text beyond the model's context, an edit after the last attention.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from causal_reft.analysis.memorisation.edits import Edit, reach
from causal_reft.analysis.memorisation.recall import Recall, recall, scores, unedited
from causal_reft.analysis.memorisation.targets import Ids, known, target_ids
from causal_reft.analysis.memorisation.training import Lesson, MemoryRecipe, Outcome, learn
from causal_reft.errors import CausalReftWarning, DataError
from causal_reft.execution import IntervenedModel
from causal_reft.execution.locating import device_of
from causal_reft.graph import InterventionGraph
from causal_reft.reft.context import context_length
from causal_reft.seeds import derive
from causal_reft.texts import IGNORED_LABEL, prompt_tokens, record

PROMPT = "Recall the text:"
LAST_BLOCK = "changes only the first new token"


@dataclass(frozen=True)
class Memory:
    """An edit that was trained on one target.

    Attributes:
        model: the user's model under the trained graph.
        row: the columns of a table; see `causal_reft.analysis.memorisation.recall` for the formulas.
        recall: token ids of the target and of what greedy decoding gave back.
        recalled, target: the same as text.
    """

    model: IntervenedModel
    row: dict[str, Any]
    recall: Recall
    recalled: str
    target: str

    def __repr__(self) -> str:
        tokens = f"{self.row['tokens']} of {len(self.recall.target)} tokens"
        characters = f"{self.row['characters']} of {self.row['target_characters']} characters"
        parameters = f"{self.row['n_trainable_parameters']:,} trainable parameters"
        return f"Memory({tokens}, {characters}, {parameters}, {self.recalled!r})"


def memorise(
    model: nn.Module,
    tokenizer: Any,
    text: str,
    n: int,
    edit: Edit,
    prompt: str = PROMPT,
    kind: str = "book",
    seed: int = 0,
    recipe: MemoryRecipe | None = None,
    progress: bool = False,
) -> Memory:
    """Train one edit until the first n tokens of a text come out after the prompt, or until the steps are used up.

    Args:
        model, tokenizer: a causal language model; it is left as it was found.
        text: the book.
        n: how many of its tokens.
        edit: what is learned and where.
        prompt: what the text follows; the edit is at its tokens.
        kind: "book", or "scrambled" words of it, or "random" tokens.
        seed: of the scrambling, and (another stream) of the edit's start.
        recipe: of the training.
        progress: whether to show a bar.

    Raises:
        DataError: a text beyond the context, too short, or of unknown words; no causal language model.

    Warns:
        CausalReftWarning: an edit that cannot change more than the first new token.
    """
    ids = target_ids(kind, text, n, tokenizer, seed)
    return memories(model, tokenizer, ids, [(edit, seed)], prompt, recipe, progress)[0]


def memories(
    model: nn.Module,
    tokenizer: Any,
    target: Ids,
    trials: Sequence[tuple[Edit, int]],
    prompt: str = PROMPT,
    recipe: MemoryRecipe | None = None,
    progress: bool = False,
) -> list[Memory]:
    """Several edits, each with the seed of its start, trained side by side on one target.

    Raises, warns:
        As `memorise`.
    """
    recipe = recipe or MemoryRecipe()
    prompt_ids = known_prompt(prompt, tokenizer)
    for edit, _ in trials:
        check_context(model, edit, len(prompt_ids), len(target))
    reaches = [reach(model, edit, len(prompt_ids), len(target)) for edit, _ in trials]
    warn_of_last_block([edit for edit, _ in trials], reaches, len(target))
    wholes = [record(edit.extended(prompt_ids), target) for edit, _ in trials]
    graphs = [started(edit, model, seed) for edit, seed in trials]
    lessons = [
        Lesson(graph, [_felt(whole, reached)]) for graph, whole, reached in zip(graphs, wholes, reaches, strict=True)
    ]
    outcomes = learn(model, tokenizer, lessons, recipe, progress=progress)
    base = unedited(model, tokenizer, [record(prompt_ids, target)])[0]
    return [
        _memory(IntervenedModel(model, graph, tokenizer), trial, whole, base, outcome, reached)
        for graph, trial, whole, outcome, reached in zip(graphs, trials, wholes, outcomes, reaches, strict=True)
    ]


def started(edit: Edit, model: nn.Module, seed: int) -> InterventionGraph:
    """The untrained graph of an edit, on the model's device; a seed has one stream for texts and another for this."""
    graph = edit.graph(model, derive(seed, "initialisation"))
    graph.modules.to(device_of(model))
    return graph


def known_prompt(prompt: str, tokenizer: Any) -> Ids:
    """The prompt as the model will be given it, special tokens in front included.

    Raises:
        DataError: no tokens at all; words that the tokenizer does not know.
    """
    ids = prompt_tokens([prompt], tokenizer)[0]
    if not ids:
        raise DataError(f"prompt={prompt!r} has no tokens, so there is none to edit. Give it a word.")
    return known(ids, tokenizer)


def check_context(model: nn.Module, edit: Edit, prompt_length: int, n: int) -> None:
    """Refuse a text that does not fit: what breaks down there is the model, not the memory.

    Raises:
        DataError: prompt and text are longer than the model's context.
    """
    limit, length = context_length(model), prompt_length + edit.added_tokens + n
    if limit is not None and length > limit:
        raise DataError(
            f"{n} tokens after a prompt of {length - n} are {length}, and {type(model).__name__} was made for "
            f"{limit}. Beyond its context a model fails by itself, which is no measure of memory. "
            f"Ask for n <= {limit - length + n}."
        )


def _felt(whole: dict[str, Any], reached: int) -> dict[str, Any]:
    """The record without labels that the edit cannot change, so that training may stop when all others are right."""
    if reached == 0:
        return whole
    stop = whole["prompt_lengths"] + reached
    return {**whole, "labels": whole["labels"][:stop] + [IGNORED_LABEL] * (len(whole["labels"]) - stop)}


def warn_of_last_block(edits: Sequence[Edit], reaches: Sequence[int], n: int) -> None:
    """Name the edits that can reach fewer than n new tokens.

    Warns:
        CausalReftWarning: there are such.
    """
    blind = [str(edit) for edit, reached in zip(edits, reaches, strict=True) if edit.method != "none" and reached < n]
    if blind:
        warnings.warn(
            f"{'; '.join(blind)}: after the last attention an edit {LAST_BLOCK}, whatever it learns. Its recovery of "
            f"{n} tokens says nothing about memory.",
            CausalReftWarning,
            stacklevel=3,
        )


def _memory(
    model: IntervenedModel, trial: tuple[Edit, int], whole: dict[str, Any], base: Recall, outcome: Outcome, reached: int
) -> Memory:
    (edit, seed), tokenizer = trial, model.tokenizer
    found = recall(model, tokenizer, [whole])[0]
    row = {
        "n": len(found.target),
        "seed": seed,
        **edit.row(),
        **scores(found, base, model.graph.n_trainable_parameters, tokenizer),
        "steps": outcome.steps,
        "stopped": outcome.stopped,
        "reach": reached,
        "note": LAST_BLOCK if not edit.is_control and reached < len(found.target) else "",
    }
    texts = [tokenizer.decode(list(ids), clean_up_tokenization_spaces=False) for ids in (found.generated, found.target)]
    return Memory(model, row, found, texts[0], texts[1])
