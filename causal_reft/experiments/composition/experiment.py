"""What a composition experiment is: a model, skills to learn, held-out prompts, and what is measured on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

import causal_reft as cr
from causal_reft.analysis.behaviours import Behaviour, Row
from causal_reft.analysis.composition import DEFAULTS, Skill
from causal_reft.errors import DataError
from causal_reft.experiments.models import identity_of
from causal_reft.sweeps import digest_of


@dataclass(frozen=True)
class Experiment:
    """Everything that determines a composition table.

    Args:
        model, tokenizer: a causal language model.
        skills: what is learned; two or more.
        prompts: held-out rows: `prompt`, what the behaviours read, and `task` for the breakdown.
        behaviours: what is measured on each continuation.
        site: where the edits are.
        settings: of `fit`.
        max_new_tokens: the longest continuation.

    Raises:
        DataError: held-out prompts that are training prompts.
    """

    model: nn.Module
    tokenizer: Any
    skills: Sequence[Skill]
    prompts: Sequence[Row]
    behaviours: Sequence[Behaviour]
    site: cr.Site
    settings: Mapping[str, Any] = field(default_factory=dict)
    max_new_tokens: int = 24

    def __post_init__(self) -> None:
        seen = {prompt for skill in self.skills for prompt, _ in skill.pairs}
        repeated = [row["prompt"] for row in self.prompts if row["prompt"] in seen]
        if repeated:
            raise DataError(f"{len(repeated)} held-out prompts are training prompts too, e.g. {repeated[0]!r}.")

    def description(self) -> dict[str, Any]:
        """What all cells have in common and that determines their continuations."""
        skills = {skill.name: {"rank": skill.rank, "pairs": digest_of(list(skill.pairs))} for skill in self.skills}
        return {
            "what": "composition",
            **identity_of(self.model, self.tokenizer),
            "skills": [*skills.items()],
            "prompts": digest_of([dict(row) for row in self.prompts]),
            "site": repr(self.site),
            "settings": {**DEFAULTS, **self.settings},
            "max_new_tokens": self.max_new_tokens,
        }
