"""The grid of the paper: edits (one for each layer, and the controls) x lengths x kinds of text x seeds, in a folder.

    grid = MemorisationGrid(model, tokenizer, text, layer_edits(model), lengths=(4, 8, 16), folder="runs/memorisation")
    result = grid.run()
    result.table, result.figure(), result.report()

A cell is one target (kind, length, seed) with all edits, which are trained side by side. It is computed by itself from
its seeds and written as one file, whole or not at all. So an interrupted grid goes on where it stopped and ends with
the same table, and a folder can be given further lengths, kinds and seeds later.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

import causal_reft
from causal_reft.alignment.network_source import digest_of
from causal_reft.alignment.store import CELLS, Store, write_whole
from causal_reft.analysis.memorisation.edits import Edit, causal_decoder, context_limit
from causal_reft.analysis.memorisation.memorise import PROMPT, check_context, memories, prompt_tokens
from causal_reft.analysis.memorisation.targets import KINDS, Ids, target_ids
from causal_reft.analysis.memorisation.training import MemoryRecipe
from causal_reft.errors import CausalReftWarning, StudyError
from causal_reft.experiments.memorisation.result import MemorisationResult

SCHEMA = 1
BEYOND = "beyond the context"


@dataclass(frozen=True)
class MemoryCell:
    """One target: its kind, its length, the seed of its draw and of the edits' start."""

    kind: str
    n: int
    seed: int


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
        for cell in self.cells:
            self._target(cell)
            if not self.beyond_context(cell.n):
                self._check(cell.n)

    @property
    def cells(self) -> list[MemoryCell]:
        """All cells, short texts first."""
        return [MemoryCell(kind, n, seed) for n in sorted(self.lengths) for kind in self.kinds for seed in self.seeds]

    def run(self, progress: bool = True) -> MemorisationResult:
        """Compute what is missing. Ctrl-C keeps the finished cells and gives what there is; the same call goes on.

        Warns:
            CausalReftWarning: lengths beyond the context; edits that can change only the first new token.
        """
        if self.folder is None:
            with tempfile.TemporaryDirectory(prefix="causal_reft-memorisation-") as folder:
                return self._run(Path(folder), progress)
        return self._run(Path(self.folder), progress)

    def beyond_context(self, n: int) -> bool:
        """Whether some edit's prompt and n tokens are more than the model was made for."""
        limit = context_limit(self.model)
        longest = max(edit.added_tokens for edit in self.edits)
        return limit is not None and len(prompt_tokens(self.prompt, self.tokenizer)) + longest + n > limit

    def description(self) -> dict[str, Any]:
        """What all cells of a folder have in common and that determines their numbers."""
        vocabulary = json.dumps(sorted(self.tokenizer.get_vocab().items()))
        return {
            "schema": SCHEMA,
            "what": "memorisation",
            "causal_reft": causal_reft.__version__,
            "torch": torch.__version__,
            "model": {"class": type(self.model).__name__, "weights": digest_of(self.model)},
            "tokenizer": {"class": type(self.tokenizer).__name__, "vocabulary": _digest(vocabulary)},
            "text": {"begins": self.text[:80], "digest": _digest(self.text)},
            "prompt": self.prompt,
            "recipe": asdict(self.recipe),
        }

    def _run(self, folder: Path, progress: bool) -> MemorisationResult:
        description = self.description()
        store = Store(folder)
        store.open(description, {})
        rows: list[dict[str, Any]] = []
        finished = 0
        self._warn_of_context()
        try:
            for cell in tqdm(self.cells, desc="memorisation", disable=not progress):
                rows += self._cell(cell, folder, description)
                finished += 1
        except KeyboardInterrupt:
            kept = f" They are in {folder}: run the same again to go on." if self.folder else ""
            tqdm.write(f"Interrupted: {finished} of {len(self.cells)} cells are finished.{kept}")
        return MemorisationResult(
            pd.DataFrame(rows),
            {**description, "edits": [str(edit) for edit in self.edits]},
            finished == len(self.cells),
        )

    def _cell(self, cell: MemoryCell, folder: Path, description: dict[str, Any]) -> list[dict[str, Any]]:
        """The rows of a cell: read from its file, or computed and written."""
        target = self._target(cell)
        if self.beyond_context(cell.n):
            empty = {"target": _digest(json.dumps(target)), "note": BEYOND}
            return [{"text": cell.kind, "n": cell.n, "seed": cell.seed, **edit.row(), **empty} for edit in self.edits]
        edits = [asdict(edit) for edit in self.edits]
        digest = _digest(json.dumps([description, asdict(cell), edits, target, self.tokenizer.decode(target)]))
        path = folder / CELLS / f"{cell.kind}-n{cell.n}-seed{cell.seed}-{digest}.json"
        if not path.is_file():
            rows = self._compute(cell, target)
            write_whole(path, json.dumps(rows, indent=1).encode())
        return json.loads(path.read_text(encoding="utf-8"))

    def _compute(self, cell: MemoryCell, target: Ids) -> list[dict[str, Any]]:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", ".*first new token.*", CausalReftWarning
            )  # `_warn_of_context` said it once
            trials = [(edit, cell.seed) for edit in self.edits]
            found = memories(self.model, self.tokenizer, target, trials, self.prompt, self.recipe)
        told = {"text": cell.kind, "target": _digest(json.dumps(target))}
        return [{**told, **memory.row, "recalled": memory.recalled, "wanted": memory.target} for memory in found]

    def _target(self, cell: MemoryCell) -> Ids:
        return target_ids(cell.kind, self.text, cell.n, self.tokenizer, cell.seed)

    def _check(self, n: int) -> None:
        length = len(prompt_tokens(self.prompt, self.tokenizer))
        for edit in self.edits:
            check_context(self.model, edit, length, n)

    def _warn_of_context(self) -> None:
        """One warning for the whole grid."""
        beyond = [n for n in sorted(self.lengths) if self.beyond_context(n)]
        if beyond:
            warnings.warn(
                f"Lengths {', '.join(map(str, beyond))} with the prompt exceed the {context_limit(self.model)} tokens "
                f"that {type(self.model).__name__} was made for. They are not run: beyond its context a model fails by "
                f"itself.",
                CausalReftWarning,
                stacklevel=4,
            )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
