"""The grid of the paper: edits (one for each layer, and the controls) x lengths x kinds of text x seeds, in a folder.

    grid = MemorisationGrid(model, tokenizer, text, layer_edits(model), lengths=(4, 8, 16), folder="runs/memorisation")
    result = grid.run()
    result.table, result.figure(), result.report()

A cell of the sweep is one target (kind, length, seed) with all edits, which are trained side by side. A folder can be
given further lengths, kinds, seeds and edits later.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd
from torch import nn

from causal_reft.analysis.memorisation import (
    KINDS,
    PROMPT,
    Edit,
    Ids,
    MemoryRecipe,
    causal_decoder,
    check_context,
    known_prompt,
    memories,
    target_ids,
)
from causal_reft.errors import CausalReftWarning, StudyError
from causal_reft.experiments.memorisation.result import MemorisationResult
from causal_reft.experiments.models import identity_of
from causal_reft.reft import context_length
from causal_reft.sweeps import Result, Store, digest_of, run

BEYOND = "beyond the context"


@dataclass(frozen=True)
class MemoryCell:
    """One target: its kind, length and tokens, the seed of its draw and of the edits' start, and the edits."""

    kind: str
    n: int
    seed: int
    target: str
    edits: str


@dataclass(frozen=True)
class MemorisationGrid:
    """See the module's text.

    Args:
        model, tokenizer: a causal language model; it is left as it was found.
        text: the book, see `read_text`.
        edits: what is learned, see `layer_edits`; controls are edits too.
        lengths: in tokens. A length beyond the model's context is not run: its rows are empty and say why.
        kinds: of text: "book", "scrambled", "random".
        seeds: each draws its own scrambling, random tokens and start of the edits.
        prompt: what the text follows.
        recipe: of every training.
        folder: where finished cells are kept; by default a temporary one.

    Raises:
        StudyError: an empty grid, a repeated entry, a folder of another grid.
        DataError: a model, prompt or text that cannot be used.
    """

    model: nn.Module
    tokenizer: Any
    text: str
    edits: Sequence[Edit]
    lengths: Sequence[int] = (4, 8, 12, 16, 24)
    kinds: Sequence[str] = tuple(KINDS)
    seeds: Sequence[int] = (0, 1, 2)
    prompt: str = PROMPT
    recipe: MemoryRecipe = field(default_factory=MemoryRecipe)
    folder: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        for name in ("edits", "lengths", "kinds", "seeds"):
            given = list(getattr(self, name))
            if not given or len(set(given)) < len(given):
                raise StudyError(f"{name}={given}: a grid needs at least one of them, and each once.")
        causal_decoder(self.model)
        for kind, n, seed in self.targets:
            self._target(kind, n, seed)
            if not self.beyond_context(n):
                self._check(n)

    @property
    def targets(self) -> list[tuple[str, int, int]]:
        """The kind, length and seed of every target, short texts first."""
        return [(kind, n, seed) for n in sorted(self.lengths) for kind in self.kinds for seed in self.seeds]

    def run(self, progress: bool = True) -> MemorisationResult:
        """Compute what is missing. Ctrl-C keeps the finished cells and goes up; the same call goes on.

        Warns:
            CausalReftWarning: lengths beyond the context; edits that can change only the first new token.
        """
        store = self._store()
        self._warn_of_context()
        run(self._cells(), self._compute, store, progress=progress, name="memorisation")
        return self._result(store)

    def so_far(self) -> MemorisationResult:
        """What a folder holds already, also while another process computes."""
        return self._result(self._store())

    def beyond_context(self, n: int) -> bool:
        """Whether some edit's prompt and n tokens are more than the model was made for."""
        limit = context_length(self.model)
        longest = max(edit.added_tokens for edit in self.edits)
        return limit is not None and len(known_prompt(self.prompt, self.tokenizer)) + longest + n > limit

    def description(self) -> dict[str, Any]:
        """What all cells of a folder have in common and that determines their numbers."""
        return {
            "what": "memorisation",
            **identity_of(self.model, self.tokenizer),
            "text": {"begins": self.text[:80], "digest": digest_of(self.text)},
            "prompt": self.prompt,
            "recipe": asdict(self.recipe),
        }

    def _store(self) -> Store:
        return Store.claim(self.folder, self.description())

    def _cells(self) -> list[MemoryCell]:
        """The cells that are computed."""
        return [self._cell(*target) for target in self.targets if not self.beyond_context(target[1])]

    def _cell(self, kind: str, n: int, seed: int) -> MemoryCell:
        target, edits = digest_of(self._target(kind, n, seed)), digest_of([asdict(edit) for edit in self.edits])
        return MemoryCell(kind, n, seed, target, edits)

    def _compute(self, cell: MemoryCell) -> Result:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*first new token.*", CausalReftWarning)  # the table's notes say it
            trials = [(edit, cell.seed) for edit in self.edits]
            target = self._target(cell.kind, cell.n, cell.seed)
            found = memories(self.model, self.tokenizer, target, trials, self.prompt, self.recipe)
        rows = [{**memory.row, "recalled": memory.recalled, "wanted": memory.target} for memory in found]
        return Result(facts={"rows": rows})

    def _result(self, store: Store) -> MemorisationResult:
        """The table of all finished cells, in the grid's order; empty rows where a length is beyond the context."""
        finished, rows = store.get(self._cells()), []
        for target in self.targets:
            cell = self._cell(*target)
            told = {"text": cell.kind, "target": cell.target}
            if self.beyond_context(cell.n):
                rows += [{**told, "n": cell.n, "seed": cell.seed, **edit.row(), "note": BEYOND} for edit in self.edits]
            elif cell in finished:
                rows += [{**told, **row} for row in finished[cell].facts["rows"]]
        settings = {**store.description, "edits": [str(edit) for edit in self.edits]}
        return MemorisationResult(pd.DataFrame(rows), settings, len(finished) == len(self._cells()))

    def _target(self, kind: str, n: int, seed: int) -> Ids:
        return target_ids(kind, self.text, n, self.tokenizer, seed)

    def _check(self, n: int) -> None:
        length = len(known_prompt(self.prompt, self.tokenizer))
        for edit in self.edits:
            check_context(self.model, edit, length, n)

    def _warn_of_context(self) -> None:
        """One warning for the whole grid."""
        beyond = [n for n in sorted(self.lengths) if self.beyond_context(n)]
        if beyond:
            warnings.warn(
                f"Lengths {', '.join(map(str, beyond))} with the prompt exceed the {context_length(self.model)} tokens "
                f"that {type(self.model).__name__} was made for. They are not run: beyond its context a model fails by "
                f"itself.",
                CausalReftWarning,
                stacklevel=3,
            )
