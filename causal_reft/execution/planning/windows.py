"""The window of each row: the tokens from the first that is edited or scored to the last that is scored.

In a causal model the tokens before the window, its prefix, are the same in every step and computed once; the tokens
after it affect no scored logit. Windows start at different tokens in different rows: prefixes are aligned on the right,
windows on the left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from causal_reft.execution.examples import Examples
from causal_reft.execution.inputs import Inputs, parse_inputs
from causal_reft.execution.intervened_model import IntervenedModel
from causal_reft.execution.output_layout import NEXT_TOKEN
from causal_reft.execution.passes import on_device
from causal_reft.execution.target_positions import TargetPositions
from causal_reft.sites import UNNAMED, Positions, Tokens, mentions
from causal_reft.tensors import Bool, Int, Tensor

Tables = Mapping[tuple[str | None, Positions], "TokenTable"]


@dataclass(frozen=True)
class TokenTable:
    """For each row of a dataset, a few columns of its text in the order in which they are named, with their mentions
    (see `Tokens`); the first `counts[row]` slots of a row are used."""

    columns: Int[Tensor, "row slot"]
    mention: Int[Tensor, "row slot"]
    counts: Int[Tensor, " row"]
    n_parts: int = 1

    @staticmethod
    def of(tokens: Tokens) -> TokenTable:
        """The tokens of a whole text."""
        shape = len(tokens.counts), int(tokens.counts.max()) if len(tokens.counts) else 0
        cells = tokens.rows, tokens.ordinal
        columns, mention = (
            torch.zeros(shape, dtype=torch.int64).index_put(cells, t) for t in (tokens.columns, tokens.mention)
        )
        return TokenTable(columns, mention, tokens.counts, tokens.n_parts)

    @staticmethod
    def of_mask(named: Bool[Tensor, "row pos"]) -> TokenTable:
        """The true cells of a mask, from left to right."""
        return TokenTable.of(Tokens.of(torch.where(named, torch.arange(named.shape[1]), UNNAMED)))

    def tokens(self, rows: Int[Tensor, " batch"]) -> Tokens:
        """The named tokens of some rows; rows in the result count within the batch, columns within the whole text."""
        counts = self.counts[rows]
        used = torch.arange(self.columns.shape[1]) < counts[:, None]
        row, ordinal = used.nonzero(as_tuple=True)
        cells = rows[row], ordinal
        return Tokens(row, self.columns[cells], ordinal, self.mention[cells], counts, n_parts=self.n_parts)

    def ends(self, otherwise: Int[Tensor, " row"]) -> tuple[Int[Tensor, " row"], Int[Tensor, " row"]]:
        """The leftmost and the rightmost column of each row; `otherwise` where a row names none."""
        if not self.columns.shape[1]:
            return otherwise, otherwise
        used = torch.arange(self.columns.shape[1]) < self.counts[:, None]
        columns = torch.where(used, self.columns, self.columns[:, :1])
        leftmost, rightmost = columns.amin(1), columns.amax(1)
        return tuple(torch.where(self.counts > 0, edge, otherwise) for edge in (leftmost, rightmost))  # type: ignore[return-value]

    def mask(self, width: int) -> Bool[Tensor, "row pos"]:
        """The cells as a mask again."""
        tokens = self.tokens(torch.arange(len(self.counts)))
        named = torch.zeros(len(self.counts), width, dtype=torch.bool)
        named[tokens.rows, tokens.columns] = True
        return named


@dataclass
class TextData:
    """The base run of a whole dataset, parsed once, and the logits that the loss reads in it.

    Attributes:
        inputs: the base run.
        scored: the columns whose logits are read.
        targets: the class that is expected at each of them.
    """

    inputs: Inputs
    scored: TokenTable
    targets: Int[Tensor, "row slot"]
    _tables: dict[tuple[object, Positions], TokenTable] = field(default_factory=dict)

    @staticmethod
    def of(model: IntervenedModel, examples: Examples) -> TextData | str:
        """From examples; or the reason why their base run is no text."""
        inputs = parse_inputs("base", on_device(examples.runs["base"], model.device), model.base_model)
        if inputs.width is None or "input_ids" not in inputs.kwargs:
            return "the base run is not a text"
        if examples.layout not in (None, NEXT_TOKEN):
            return "the model is not a causal language model"
        reads = TargetPositions.of(examples)
        assert reads.columns is not None
        rows, columns = reads.rows.cpu(), reads.columns.cpu()
        named = torch.zeros(len(examples), inputs.width, dtype=torch.bool)
        named[rows, columns] = True
        table, ordinal = TokenTable.of_mask(named), (named.cumsum(1) - 1)[rows, columns]
        targets = torch.zeros_like(table.columns).index_put((rows, ordinal), reads.targets.cpu())
        return TextData(inputs, table, targets)

    def reads(self, rows: Int[Tensor, " batch"]) -> TargetPositions:
        """What is read in a batch; columns count within the whole text."""
        tokens = self.scored.tokens(rows)
        return TargetPositions(tokens.rows, tokens.columns, self.targets[rows][tokens.rows, tokens.ordinal])

    def table(self, node: str | None, positions: Positions) -> TokenTable:
        """The columns that positions name, in the rows where a node is active."""
        active = self.inputs.active.get(node) if node is not None else None
        key = (node if active is not None else None, positions)
        if key not in self._tables:
            assert self.inputs.width is not None
            named = mentions(positions, self.inputs.prompt(self.inputs.width), self.inputs.spans).cpu()
            if active is not None:
                named = named.where(active.cpu()[:, None], UNNAMED)
            self._tables[key] = TokenTable.of(Tokens.of(named, len(positions.parts)))
        return self._tables[key]

    def text_start(self) -> Int[Tensor, " row"]:
        """The first column of each row's text."""
        assert self.inputs.mask is not None
        return (self.inputs.mask != 0).long().argmax(1).cpu()


@dataclass(frozen=True)
class Windows:
    """For each row, columns of its text: where it begins, and the window start <= column < stop."""

    text: Int[Tensor, " row"]
    start: Int[Tensor, " row"]
    stop: Int[Tensor, " row"]

    @property
    def prefix(self) -> Int[Tensor, " row"]:
        """Tokens before the window."""
        return self.start - self.text

    @property
    def width(self) -> int:
        """Columns of the widest window."""
        return int((self.stop - self.start).max())

    def rows(self, index: Int[Tensor, " batch"]) -> Windows:
        """The windows of some rows."""
        return Windows(self.text[index], self.start[index], self.stop[index])

    def moved(self, columns: int) -> Windows:
        """The same in a text without its first columns."""
        return Windows(self.text - columns, self.start - columns, self.stop - columns)

    def without_prefix(self) -> Windows:
        """The same without a prefix."""
        return Windows(self.text, self.text, self.stop)

    def same(self, other: Windows) -> bool:
        """Whether two windows can be computed in one pass."""
        return torch.equal(self.start, other.start) and torch.equal(self.stop, other.stop)

    def columns(self) -> Int[Tensor, "row window"]:
        """The text column of every cell of the batch of windows; cells after a row's end repeat its last column."""
        return torch.minimum(self.start[:, None] + torch.arange(self.width), self.stop[:, None] - 1)

    def used(self) -> Bool[Tensor, "row window"]:
        """The cells up to each row's end."""
        return torch.arange(self.width) < (self.stop - self.start)[:, None]

    def mask(self) -> Int[Tensor, "row key"]:
        """The attention mask over prefix and window."""
        most = int(self.prefix.max())
        return torch.cat([torch.arange(most) >= most - self.prefix[:, None], self.used()], 1).long()


class WindowTokens:
    """Which cells of a batch of windows a table names; each table is looked up once."""

    def __init__(
        self, index: Int[Tensor, " batch"], start: Int[Tensor, " batch"], width: int, device: torch.device
    ) -> None:
        self.index, self.start, self.width, self.device = index, start, width, device
        self._found: dict[int, Tokens] = {}

    def of(self, table: TokenTable) -> Tokens:
        """The named tokens inside the windows; they keep their ordinals and the totals of their rows."""
        if id(table) not in self._found:
            tokens = table.tokens(self.index)
            columns = tokens.columns - self.start[tokens.rows]
            inside = (columns >= 0) & (columns < self.width)
            shown = Tokens(
                tokens.rows[inside],
                columns[inside],
                tokens.ordinal[inside],
                tokens.mention[inside],
                torch.bincount(tokens.rows[inside], minlength=len(tokens.counts)),
                n_parts=tokens.n_parts,
                total=tokens.total,
            )
            self._found[id(table)] = shown.to(self.device)
        return self._found[id(table)]
