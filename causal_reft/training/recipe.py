"""Every setting of a fit, as a value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from causal_reft.display import html_fields
from causal_reft.errors import DataError, nearest

ROLES = ("featurizer", "source")
BATCHES = ("shuffled", "by length")
LEFT_OUT = ("epochs", "batch_size", "lr", "schedule")


Default = Any  # None, in whose place `Recipe.of` puts the default of what takes the recipe


@dataclass(frozen=True)
class Recipe:
    """Every setting of a fit. `lr` is one number, or one for each role: {"featurizer": 1e-3, "source": 4e-3}.

    `epochs`, `batch_size`, `lr` and `schedule` that are left out (None) are those of what the recipe is given to:
    `FIT_RECIPE` of `fit`, `STUDY_RECIPE` of a study, `DEFAULT_RECIPE` of an alignment.

    `penalty`: the weight of the terms that parts of the graph add to the loss: how much of the space a `Mask` takes,
    open gates of `GatedScale`, small latents of `TopLatents`. Losses that are measured are without it.

    `batches`: "shuffled" rows, or rows "by length": each batch holds rows of similar length and so little padding, the
    batches come in random order. Other batches are other numbers, so this is a choice and no shortcut.
    """

    epochs: int | Default = None
    batch_size: int | Default = None
    lr: float | Mapping[str, float] | Default = None
    schedule: str | Default = None
    warmup: float = 0.1
    weight_decay: float = 0.0
    accumulate: int = 1
    clip: float | None = None
    penalty: float = 0.0
    patience: int | None = None
    max_steps: int | None = None
    batches: str = "shuffled"
    seed: int = 0

    def _repr_html_(self) -> str:
        return html_fields(self)

    def steps(self, n_rows: int) -> int:
        """Optimizer steps for this many rows."""
        batches = -(-n_rows // self.batch_size)
        steps = self.epochs * -(-batches // self.accumulate)
        return steps if self.max_steps is None else min(steps, self.max_steps)

    @property
    def stated(self) -> Mapping[str, object]:
        """The settings that were not left out."""
        return {name: value for name, value in vars(self).items() if name not in LEFT_OUT or value is not None}

    @staticmethod
    def of(given: Recipe | Mapping[str, object], default: Recipe) -> Recipe:
        """The settings that are given, and the default's for all others.

        Raises:
            DataError: a setting or a way of batching that does not exist; learning rates for other roles; counts below
                one; a learning rate that is negative or no number.
        """
        stated = given.stated if isinstance(given, Recipe) else given
        for name in stated:
            if name not in vars(default):
                raise DataError(f"fit has no setting {name!r}. {nearest(name, vars(default))}")
        recipe = replace(default, **stated)  # type: ignore[arg-type] - checked below
        if isinstance(recipe.lr, Mapping) and set(recipe.lr) != set(ROLES):
            raise DataError(f"lr={dict(recipe.lr)} must name exactly {' and '.join(ROLES)}.")
        for name in ("epochs", "batch_size", "accumulate"):
            count = getattr(recipe, name)
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise DataError(f"{name}={count!r} must be a whole number from 1 on.")
        for rate in recipe.lr.values() if isinstance(recipe.lr, Mapping) else (recipe.lr,):
            if not (math.isfinite(rate) and rate >= 0):
                raise DataError(f"lr={recipe.lr!r} must be finite and not negative; 1e-3 is a usual start.")
        if recipe.batches not in BATCHES:
            raise DataError(f"batches={recipe.batches!r} does not exist. {nearest(recipe.batches, BATCHES)}")
        return recipe


FIT_RECIPE = Recipe(epochs=1, batch_size=32, lr=1e-3, schedule="linear")
