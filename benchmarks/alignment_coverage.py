"""Do the intervals of a study hold the truth as often as they say, and its tests no more than they may?

    python benchmarks/alignment_coverage.py [--quick] [--fits 200] [--out docs/figures/coverage]

Simulated studies with a known IIA: every answer is right with a probability whose log-odds are a sum of effects of its
row, its base, its source (standard deviation 1 each) and its seed (`spread`); the intercept makes the mean the wanted
IIA. Four tables are printed and written, with a figure:

    intervals     how often the 95 % interval of the IIA holds it, over seeds, pairs, sharing of entities, IIA, spread
    weighted      the same of cause, isolate and disentangle, which average rows by prompt and prompts by attribute
    separations   how often the interval of the separation holds the true one and the estimate; how often p < 0.05 and
                  the report's rule (p < 0.05 and an interval above zero) call a separation that is none
    corrections   how often any of 20 cells of which none separates is called so after the correction

`--fits` trains as many networks' subspaces on permuted labels and counts how often the interval holds chance.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import optimize, special

sys.path.insert(0, str(Path(__file__).parents[1]))

from causal_reft.alignment.metrics import SHARES, Means
from causal_reft.alignment.statistics import Interval, binomial_interval, holm, mean_interval, paired_p, separation
from causal_reft.alignment.variance import Factors, SeedVariance
from causal_reft.causal import CAUSE, ISOLATE, row_weights
from causal_reft.seeds import numpy_stream

SEEDS, IIA, SPREADS = (1, 2, 3, 5, 10), (0.5, 0.8, 0.95), (0.0, 0.5, 1.5)
LOWEST, HIGHEST = 0.92, 0.98


@dataclass(frozen=True)
class Design:
    """Which pairs of bases and sources the rows show: `pairs` of all bases x sources, or each entity once."""

    pairs: int
    bases: int | None = None
    sources: int | None = None

    def __str__(self) -> str:
        shared = "nothing shared" if self.bases is None else f"{self.bases} bases x {self.sources} sources"
        return f"{self.pairs} pairs, {shared}"

    def entities(self) -> tuple[np.ndarray, np.ndarray]:
        """The base and the source of each row."""
        if self.bases is None:
            return np.arange(self.pairs), np.arange(self.pairs)
        every = np.array(list(product(range(self.bases), range(self.sources))))
        return tuple(every[numpy_stream(0, "design", self).permutation(len(every))[: self.pairs]].T)


DESIGNS = (
    Design(20),
    Design(40),
    Design(200),
    Design(60, 8, 8),
    Design(100, 5, 50),
    Design(200, 20, 20),
    Design(200, 100, 100),
)
FEW = (Design(40), Design(60, 8, 8), Design(200, 20, 20))


class Population:
    """Scores of simulated studies of one design."""

    def __init__(self, design: Design) -> None:
        self.base, self.source = design.entities()
        self.n, self.sd = len(self.base), np.sqrt(1.0 + 2.0 * (design.bases is not None))
        self.shared = design.bases is not None
        self.factors = Factors.of({"pair": np.arange(self.n), "base": self.base, "source": self.source})

    def difficulty(self, stream: np.random.Generator) -> np.ndarray:
        """What log-odds the rows of one study share: "rows"."""
        found = stream.normal(size=self.n)
        if self.shared:
            for codes in (self.base, self.source):
                found = found + stream.normal(size=codes.max() + 1)[codes]
        return found

    def scores(
        self, stream: np.random.Generator, rows: np.ndarray, series: int, iia: float, spread: float = 0.0
    ) -> np.ndarray:
        """Right or wrong, "series rows"."""
        if iia == 1:
            return np.ones((series, self.n))
        middle = _intercept(iia, float(np.hypot(self.sd, spread)))
        log_odds = middle + rows + spread * stream.normal(size=(series, 1))
        return (stream.random((series, self.n)) < special.expit(log_odds)).astype(float)


_KNOWN: dict[tuple[float, float], float] = {}


def _intercept(iia: float, sd: float) -> float:
    """The mean log-odds under which a normal spread of this standard deviation gives this mean share."""
    if (iia, sd) not in _KNOWN:
        at, weights = np.polynomial.hermite_e.hermegauss(80)
        weights = weights / weights.sum()
        _KNOWN[iia, sd] = optimize.brentq(lambda x: weights @ special.expit(x + sd * at) - iia, -60, 60)
    return _KNOWN[iia, sd]


def intervals(studies: int, designs: Iterable[Design], seeds: Iterable[int]) -> pd.DataFrame:
    """Coverage and width of the interval of the IIA; `silent`: misses among intervals without a warning."""
    table = []
    settings = [*product(IIA, SPREADS), (1.0, 0.0)]
    for design, n_seeds, (iia, spread) in product(designs, seeds, settings):
        people, stream = Population(design), numpy_stream(0, "intervals", design, n_seeds, iia, spread)
        found = [
            mean_interval(people.scores(stream, people.difficulty(stream), n_seeds, iia, spread), people.factors)
            for _ in range(studies if iia < 1 else 1)
        ]
        place = {"design": str(design), "seeds": n_seeds, "iia": iia, "spread": spread}
        table.append(place | _coverage(found, np.full(len(found), iia)))
    return pd.DataFrame(table)


def weighted(studies: int, designs: Iterable[Design], seeds: Iterable[int]) -> pd.DataFrame:
    """The table of `intervals` for weighted means; prompts of unequal size and ease, each base has one prompt."""
    table, ease = [], np.array([0.9, 0.7, 0.95, 0.6, 0.8, 0.85])
    for design, n_seeds, spread in product(designs, seeds, (0.0, 0.5)):
        people, stream = Population(design), numpy_stream(0, "weighted", design, n_seeds, spread)
        easier = np.array([_intercept(p, np.hypot(people.sd, spread)) for p in ease])
        found: dict[str, list[tuple[Interval, float]]] = {name: [] for name in SHARES[1:]}
        for _ in range(studies):
            prompt = stream.choice(6, people.base.max() + 1, p=[0.25, 0.1, 0.25, 0.15, 0.15, 0.1])[people.base]
            prompt[people.base < 6] = people.base[people.base < 6]  # none is missing
            kinds = np.where(prompt < 2, CAUSE, ISOLATE)
            weights = row_weights(kinds, pd.DataFrame({"asked": prompt // 2, "prompt": prompt}))
            rows = people.difficulty(stream) + (easier - easier[0])[prompt]
            scores = people.scores(stream, rows, n_seeds, ease[0], spread)
            for name, means in ((name, Means.of(name, kinds, weights)) for name in found):
                interval = mean_interval(scores, people.factors, means=means)
                found[name].append((interval, float(means.value(ease[prompt]))))
        for name, pairs in found.items():
            place = {"design": str(design), "seeds": n_seeds, "spread": spread, "score": name}
            table.append(place | _coverage([x for x, _ in pairs], np.array([true for _, true in pairs])))
    return pd.DataFrame(table)


def _coverage(found: list[Interval], true: np.ndarray) -> dict[str, float]:
    low, high = (np.array([getattr(x, end) for x in found]) for end in ("low", "high"))
    covered, warned = (low <= true + 1e-9) & (true - 1e-9 <= high), np.array([bool(x.warning) for x in found])
    return {
        "coverage": covered.mean(),
        "width": (high - low).mean(),
        "warned": warned.mean(),
        "silent": (~covered & ~warned).mean(),
    }


def separations(studies: int, designs: Iterable[Design], seeds: Iterable[int]) -> pd.DataFrame:
    """A score of 0.8 or 0.5 beside 20 equal random subspaces and one control, as good as it or 0.3 worse."""
    table = []
    for design, n_seeds, iia, gap, spread in product(designs, seeds, (0.5, 0.8), (0.0, 0.3), (0.0, 0.5)):
        people, stream = Population(design), numpy_stream(0, "separations", design, n_seeds, iia, gap, spread)
        found = []
        for _ in range(studies):
            rows = people.difficulty(stream)
            controls = {
                "no_edit": people.scores(stream, rows, 1, 0.2),
                "random": people.scores(stream, rows, 20, iia - gap),
            }
            found.append(separation(people.scores(stream, rows, n_seeds, iia, spread), controls, people.factors))
        table.append(
            {
                "design": str(design),
                "seeds": n_seeds,
                "iia": iia,
                "gap": gap,
                "spread": spread,
                "coverage": np.mean([x.low <= gap <= x.high for x in found]),
                "inside": np.mean([x.low <= x.value <= x.high for x in found]),
                "width": np.mean([x.high - x.low for x in found]),
                "p < 0.05": np.mean([x.p < 0.05 for x in found]),
                "called": np.mean([x.p < 0.05 and x.low > 0 for x in found]),
            }
        )
    return pd.DataFrame(table)


def corrections(studies: int, designs: Iterable[Design], seeds: Iterable[int], cells: int = 20) -> pd.DataFrame:
    """Grids of cells that are as good as their one control; and paired differences with a long tail to the left."""
    table = []
    for design, n_seeds, spread in product(designs, seeds, SPREADS):
        people, stream = Population(design), numpy_stream(0, "corrections", design, n_seeds, spread)
        alone = called = 0
        for _ in range(studies):
            rows = people.difficulty(stream)
            control = {"pca": people.scores(stream, rows, 1, 0.5)}
            scores = [people.scores(stream, rows, n_seeds, 0.5, spread) for _ in range(cells)]
            pooled = SeedVariance.pooled(scores, people.factors)
            found = [separation(cell, control, people.factors, seeds=pooled) for cell in scores]
            right = holm(np.array([x.p for x in found])) < 0.05
            alone += right.any()
            called += (right & np.array([x.low > 0 for x in found])).any()
        place = {"differences": f"{design}, {n_seeds} seeds", "spread": spread}
        table.append(place | {"p_corrected < 0.05": alone / studies, "called": called / studies})
    for n in (20, 40, 100, 200):
        stream, alone = numpy_stream(0, "left-skewed", n), 0
        for _ in range(studies):
            values = np.where(stream.random((cells, n)) < 0.9, 0.1, -0.9)
            alone += holm(np.array([paired_p(row, np.arange(n), one_sided=True) for row in values])).min() < 0.05
        table.append({"differences": f"{n} left-skewed", "p_corrected < 0.05": alone / studies})
    return pd.DataFrame(table)


def draw(table: pd.DataFrame, path: Path) -> None:
    """Coverage by seeds, a panel for each spread between seeds, a line for each design; the lowest over the IIA."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(3, 3, figsize=(11, 8), sharex=True, sharey=True, layout="constrained")
    for (iia, spread), ax in zip(product(IIA, SPREADS), axes.flat, strict=True):
        part = table[(table["iia"] == iia) & (table["spread"] == spread)]
        ax.axhspan(LOWEST, HIGHEST, color="0.9", zorder=0)
        ax.axhline(0.95, color="0.6", lw=0.8, zorder=1)
        for design, line in part.groupby("design", sort=False):
            ax.plot(line["seeds"].astype(str), line["coverage"], "o-", ms=3, lw=1, label=design)
        ax.set_title(f"IIA {iia:g}, seeds spread by {spread:g} logits", fontsize=9)
    for ax in axes[-1]:
        ax.set_xlabel("seeds")
    for ax in axes[:, 0]:
        ax.set_ylabel("coverage of 95 % intervals")
    axes[0, 0].set_ylim(0.6, 1.005)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=110)


def trained(fits: int) -> str:
    """Whether chance is inside the interval of fits to permuted labels on planted networks."""
    import torch

    torch.set_num_threads(1)
    found = [_trained(seed) for seed in range(fits)]
    low, high = binomial_interval(sum(found), fits)
    return f"chance lies inside the interval of {sum(found)} of {fits} fits to permuted labels [{low:.3f}, {high:.3f}]"


def _trained(seed: int) -> bool:
    from causal_reft.alignment.row_facts import factors_of
    from causal_reft.alignment.row_scores import score_rows
    from causal_reft.training import Recipe
    from tests.alignment import planted

    network = planted.Planted("independent", seed % 5)
    train, report = (
        replace(data, labels=data.labels.iloc[order].reset_index(drop=True))
        for data in (planted.counterfactuals(n, 2 * seed + i) for i, n in enumerate((256, 200)))
        for order in [numpy_stream(seed, "permuted").permutation(len(data))]
    )
    found = planted.alignment(rank=2, seed=seed)
    recipe = Recipe(epochs=2, batch_size=64, lr=2e-2, seed=seed)
    found.fit(network, train, planted.ENCODING, recipe=recipe, progress=False)
    examples = planted.ENCODING.examples(report)
    right = score_rows(network, found.graph_for(report), examples)["iia"]
    labels = examples.labels.numpy()
    answers = np.where(right == 1, labels, 1 - labels)
    chance = sum((answers == k).mean() * (labels == k).mean() for k in (0, 1))
    interval = mean_interval(right, factors_of(report))
    return bool(interval.low <= chance <= interval.high)


def main() -> None:
    """Simulate, count, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fifth of the studies, few designs")
    parser.add_argument("--fits", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, help="writes <out>.csv, <out>_{weighted,separation,correction}.csv, <out>.png"
    )
    options = parser.parse_args()
    studies, designs, seeds = (100, FEW, (2, 5)) if options.quick else (500, DESIGNS, SEEDS)
    found: list[tuple[str, Callable[[], pd.DataFrame]]] = [
        ("", lambda: intervals(studies, designs, seeds)),
        ("_weighted", lambda: weighted(studies, (*FEW, Design(200)), (2, 5))),
        ("_separation", lambda: separations(studies // 4, FEW, (2, 5))),
        ("_correction", lambda: corrections(studies // 5, FEW, (2, 5))),
    ]
    tables = {}
    for name, made in found:
        tables[name] = made()
        print(tables[name].round(3).to_string(index=False), flush=True)
        if options.out:
            tables[name].round(4).to_csv(f"{options.out}{name}.csv", index=False)
    print(summary(tables[""]))
    if options.fits:
        print(trained(options.fits))
    if options.out:
        draw(tables[""], options.out.with_suffix(".png"))


def summary(table: pd.DataFrame) -> str:
    """The promise: coverage of 95 +- 3 %, or a warning."""
    outside = table[(table["coverage"] < LOWEST) & (table["iia"] < 1)]
    several, one = table[(table["seeds"] > 1) & (table["iia"] < 1)], table[table["seeds"] == 1]["coverage"]
    most, widths = several["coverage"], several.groupby("seeds")["width"].mean()
    return (
        f"{len(table)} settings: {len(outside)} cover less than {LOWEST}, {(outside['seeds'] == 1).sum()} of them with "
        f"one seed; misses without a warning: at most {table['silent'].max():.3f}; coverage with one seed from "
        f"{one.min():.3f}, with more {most.min():.3f} to {most.max():.3f}, in {most.between(LOWEST, HIGHEST).sum()} of "
        f"{len(most)} within {LOWEST} to {HIGHEST}; mean width by seeds "
        + ", ".join(f"{n}: {width:.2f}" for n, width in widths.items())
    )


if __name__ == "__main__":
    main()
