"""What the measurements become: one CSV, one Markdown table for each part, figures.

`python -m benchmarks.comparison.report` draws the figures of docs/benchmarks again, from the CSV there.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

from causal_reft.plots import ratio_bars
from causal_reft.plots.style import PALETTE

FOLDER = Path(__file__).parents[2] / "docs" / "benchmarks"
TITLES = {
    "A": "One step",
    "B": "Sweeps and controls",
    "C": "LoReFT steps",
    "D": "Collecting states",
    "E": "Generation",
    "F": "Rotations",
    "H": "Growth of one step at the last token",
}
AXES = {
    "T": "tokens in a row (T)",
    "layers": "layers of the model",
    "d": "width of the model (d)",
    "sites": "sites of a sweep",
}


def write(table: pd.DataFrame, agreement: pd.DataFrame, memory: pd.DataFrame, folder: Path) -> None:
    """All files of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "comparison.csv", index=False)
    (folder / "comparison.md").write_text(markdown(table, agreement, memory))
    draw(table, folder)


def draw(table: pd.DataFrame, folder: Path) -> None:
    """The figures."""
    ratios(table).savefig(folder / "ratios.png", dpi=150)
    if (table["part"] == "H").any():
        growth(table).savefig(folder / "growth.png", dpi=150)


def markdown(table: pd.DataFrame, agreement: pd.DataFrame, memory: pd.DataFrame) -> str:
    """The tables that the documentation includes."""
    parts = []
    for part, rows in table.groupby("part", sort=True):
        shown = rows.assign(
            seconds=rows["seconds"].map("{:.3g}".format),
            range=[f"{a:.3g} to {b:.3g}" for a, b in zip(rows["fastest"], rows["slowest"], strict=True)],
            GFLOP=rows["flops"].div(1e9).map("{:.3g}".format),
            time=rows["time ratio"].map("x{:.2f}".format),
            work=rows["flop ratio"].map("x{:.1f}".format),
        )
        columns = ["case", "who", "seconds", "range", "GFLOP", "time", "work"]
        parts.append(f"### {TITLES[str(part)]}\n\n" + _table(shown[columns]))
    if len(memory):
        megabytes = memory.copy()
        for column in ("budget", "needed", "kept", "peak above the model"):
            megabytes[column] = (megabytes[column] / 2**20).map("{:.1f} MiB".format)
        parts.append("### Memory\n\n" + _table(megabytes))
    parts.append("### Agreement with pyvene and pyreft (relative differences, float32)\n\n" + _table(agreement))
    return "\n\n".join(parts) + "\n"


def _table(table: pd.DataFrame) -> str:
    head = "| " + " | ".join(map(str, table.columns)) + " |"
    rule = "|" + " --- |" * len(table.columns)
    rows = ["| " + " | ".join(map(str, row)) + " |" for row in table.itertuples(index=False)]
    return "\n".join([head, rule, *rows])


def ratios(table: pd.DataFrame) -> plt.Figure:
    """Ours against the reference: time beside counted work, one panel for each part."""
    parts = [(part, rows) for part, rows in table.groupby("part", sort=True) if str(part) in "ABCDE"]
    heights = [(rows["who"] == "ours").sum() + 2 for _, rows in parts]
    figure, axes = plt.subplots(
        len(parts), figsize=(10, 0.36 * sum(heights)), height_ratios=heights, layout="constrained", squeeze=False
    )
    for ax, (part, rows) in zip(axes[:, 0], parts, strict=True):
        title = f"{TITLES[str(part)]}: times less than {rows['who'].iloc[0]}"
        ours = rows[rows["who"] == "ours"]
        ratio_bars(ours, "case", "time ratio", "flop ratio", title=title, ax=ax)
        ax.set_xlim(0.6, 4 * table.loc[table["part"].isin(list("ABCDE")), "flop ratio"].max())
        if ax is not axes[-1, 0]:
            ax.set_xlabel("")
    return figure


def growth(table: pd.DataFrame) -> plt.Figure:
    """Seconds and FLOPs of a step against each size."""
    rows = table[table["part"] == "H"].copy()
    rows[["axis", "size"]] = rows["case"].str.split(" = ", expand=True)
    rows["size"] = rows["size"].astype(int)
    axes_names = list(rows["axis"].unique())
    figure, axes = plt.subplots(
        2, len(axes_names), figsize=(3 * len(axes_names), 5.4), sharey="row", layout="constrained", squeeze=False
    )
    for column, axis in enumerate(axes_names):
        for line, (quantity, label) in enumerate((("flops", "FLOPs"), ("seconds", "seconds"))):
            panel = axes[line, column]
            for who, color in (("two full passes", PALETTE[1]), ("ours", PALETTE[0])):
                one = rows[(rows["axis"] == axis) & (rows["who"] == who)]
                panel.plot(one["size"], one[quantity], marker="o", markersize=4, color=color, label=who)
            panel.set(
                xscale="log",
                yscale="log",
                xlabel=AXES[axis] if line else "",
                ylabel=f"{label} a step" if not column else "",
            )
            panel.set_xticks(sorted(rows.loc[rows["axis"] == axis, "size"].unique()), minor=False)
            panel.get_xaxis().set_major_formatter(matplotlib.ticker.ScalarFormatter())
            panel.minorticks_off()
            panel.spines[["top", "right"]].set_visible(False)
    axes[0, 0].legend(frameon=False)
    figure.suptitle("FLOPs and seconds of one training step, an edit at the last token", x=0.01, ha="left", fontsize=11)
    return figure


if __name__ == "__main__":
    draw(pd.read_csv(FOLDER / "comparison.csv"), FOLDER)
