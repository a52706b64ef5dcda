"""A counterfactual dataset: base runs, source runs, and the output that the causal model expects of the mixture.

Every frame has one row per example and a column per causal variable; prompts, where a task wrote them, are the columns
`prompt` and `text` (the answer in words). Nothing here needs a tokenizer: spans are ranges of characters, and
`token_spans(tokenizer)` turns them into ranges of tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, combinations
from typing import Any

import numpy as np
import pandas as pd

from causal_reft.causal.columns import PROMPT, TEXT
from causal_reft.causal.spans import token_spans
from causal_reft.causal.splits import DROPPED, PARTS, as_fractions, as_names, deal_rows
from causal_reft.display import counted, html_table
from causal_reft.errors import CausalModelError

SHOWN = 5
COUNTED = ("settings", "prompts", "pairs")


@dataclass(frozen=True, eq=False, repr=False)
class CounterfactualDataset:
    """Rows of (base, one source per variable, expected output under the interchange).

    base: every variable of the base run. sources: per interchanged variable, every variable of its source run.
    labels: the outputs that the causal model expects, and `text`, the answer in words, where there are prompts.
    inputs: the columns that make up a setting. spans: per run name, the character range of each span in the prompt.
    seed: what the rows were drawn with (None for rows read from a file).
    """

    base: pd.DataFrame
    sources: Mapping[str, pd.DataFrame]
    labels: pd.DataFrame
    variables: tuple[str, ...]
    inputs: tuple[str, ...]
    seed: int | None = None
    spans: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if set(self.sources) != set(self.variables):
            raise CausalModelError(f"variables={self.variables} need one source each; given: {sorted(self.sources)}.")
        lengths = {name: len(frame) for name, frame in {**self.runs, "labels": self.labels, **self.spans}.items()}
        if len(set(lengths.values())) > 1:
            raise CausalModelError(f"A dataset has one row per example in every frame, but they differ: {lengths}.")

    # Reading ----------------------------------------------------------------------------------------------------

    @property
    def runs(self) -> dict[str, pd.DataFrame]:
        """Frames by run name: "base", and "source" (one for all variables) or "source_<variable>"."""
        return {"base": self.base, **{self.run_of(name): self.sources[name] for name in self.variables}}

    def run_of(self, variable: str) -> str:
        """The name of the run that a variable takes its value from."""
        shared = all(self.sources[name] is self.sources[variable] for name in self.variables)
        return "source" if shared else f"source_{variable}"

    @property
    def prompts(self) -> dict[str, list[str]]:
        """The prompt of every row, by run name."""
        if PROMPT not in self.base:
            raise CausalModelError("These counterfactuals have no prompts; draw them from a task that has a template.")
        return {name: frame[PROMPT].tolist() for name, frame in self.runs.items()}

    @property
    def changed(self) -> np.ndarray:
        """Rows whose expected output differs from the base's own: "rows" of bool."""
        outputs = [name for name in self.labels if name in self.base]
        return np.any([self.labels[name].to_numpy() != self.base[name].to_numpy() for name in outputs], axis=0)

    def with_equal_spans(self, tokenizer: Callable[..., Any]) -> CounterfactualDataset:
        """The rows whose spans have equally many tokens in every run, so that they pair token by token."""
        lengths = [frame.map(len).to_numpy() for frame in self.token_spans(tokenizer).values()]
        return self[np.flatnonzero(np.all([(other == lengths[0]).all(axis=1) for other in lengths[1:]], axis=0))]

    def token_spans(self, tokenizer: Callable[..., Any]) -> dict[str, pd.DataFrame]:
        """The token range of each span, by run name, counted from the first token of the unpadded prompt."""
        return {run: token_spans(tokenizer, self.prompts[run], frame) for run, frame in self.spans.items()}

    # Rows -------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, rows: int | slice | Sequence[int] | np.ndarray) -> CounterfactualDataset:
        """These rows (an index, a slice, indices or a mask) as a dataset."""
        index = np.arange(len(self))[rows]
        return self._map(lambda frame: frame.iloc[np.atleast_1d(index)].reset_index(drop=True))

    def _map(self, change: Callable[[pd.DataFrame], pd.DataFrame]) -> CounterfactualDataset:
        done = {id(frame): change(frame) for frame in self.sources.values()}
        return replace(
            self,
            base=change(self.base),
            sources={name: done[id(frame)] for name, frame in self.sources.items()},
            labels=change(self.labels),
            spans={run: change(frame) for run, frame in self.spans.items()},
        )

    def __add__(self, other: CounterfactualDataset) -> CounterfactualDataset:
        return concat([self, other])

    def split(
        self,
        train: float,
        select: float = 0.0,
        test: float = 0.0,
        *,
        by: str | Sequence[str] | None = None,
        seed: int = 0,
    ) -> Splits:
        """Three datasets that share no entity: no value of the columns `by` (default: no setting) and no prompt is in
        two of them.

        Fractions of the rows, adding to 1. Returns `Splits`; see there for what happens to rows that would cross.
        """
        columns = as_names(by, self.inputs)
        part = deal_rows(list(self.runs.values()), columns, as_fractions(train, select, test), seed)
        parts = [self[np.flatnonzero(part == number)] for number in range(len(PARTS))]
        return Splits(*parts, dropped=int((part == DROPPED).sum()), by=columns)

    # Pandas -----------------------------------------------------------------------------------------------------

    def to_pandas(self) -> pd.DataFrame:
        """One wide frame: columns `base.w`, `source_of_left.w`, `label.answer`, `span.base.subject`."""
        parts = {"base": self.base, **{f"source_of_{v}": self.sources[v] for v in self.variables}, "label": self.labels}
        parts |= {f"span.{run}": frame for run, frame in self.spans.items()}
        wide = pd.concat([frame.add_prefix(f"{name}.") for name, frame in parts.items()], axis=1)
        wide.attrs.update(inputs=list(self.inputs), seed=self.seed)
        return wide

    @classmethod
    def from_pandas(
        cls, wide: pd.DataFrame, inputs: Sequence[str] | None = None, seed: int | None = None
    ) -> CounterfactualDataset:
        """Back from the frame that `to_pandas` wrote. `inputs` and `seed` are kept in its `attrs` unless given."""
        names = list(dict.fromkeys(column.rsplit(".", 1)[0] for column in wide.columns))
        parts = {name: _part(wide, name) for name in names}
        variables = tuple(name.removeprefix("source_of_") for name in names if name.startswith("source_of_"))
        if "base" not in parts or "label" not in parts or not variables:
            raise CausalModelError(
                f"This frame has the column groups {names}; a dataset needs base.*, source_of_<variable>.* and label.*."
            )
        sources = {name: parts[f"source_of_{name}"] for name in variables}
        first = sources[variables[0]]
        if all(first.equals(frame) for frame in sources.values()):
            sources = dict.fromkeys(variables, first)
        return cls(
            base=parts["base"],
            sources=sources,
            labels=parts["label"],
            variables=variables,
            inputs=tuple(inputs if inputs is not None else wide.attrs.get("inputs", parts["base"].columns)),
            seed=wide.attrs.get("seed") if seed is None else seed,
            spans={n.removeprefix("span."): frame for n, frame in parts.items() if n.startswith("span.")},
        )

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that change when any value, prompt, label or span does."""
        wide = self.to_pandas().map(lambda cell: cell.tolist() if isinstance(cell, np.ndarray) else cell)
        return hashlib.sha256(repr(wide.to_dict("split", index=False)).encode()).hexdigest()[:16]

    def __repr__(self) -> str:
        counts = self.labels.drop(columns=TEXT, errors="ignore").value_counts(sort=False)
        shown = ", ".join(f"{_shown(value)} {count}" for value, count in list(counts.items())[:6])
        more = f", ... ({len(counts)} values)" if len(counts) > 6 else ""
        return (
            f"CounterfactualDataset: {counted(len(self), 'row')}, interchanging {', '.join(self.variables)}; "
            f"runs {', '.join(self.runs)}; seed {self.seed}\n"
            f"  expected {'/'.join(map(str, counts.index.names))}: {shown}{more}\n"
            f"  the interchange changes the output in {counted(int(self.changed.sum()), 'row')}"
        )

    def _repr_html_(self) -> str:
        seen = [name for name in (PROMPT,) if name in self.base] or list(self.inputs)
        frames = {run: frame[seen] for run, frame in self.runs.items()} | {"expected": self.labels}
        rows = pd.concat([frame.add_prefix(f"{name}.") for name, frame in frames.items()], axis=1).head(SHOWN)
        title, *below = repr(self).splitlines()
        return html_table(title, list(map(str, rows)), rows.to_numpy().tolist(), "; ".join(map(str.strip, below)))


def _shown(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _part(wide: pd.DataFrame, name: str) -> pd.DataFrame:
    columns = [column for column in wide.columns if column.rsplit(".", 1)[0] == name]
    names = [column.rsplit(".", 1)[1] for column in columns]
    return wide.filter(items=columns).set_axis(names, axis=1).reset_index(drop=True)


def concat(datasets: Sequence[CounterfactualDataset]) -> CounterfactualDataset:
    """Datasets of the same variables, one under another (the seed stays when they all agree on it)."""
    first = datasets[0]
    for other in datasets[1:]:
        if (other.variables, other.inputs, set(other.runs)) != (first.variables, first.inputs, set(first.runs)):
            raise CausalModelError(
                f"These datasets interchange {first.variables} over {tuple(first.runs)} and {other.variables} over "
                f"{tuple(other.runs)}; only datasets of the same variables and runs can be joined."
            )
    runs = {run: pd.concat([d.runs[run] for d in datasets], ignore_index=True) for run in first.runs}
    seeds = {dataset.seed for dataset in datasets}
    return replace(
        first,
        base=runs["base"],
        sources={name: runs[first.run_of(name)] for name in first.variables},
        labels=pd.concat([d.labels for d in datasets], ignore_index=True),
        seed=first.seed if len(seeds) == 1 else None,
        spans={run: pd.concat([d.spans[run] for d in datasets], ignore_index=True) for run in first.spans},
    )


@dataclass(frozen=True, eq=False, repr=False)
class Splits:
    """Three datasets: `train` to fit on, `select` to choose on, `test` to report on.

    Attributes:
        dropped: crossing rows that no part has.
        by: the columns whose values were kept in one part.
    """

    train: CounterfactualDataset
    select: CounterfactualDataset
    test: CounterfactualDataset
    dropped: int
    by: tuple[str, ...]

    @property
    def shared(self) -> pd.DataFrame:
        """What every two parts have in common, counted on the rows themselves (see `shared`)."""
        return shared(dict(zip(PARTS, self, strict=True)))

    def __iter__(self) -> Iterator[CounterfactualDataset]:
        return iter((self.train, self.select, self.test))

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {len(part)}" for name, part in zip(PARTS, self, strict=True))
        common = self.shared
        found = [
            f"{row[what]} {what} in {row['parts']}"
            for row in common.to_dict("records")
            for what in COUNTED
            if row[what]
        ]
        common = ", ".join(found) or f"no setting{' and no prompt' * (PROMPT in self.train.base)} is in two parts"
        return f"Splits: {sizes} rows, by ({', '.join(self.by)}); {common}; {self.dropped} crossing rows dropped"


def shared(parts: Mapping[str, CounterfactualDataset]) -> pd.DataFrame:
    """For every two parts: how many settings, prompts, and pairs of base and sources both hold.

    Columns `parts` ("train and test"), `settings`, `prompts`, `pairs`. A setting or prompt counts once, as a base or
    as a source; parts without prompts share 0. A pair is one row's prompts (its settings, without prompts).
    """
    held = {name: _held(part) for name, part in parts.items()}
    rows = [
        {"parts": f"{one} and {two}"} | {what: len(held[one][what] & held[two][what]) for what in COUNTED}
        for one, two in combinations(held, 2)
    ]
    return pd.DataFrame(rows, columns=["parts", *COUNTED])


def _held(part: CounterfactualDataset) -> dict[str, set[Any]]:
    settings = [_tuples(frame[list(part.inputs)]) for frame in part.runs.values()]
    prompts = [frame[PROMPT].tolist() for frame in part.runs.values() if PROMPT in frame]
    pairs = zip(*(prompts if len(prompts) == len(settings) else settings), strict=True)
    return {"settings": set(chain(*settings)), "prompts": set(chain(*prompts)), "pairs": set(pairs)}


def _tuples(frame: pd.DataFrame) -> list[tuple[Any, ...]]:
    cells = frame.map(lambda cell: tuple(cell.tolist()) if isinstance(cell, np.ndarray) else cell)
    return list(cells.itertuples(index=False, name=None))
