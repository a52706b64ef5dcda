"""The embedded model: a small bilingual language model made for this project, with the exercises that belong to it.

It goes on in English prose; German, and answering, are latent in it. Everything was written and trained by the scripts
in `data/`; its card is `data/embedded/README.md`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from causal_reft.display import Listed, counted
from causal_reft.errors import StorageError

Row = dict[str, str]


@dataclass(frozen=True, repr=False)
class Embedded(Listed):
    """The model in evaluation mode, its tokenizer, and the folder with its exercises."""

    model: Any
    tokenizer: Any
    folder: Path

    def _listed(self) -> tuple[str, list[tuple[str, str]]]:
        config, numbers = self.model.config, sum(p.numel() for p in self.model.parameters())
        rows = ("german_examples", "answer_examples", "held_out", "stories")
        return f"Embedded: {type(self.model).__name__}, {counted(numbers, 'parameter')}", [
            ("model", f"{counted(config.num_hidden_layers, 'layer')} of width {config.hidden_size}"),
            ("tokenizer", counted(len(self.tokenizer), "token")),
            *((name, counted(len(self._rows(name)), "row")) for name in rows),
            ("folder", str(self.folder)),
        ]

    @property
    def german_examples(self) -> list[Row]:
        """`prompt`, `continuation`, `kind`: English prompts that German prose follows; a quarter are questions it
        passes over.
        """
        return self._rows("german_examples")

    @property
    def answer_examples(self) -> list[Row]:
        """`prompt`, `continuation`, `kind`: English questions and requests with their English answers."""
        return self._rows("answer_examples")

    @property
    def held_out(self) -> list[Row]:
        """`split`, `task`, `unit`, `prompt`, the right answers `english` and `german`, and a marker for each latent
        mode.
        """
        return self._rows("held_out")

    @property
    def stories(self) -> list[Row]:
        """Longer English stories about held-out facts."""
        return self._rows("stories")

    @cached_property
    def language_words(self) -> dict[str, list[str]]:
        """The word lists of the language classifier."""
        return json.loads((self.folder / "language_words.json").read_text(encoding="utf-8"))

    def _rows(self, name: str) -> list[Row]:
        return [json.loads(line) for line in (self.folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def embedded_folder() -> Path:
    """Where the embedded model is: inside an installed wheel, or in `data/` of a source checkout.

    Raises:
        StorageError: in neither.
    """
    packaged = Path(str(resources.files("causal_reft") / "_embedded"))
    checkout = Path(str(resources.files("causal_reft"))).parent / "data" / "embedded"
    for folder in (packaged, checkout):
        if (folder / "model.safetensors").is_file():
            return folder
    raise StorageError(
        f"The embedded model is neither at {packaged} nor at {checkout}. In a checkout, make it: python "
        f"data/train_embedded_model.py"
    )


def load_embedded() -> Embedded:
    """The embedded model and its exercises; no download.

    Example:
        >>> small = load_embedded()
        >>> first = small.held_out[0]
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = embedded_folder()
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    return Embedded(model, AutoTokenizer.from_pretrained(folder), folder)
