"""What happened in a training run: one row a step, and what stopped it. A value that prints and plots itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from causal_reft.display import counted, html_table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

SHOWN = 3


@dataclass
class History:
    """The record of one `fit`.

    Attributes:
        steps: one dict a step: step, epoch, loss, lr, and validation_loss, penalty (without its
            weight), temperature where there are such. The losses are without the penalty.
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

    def about(self) -> dict[str, dict[str, Any]]:
        """What a model card says of the fit: its recipe, its data and the last losses."""
        recipe = {key: v if isinstance(v, (str, int, float)) else str(v) for key, v in self.settings.items()}
        data = {"rows": recipe.pop("rows")} if "rows" in recipe else {}
        last = self.steps[-1] if self.steps else {}
        metrics = {name: f"{last[name]:.6g}" for name in ("loss", "validation_loss") if name in last}
        return {"recipe": recipe, "data": data, "metrics": {**metrics, "steps": f"{len(self.steps)}, {self.stopped}"}}

    def plot(self, ax: Axes | None = None) -> Axes:
        """Loss against step, with the validation loss where there is one."""
        from causal_reft.plots import training_curve

        return training_curve(self.table, ax=ax)

    def __repr__(self) -> str:
        if not self.steps:
            return f"History(no steps, {self.stopped})"
        return (
            f"History({counted(len(self.steps), 'step')}, {self.stopped}, loss {self.steps[0]['loss']:.4g} -> "
            f"{self.final_loss:.4g})"
        )

    def _repr_html_(self) -> str:
        shown = self.steps if len(self.steps) <= 2 * SHOWN else [*self.steps[:SHOWN], {}, *self.steps[-SHOWN:]]
        heads = list(dict.fromkeys(key for step in shown for key in step))
        rows = [[f"{step[key]:.4g}" if key in step else "" if step else "..." for key in heads] for step in shown]
        return html_table(repr(self), heads, rows)
