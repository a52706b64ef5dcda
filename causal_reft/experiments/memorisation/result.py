"""What a memorisation grid found: the tidy table, the figure of the paper, and the same in words."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from causal_reft.analysis.memorisation import CONTROLS, NONE, PROMPT_EMBEDDING
from causal_reft.errors import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KEYS = ["text", "method", "rank", "layers", "positions"]
GREY = "0.92"
NAMES = {"consreft": "ConsReFT", "loreft": "LoReFT", "lobireft": "LobiReFT", "direft": "DiReFT"}
NAMES |= {"noreft": "NoReFT", "nodireft": "NodiReFT"}


@dataclass(frozen=True)
class MemorisationResult:
    """The finished cells of a grid.

    Attributes:
        table: one row for each target (text, n, seed) and edit; columns as in `analysis.memorisation.recall`.
        settings: what all rows have in common.
        complete: False after an interruption.
    """

    table: pd.DataFrame
    settings: Mapping[str, Any] = field(default_factory=dict)
    complete: bool = True

    @staticmethod
    def read(path: str | os.PathLike[str]) -> MemorisationResult:
        """From a `table.csv` of the command."""
        words = dict.fromkeys(("text", "layers", "positions", "note", "stopped", "recalled", "wanted"), "object")
        table = pd.read_csv(path, dtype=words)  # pyright: ignore[reportArgumentType]
        return MemorisationResult(table.fillna({"layers": "", "note": ""}))

    @property
    def edits(self) -> pd.DataFrame:
        """The rows without the controls."""
        return self.table[~self.table["method"].isin(CONTROLS)]

    @property
    def control(self) -> pd.DataFrame:
        """The rows of the prompt embeddings of equal size."""
        return self.table[self.table["method"] == PROMPT_EMBEDDING]

    def longest(self) -> pd.DataFrame:
        """For each text, edit and seed the largest length that came back whole (0 where none did): `longest`."""
        known = self.table.dropna(subset=["recovery"])
        whole = known.assign(longest=known["n"].where(known["recovery"] == 1, 0))
        keys = [*KEYS, "layer", "n_trainable_parameters", "seed"]
        return whole.groupby(keys, dropna=False, sort=False)["longest"].max().reset_index()

    def figure(self, value: str = "recovery") -> np.ndarray:
        """One panel for each length, layer on x, one line for each kind of text with its range over seeds.

        Dotted: the prompt embedding of equal size, which has no layer. Grey: layers whose edit cannot change more than
        the first new token. A length beyond the context has an empty panel that says so. Returns the panels' Axes.

        Raises:
            DataError: edits that do not differ by their layer alone.
        """
        from causal_reft.plots import panel_grid

        edits = self.edits
        if edits["layer"].isna().any() or len(edits[["method", "rank", "positions"]].drop_duplicates()) > 1:
            raise DataError(
                "This figure has the layer on its x axis, and these edits differ by more. Choose one method, rank and "
                "place: MemorisationResult(table[(table['rank'] == 1) | table['layer'].isna()])."
            )
        first = edits.iloc[0]
        numbers = int(edits["n_trainable_parameters"].dropna().iloc[0])
        name = NAMES[first["method"]]
        title = (
            f"{value.replace('_', ' ').capitalize()}: {name} of rank {first['rank']}, {numbers:,} trainable parameters"
        )
        axes = panel_grid(edits, "n", "layer", value, "text", title=title)
        figure = axes[0].figure
        figure.supxlabel("\n".join(["layer", *self._marks()]), fontsize=8)
        for ax, (_, panel) in zip(axes, self.table.groupby("n", sort=True), strict=True):
            self._mark_blind(ax, panel)
            self._draw_controls(ax, panel, value)
            if panel[value].isna().all():
                ax.text(
                    0.5,
                    0.5,
                    f"{panel['note'].iloc[0]}:\nnot run",
                    transform=ax.transAxes,
                    ha="center",
                    va="center",
                    fontsize=7,
                )
        return axes

    def _marks(self) -> list[str]:
        """What the coloured bands, dotted lines and grey bands are, in lines."""
        seeds = self.edits["seed"].nunique()
        bands = [f"line and band: mean and range of {seeds} seeds"] if seeds > 1 else []
        marks = ["dotted: a learned prompt embedding of equal size"] if len(self.control) else []
        marks += ["grey: only the first new token can change"] if (self.edits["reach"] == 1).any() else []
        return [line for line in (*bands, "; ".join(marks)) if line]

    def report(self) -> str:
        """The table in words: what came back, what a control brings back, and what is no measure of memory."""
        table = self.table
        lines = [
            f"{len(self.edits)} edits of {len(table[['text', 'n', 'seed']].drop_duplicates())} targets"
            + ("" if self.complete else " (interrupted)")
        ]
        for n, some in table[table["recovery"].notna()].groupby("n"):
            for text, rows in some.groupby("text", sort=False):
                lines.append(f"  {text}, {n} tokens: {self._told(rows)}")
        blind = table[table["note"].str.startswith("changes")]
        if len(blind):
            lines.append(
                f"Layers {', '.join(sorted(set(blind['layers'])))}: an edit there "
                "changes only the first new token, whatever it learns; no measure of memory."
            )
        empty = table[table["recovery"].isna()]
        if len(empty):
            lines.append(
                f"Lengths {', '.join(map(str, sorted(set(empty['n']))))}: beyond the model's context, not run."
            )
        return "\n".join(lines)

    def _told(self, rows: pd.DataFrame) -> str:
        """Mean and range over seeds of the best edit and of the controls."""
        parts = []
        edits = rows[~rows["method"].isin(CONTROLS) & (rows["note"] == "")]
        if len(edits):
            chosen = max(
                (rows for _, rows in edits.groupby(KEYS[1:], sort=False)), key=lambda rows: rows["recovery"].mean()
            )
            best = chosen.iloc[0]
            name = f"{NAMES[best['method']]} rank {best['rank']} at layers {best['layers']}"
            parts.append(f"best edit {name} {_interval(chosen)}")
        for method, name in ((PROMPT_EMBEDDING, "prompt embedding"), (NONE, "no edit")):
            if len(chosen := rows[rows["method"] == method]):
                parts.append(f"{name} {_interval(chosen)}")
        return "; ".join(parts)

    def _mark_blind(self, ax: Axes, panel: pd.DataFrame) -> None:
        for layer in panel.loc[panel["note"].str.startswith("changes"), "layer"].dropna().unique():
            ax.axvspan(layer - 0.4, layer + 0.4, color=GREY, zorder=0, linewidth=0)

    def _draw_controls(self, ax: Axes, panel: pd.DataFrame, value: str) -> None:
        """The mean of the prompt embeddings as a dotted line in the colour of its kind of text."""
        for line in list(ax.get_lines()):
            of = panel[(panel["method"] == PROMPT_EMBEDDING) & (panel["text"] == line.get_label())]
            if len(of) and of[value].notna().any():
                ax.axhline(of[value].mean(), color=line.get_color(), linestyle=":", linewidth=1.2, zorder=1)


def _interval(rows: pd.DataFrame) -> str:
    values = rows["recovery"]
    return f"{values.mean():.3f} [{values.min():.3f}, {values.max():.3f}]"
