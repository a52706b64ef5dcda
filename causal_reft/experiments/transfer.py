"""From alignment to finetuning and back: does LoReFT learn better in a subspace that an alignment found, and does the
subspace that LoReFT learns align?

The variable is the language in which the embedded model goes on, the finetuning data a few German continuations, both
at the same block. LoReFT starts from a random subspace or from the aligned one, and may move it or not; whatever it
ends with is then scored as an alignment, beside random subspaces. Differences between starts are paired by seed.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

import causal_reft as cr
from causal_reft.alignment import UNBOUNDED, Interval, TextEncoding, mean_interval
from causal_reft.data import Embedded
from causal_reft.experiments.demo.align import language_task
from causal_reft.experiments.models import identity_of
from causal_reft.experiments.options import above_zero, at_least
from causal_reft.experiments.page import Page
from causal_reft.reft import completion_losses
from causal_reft.seeds import derive
from causal_reft.sweeps import Result, Store, run
from causal_reft.tensors import Rows

STARTS = ("random", "aligned", "random, fixed", "aligned, fixed")


@dataclass(frozen=True)
class Setting:
    """What all cells have in common.

    Args:
        layer: the block whose output both edit.
        spans: where the alignment interchanges: the lines that show a language.
        positions: where LoReFT edits, in other prompts.
        rank: of the subspace.
        pairs: counterfactuals that the alignment is fitted on; as many others score it.
        examples, held_out: German continuations that LoReFT is trained on, and those that score it.
        steps, lr: of LoReFT.
    """

    layer: int = 2
    spans: str = "line"
    positions: str = "all"
    rank: int = 4
    pairs: int = 192
    examples: int = 16
    held_out: int = 64
    steps: int = 60
    lr: float = 1e-2


@dataclass(frozen=True)
class TransferCell:
    """LoReFT from one start; the seed draws the data, both initialisations and the orders."""

    start: str
    seed: int


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    usual = Setting()
    parser.add_argument("--layer", type=at_least(0), default=usual.layer, help="block whose output is edited")
    parser.add_argument("--positions", default=usual.positions, help="of the edit, in prompts")
    parser.add_argument("--rank", type=at_least(1), default=usual.rank, help="of the subspace")
    parser.add_argument("--examples", type=at_least(1), default=usual.examples, help="that LoReFT is trained on")
    parser.add_argument("--steps", type=at_least(1), default=usual.steps, help="of LoReFT")
    parser.add_argument("--lr", type=above_zero, default=usual.lr, help="learning rate of LoReFT")
    parser.add_argument("--seeds", type=at_least(2), default=10, help="how many")


def run_command(options: argparse.Namespace) -> Path:
    """Both directions over all seeds, as a page."""
    setting = Setting(
        options.layer,
        positions=options.positions,
        rank=options.rank,
        examples=options.examples,
        steps=options.steps,
        lr=options.lr,
    )
    table = transfer(cr.load_embedded(), setting, options.seeds, options.folder)
    page = Page(options.folder, options.command)
    page.heading("LoReFT from a random and from an aligned subspace")
    page.text(f"{setting}; {options.seeds} seeds; 95 % intervals over seeds.")
    page.table("transfer", summary(table))
    for line in reading(table):
        page.text(line)
    table.to_csv(options.folder / "transfer_cells.csv", index=False)
    return page.write(
        "From alignment to finetuning and back",
        ["Another place, rank or number of examples: python -m causal_reft transfer --help"],
    )


def transfer(small: Embedded, setting: Setting, seeds: int, folder: Path | None = None) -> pd.DataFrame:
    """One row for each start and seed.

    Columns: `loss` of held-out continuations, `loss_before`; `iia` of the subspace that LoReFT ends with, `iia_before`
    of the one that it starts from, `random_iia`, the best of 100 random ones; `angle` between both, in degrees.
    """
    cells = [TransferCell(start, seed) for seed in range(seeds) for start in STARTS]
    store = Store.claim(
        folder, {"what": "transfer", **identity_of(small.model, small.tokenizer), "setting": asdict(setting)}
    )
    both = Both(small, language_task(small), setting)
    aligned = lru_cache(1)(both.aligned)
    results = run(cells, lambda cell: both.finetuned(cell, *aligned(cell.seed)), store, name="transfer")
    return pd.DataFrame([{**asdict(cell), **found.facts} for cell, found in results.items()])


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """The mean of each column with its interval over seeds, for every start."""
    rows = []
    for start, part in table.groupby("start", sort=False):
        found = {name: str(_over_seeds(part[name])) for name in ("loss", "iia_before", "iia", "random_iia", "angle")}
        rows.append({"start": start, **found})
    return pd.DataFrame(rows)


def reading(table: pd.DataFrame) -> list[str]:
    """What the paired differences say, whatever came out."""
    wide = {
        name: table.pivot_table(index="seed", columns="start", values=name) for name in ("loss", "iia", "random_iia")
    }
    lines = []
    for one, other in (("aligned", "random"), ("aligned, fixed", "random, fixed"), ("aligned, fixed", "random")):
        found = _over_seeds(wide["loss"][one] - wide["loss"][other])
        verdict = "lower" if found.high < 0 else "higher" if found.low > 0 else "not told apart"
        lines.append(f"Held-out loss from the start '{one}' minus that from '{other}': {found}: {verdict}.")
    found = _over_seeds(wide["iia"]["random"] - wide["random_iia"]["random"])
    verdict = "above" if found.low > 0 else "below" if found.high < 0 else "not told apart from"
    lines.append(
        f"IIA of the subspace that LoReFT learns from a random start, minus the best of 100 random subspaces: {found}: "
        f"{verdict} random."
    )
    return lines


def _over_seeds(values: pd.Series) -> Interval:
    return mean_interval(values.to_numpy(float), np.arange(len(values)), bounds=UNBOUNDED)


@dataclass(frozen=True)
class Both:
    """The alignment and the finetuning of one block."""

    small: Embedded
    task: cr.Task
    setting: Setting

    def aligned(self, seed: int) -> tuple[Rows, float]:
        """The rows of the subspace that an alignment of the language finds, and the best IIA of random ones."""
        found = cr.Subspace(self.small.model.config.hidden_size, self.setting.rank, derive(seed, "alignment"))
        alignment = self.alignment(found)
        data = self.task.counterfactuals("language", self.setting.pairs, derive(seed, "alignment pairs"))
        recipe = {"seed": derive(seed, "alignment order")}
        alignment.fit(self.small.model, data, self.encoding, recipe=recipe, progress=False)
        score = alignment.iia(self.small.model, self.scored(seed), self.encoding, seed=seed)
        return found.rotation.detach(), score.controls["random"]

    def finetuned(self, cell: TransferCell, aligned: Rows, random_iia: float) -> Result:
        """LoReFT from one start: its loss on held-out continuations, and its subspace scored as an alignment."""
        model, tokenizer, setting = self.small.model, self.small.tokenizer, self.setting
        d = model.config.hidden_size
        drawn = cr.Subspace(d, setting.rank, derive(cell.seed, "random start")).rotation.detach()
        rows = aligned if cell.start.startswith("aligned") else drawn
        frame = cr.Subspace.from_rows(rows)
        if cell.start.endswith("fixed"):
            frame.requires_grad_(False)
        site = cr.Site(setting.layer, positions=setting.positions)
        edit = cr.Interchange(site, frame, cr.LearnedSource(setting.rank, d))
        reft = cr.IntervenedModel(model, cr.InterventionGraph(edit=edit), tokenizer)
        order = np.random.default_rng(derive(cell.seed, "examples")).permutation(len(self.small.german_examples))
        chosen = [self.small.german_examples[i] for i in order[: setting.examples + setting.held_out]]
        records = cr.completions([(row["prompt"], row["continuation"]) for row in chosen], tokenizer)
        train, held_out = records[: setting.examples], records[setting.examples :]
        before = completion_losses(reft.eval(), held_out)
        cr.fit(
            reft, cr.as_examples(train, tokenizer), epochs=setting.steps, max_steps=setting.steps, lr=setting.lr,
            seed=derive(cell.seed, "order"), progress=False, interruptible=False,
        )  # fmt: skip
        ended = frame.rotation.detach()
        facts = {
            "loss_before": float(np.mean(before)),
            "loss": float(np.mean(completion_losses(reft.eval(), held_out))),
            "iia_before": self.iia(rows, cell.seed),
            "iia": self.iia(ended, cell.seed),
            "random_iia": random_iia,
            "angle": float(cr.principal_angles(rows, ended).max()),
        }
        return Result(facts=facts)

    def alignment(self, subspace: cr.Subspace) -> cr.Alignment:
        """The language in these coordinates."""
        site = cr.Site(self.setting.layer, positions=self.setting.spans)
        node = cr.Interchange(site, subspace, cr.Collect("source"))
        return cr.Alignment(self.task.causal_model, cr.InterventionGraph(language=node))

    def iia(self, rows: Rows, seed: int) -> float:
        """Of the subspace that rows span."""
        alignment = self.alignment(cr.Subspace.from_rows(rows))
        return alignment.summary(self.small.model, self.scored(seed), self.encoding)["iia"]

    def scored(self, seed: int) -> cr.CounterfactualDataset:
        """The pairs that alignments are scored on."""
        return self.task.counterfactuals("language", self.setting.pairs, derive(seed, "scored pairs"))

    @property
    def encoding(self) -> TextEncoding:
        """Prompts as tokens, answers among the first words of both languages."""
        return TextEncoding(self.small.tokenizer, choices=self.task.choices)
