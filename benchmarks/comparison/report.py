"""What the measurements become: one CSV, one Markdown table for each part, figures."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

TITLES = {
    "A": "One step",
    "B": "Sweeps and controls",
    "C": "LoReFT steps",
    "D": "Collecting states",
    "E": "Generation",
    "F": "Rotations",
    "H": "Growth of one step at the last token",
}


def write(table: pd.DataFrame, agreement: pd.DataFrame, memory: pd.DataFrame, folder: Path) -> None:
    """All files of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "comparison.csv", index=False)
    (folder / "comparison.md").write_text(markdown(table, agreement, memory))
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
    """Ours against the reference: time beside counted work, case by case."""
    ours = table[(table["who"] == "ours") & table["part"].isin(["A", "B", "C", "D", "E"])].iloc[::-1]
    figure, axes = plt.subplots(figsize=(9, 1.4 + 0.34 * len(ours)), layout="constrained")
    places = range(len(ours))
    axes.barh([p + 0.2 for p in places], ours["time ratio"], 0.4, label="time", color="#31688e")
    axes.barh([p - 0.2 for p in places], ours["flop ratio"], 0.4, label="FLOPs", color="#b8c9d9")
    for place, time in zip(places, ours["time ratio"], strict=True):
        axes.text(time, place + 0.2, f" {time:.3g}", va="center", fontsize=7)
    axes.set_yticks(
        list(places), [f"{part}  {case}" for part, case in zip(ours["part"], ours["case"], strict=True)], fontsize=8
    )
    axes.set(xscale="log", xlabel="reference divided by ours (times as fast, times as little work)")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.margins(y=0.01)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
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
            for who, color in (("two full passes", "#b5652b"), ("ours", "#31688e")):
                one = rows[(rows["axis"] == axis) & (rows["who"] == who)]
                panel.plot(one["size"], one[quantity], marker="o", markersize=4, color=color, label=who)
            panel.set(
                xscale="log", yscale="log", xlabel=axis if line else "", ylabel=f"{label} a step" if not column else ""
            )
            panel.set_xticks(sorted(rows.loc[rows["axis"] == axis, "size"].unique()), minor=False)
            panel.get_xaxis().set_major_formatter(matplotlib.ticker.ScalarFormatter())
            panel.minorticks_off()
            panel.spines[["top", "right"]].set_visible(False)
    axes[0, 0].legend(frameon=False)
    return figure
