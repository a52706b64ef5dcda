"""What happened in a training run: one row a step, and what stopped it. A value that prints and plots itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass
class History:
    """The record of one `fit`.

    Attributes:
        steps: one dict a step: step, epoch, loss, lr, and validation_loss, penalty, temperature where there are such.
        stopped: "finished", "early" (no improvement for `patience` epochs) or "interrupted".
        settings: every argument and seed of the fit.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, float | int]] = field(default_factory=list)
    stopped: str = "finished"

    @property
    def table(self) -> pd.DataFrame:
        """The steps as a tidy table."""
        import pandas as pd

        return pd.DataFrame(self.steps)

    @property
    def final_loss(self) -> float:
        """The last training loss (nan before the first step)."""
        return self.steps[-1]["loss"] if self.steps else float("nan")

    def plot(self, ax: Axes | None = None) -> Axes:
        """Loss against step, with the validation loss where there is one."""
        from causal_reft.plots import training_curve

        return training_curve(self.table, ax=ax)

    def __repr__(self) -> str:
        if not self.steps:
            return f"History(no steps, {self.stopped})"
        return (
            f"History({len(self.steps)} steps, {self.stopped}, loss {self.steps[0]['loss']:.4g} -> "
            f"{self.final_loss:.4g})"
        )
