"""The tokens of a padded batch that positions name, row by row, in the order in which they are named.

A *mention* numbers the cells of a row in that order: (number of the part) * 2^32 + (place within the part). Tokens of
two runs pair by their order, and where both name the same number of parts, only with tokens of the same mention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from causal_reft.errors import PositionError, nearest
from causal_reft.sites.positions import Part, Positions
from causal_reft.tensors import Int, Shaped, Tensor

SpanRow = int | range | Sequence[int]
Spans = Mapping[str, Sequence[SpanRow] | Tensor]
Mentions = Int[Tensor, "batch pos"]

UNNAMED = torch.iinfo(torch.int64).max
PART = 1 << 32


@dataclass(frozen=True)
class Prompt:
    """Where the prompt of each row lies in the padded batch: columns start <= c < stop; the row's text ends at `end`.

    `stop` < `end` where answer tokens follow the prompt (training on labels).
    """

    start: Int[Tensor, " batch"]
    stop: Int[Tensor, " batch"]
    end: Int[Tensor, " batch"]
    width: int

    @staticmethod
    def of(mask: Shaped[Tensor, "batch pos"], lengths: Int[Tensor, " batch"] | None = None) -> Prompt:
        """From a 2-D attention mask and, where answers follow, the number of prompt tokens of each row.

        Raises:
            PositionError: rows without a real token, masks with holes, prompt lengths outside the row.
        """
        real = mask != 0
        count, width = real.sum(1), real.shape[1]
        start = real.to(torch.int64).argmax(1)
        contiguous = (real[:, 1:] != real[:, :-1]).sum(1) + real[:, 0].to(torch.int64) <= 2
        if bool((count == 0).any()):
            raise PositionError(f"Row {int((count == 0).nonzero()[0])} of the attention mask holds no real token.")
        if not bool(contiguous.all()):
            raise PositionError(
                f"Row {int((~contiguous).nonzero()[0])} of the attention mask has a hole: padding must be on one side "
                f"of the text, else 'the last token' has no meaning. Tokenise with padding=True."
            )
        end = start + count
        if lengths is None:
            return Prompt(start, end, end, width)
        lengths = lengths.to(count.device)
        wrong = (lengths < 1) | (lengths > count)
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise PositionError(
                f"prompt_lengths[{row}] = {int(lengths[row])}, but row {row} has {int(count[row])} real tokens; "
                f"allowed: 1 to {int(count[row])}."
            )
        return Prompt(start, start + lengths, end, width)

    def repeated(self, times: int) -> Prompt:
        """Each row repeated, as beam search and `num_return_sequences` do."""
        if times == 1:
            return self
        start, stop, end = (v.repeat_interleave(times) for v in (self.start, self.stop, self.end))
        return Prompt(start, stop, end, self.width)

    def shifted(self, columns: int, width: int) -> Prompt:
        """The same prompt seen from another window of the text: column c is now c + columns."""
        return Prompt(self.start + columns, self.stop + columns, self.end + columns, width)


@dataclass(frozen=True)
class Tokens:
    """The named tokens of a batch as one flat axis, row by row, each token once, in the order in which they are named.

    Attributes:
        rows, columns: the cell of each token; columns count from the first of the window that is shown.
        ordinal: the token's number among all that its row names; a later window of a decoded text continues to count.
        mention: what names the token first.
        counts: tokens of each row that are shown.
        whole: whether every cell of the window is named, in the order of the text, so that no gather is needed.
        n_parts: parts of the positions.
        total: how many tokens each row names so far; by default `counts`.
        unfinished: more tokens may follow, because the text is being decoded.
    """

    rows: Int[Tensor, " token"]
    columns: Int[Tensor, " token"]
    ordinal: Int[Tensor, " token"]
    mention: Int[Tensor, " token"]
    counts: Int[Tensor, " batch"]
    whole: bool = False
    n_parts: int = 1
    total: Int[Tensor, " batch"] = None  # type: ignore[assignment] - by default counts
    unfinished: bool = False

    def __post_init__(self) -> None:
        if self.total is None:
            object.__setattr__(self, "total", self.counts)

    @staticmethod
    def of(
        mentions: Mentions, n_parts: int = 1, window: tuple[int, int] | None = None, unfinished: bool = False
    ) -> Tokens:
        """The cells of a text that are not `UNNAMED`, or those in a window of its columns.

        Args:
            mentions: for each cell of the text its mention; the smaller, the earlier it is named.
            n_parts: parts of the positions.
            window: the columns that are shown, first and one past the last; by default all.
            unfinished: more tokens may follow.
        """
        start, stop = window or (0, mentions.shape[1])
        total = (mentions != UNNAMED).sum(1)
        most = int(total.max()) if len(total) else 0
        found, columns = mentions.sort(1)
        used = torch.arange(most, device=mentions.device) < total[:, None]
        used &= (columns[:, :most] >= start) & (columns[:, :most] < stop)
        rows, ordinal = used.nonzero(as_tuple=True)
        columns = columns[rows, ordinal] - start
        ascending = torch.arange(stop - start, device=columns.device).repeat(len(mentions))
        whole = len(columns) == len(ascending) and torch.equal(columns, ascending)
        return Tokens(rows, columns, ordinal, found[rows, ordinal], used.sum(1), whole, n_parts, total, unfinished)

    def __len__(self) -> int:
        return len(self.rows)

    def to(self, device: torch.device) -> Tokens:
        """The same on a device."""
        names = ("rows", "columns", "ordinal", "mention", "counts", "total")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def further(self, columns: int) -> Tokens:
        """The same cells of a window that begins `columns` later, where a row names every column between or none."""
        grown = columns * (self.counts > 0)
        by_token = grown[self.rows]
        return replace(self, ordinal=self.ordinal + by_token, mention=self.mention + by_token, total=self.total + grown)

    def named_like(self, other: Tokens) -> bool:
        """Whether the same numbers of the same rows are named in the same way: tokens pair one to one in place."""
        mine, theirs = (
            (t.rows, t.ordinal, t.total, *([t.mention] if self.n_parts == other.n_parts else [])) for t in (self, other)
        )
        return self.rows.device == other.rows.device and all(map(torch.equal, mine, theirs))


def resolve(positions: Positions, prompt: Prompt, spans: Spans | None = None) -> Tokens:
    """The tokens that `positions` names in a padded batch, in the order in which they are named.

    Args:
        positions: the parsed language.
        prompt: where each row's prompt lies.
        spans: name -> one entry per row: an int, a list of ints or a `range`, counted in prompt tokens.

    Raises:
        PositionError: an index or span outside a row's prompt; an unknown span name.
    """
    return Tokens.of(mentions(positions, prompt, spans), len(positions.parts))


def mentions(positions: Positions, prompt: Prompt, spans: Spans | None = None) -> Mentions:
    """For each cell of a padded batch its first mention, or `UNNAMED`; see `resolve`."""
    columns = torch.arange(prompt.width, device=prompt.start.device)
    start, stop, end = prompt.start[:, None], prompt.stop[:, None], prompt.end[:, None]
    found = torch.full((len(prompt.start), prompt.width), UNNAMED, device=columns.device)
    for number, part in enumerate(positions.parts):
        most = torch.clamp((stop - start) // 2, max=part.number) if part.half else part.number
        match part.kind:
            case "all":
                places = _between(columns, start, stop)
            case "generated":
                places = _between(columns, stop, end)
            case "first":
                places = _between(columns, start, torch.minimum(start + most, stop))
            case "last":
                places = _between(columns, torch.maximum(stop - most, start), stop)
            case "index":
                column = _absolute(part.number, prompt)[:, None]
                places = _between(columns, column, column + 1)
            case "slice":
                places = _by_row([range(int(n))[slice(*part.bounds)] for n in prompt.stop - prompt.start], prompt)
            case _:
                places = _by_row(_span_rows(part, spans, len(found)), prompt, part.name)
        found = torch.minimum(found, torch.where(places == UNNAMED, UNNAMED, places + number * PART))
    return found


def after_text(positions: Positions, prompt: Prompt, columns: int) -> Mentions:
    """The mentions of so many columns that decoding adds to a text: all of them named by "generated", or none."""
    rows = len(prompt.start)
    if not positions.generated:
        return torch.full((rows, columns), UNNAMED, device=prompt.start.device)
    number = next(n for n, part in enumerate(positions.parts) if part.kind == "generated")
    added = torch.arange(columns, device=prompt.start.device)
    return number * PART + (prompt.end - prompt.stop)[:, None] + added


def _between(columns: Int[Tensor, " pos"], start: Int[Tensor, "batch 1"], stop: Int[Tensor, "batch 1"]) -> Mentions:
    """Places 0, 1, ... of the columns start <= c < stop of each row."""
    return torch.where((columns >= start) & (columns < stop), columns - start, UNNAMED)


def _absolute(index: int, prompt: Prompt) -> Int[Tensor, " batch"]:
    length = prompt.stop - prompt.start
    outside = (length <= index) if index >= 0 else (length < -index)
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        raise PositionError(
            f"position {index} is outside the prompt of row {row}, which has {int(length[row])} tokens (allowed: "
            f"{-int(length[row])} to {int(length[row]) - 1}). 'f{abs(index) or 1}' and 'l{abs(index) or 1}' are "
            "clipped to short prompts; an index is not."
        )
    return prompt.start + index if index >= 0 else prompt.stop + index


def _span_rows(part: Part, spans: Spans | None, batch: int) -> Sequence[SpanRow] | Tensor:
    name = part.name
    if spans is None or name not in spans:
        raise PositionError(
            f"positions={name!r} is a span name, and this run's inputs bring no such span. "
            f"{nearest(name, [*(spans or {}), 'all', 'first', 'last', 'generated'])} "
            f"Give it with the inputs: {{'input_ids': ..., 'spans': {{{name!r}: [[2, 3], [4]]}}}}, one entry per row."
        )
    rows = spans[name]
    if len(rows) != batch:
        raise PositionError(f"spans[{name!r}] has {len(rows)} entries for a batch of {batch} rows; give one per row.")
    if part.token is None:
        return rows
    listed = rows.tolist() if isinstance(rows, Tensor) else rows
    return [_one_token(part, row, entry) for row, entry in enumerate(listed)]


def _one_token(part: Part, row: int, entry: SpanRow) -> int:
    tokens = [entry] if isinstance(entry, int) else list(entry)
    assert part.token is not None
    if not -len(tokens) <= part.token < len(tokens):
        raise PositionError(
            f"positions='{part}': the span {part.name!r} of row {row} has {len(tokens)} tokens, so the number in "
            f"brackets is from {-len(tokens)} to {len(tokens) - 1}."
        )
    return tokens[part.token]


def _by_row(rows: Sequence[SpanRow] | Tensor, prompt: Prompt, name: str = "") -> Mentions:
    """Places of cells that are listed row by row, indices counted in prompt tokens."""
    places = torch.full((len(prompt.start), prompt.width), UNNAMED)
    lengths, starts = (prompt.stop - prompt.start).tolist(), prompt.start.tolist()
    for row, entry in enumerate(rows.tolist() if isinstance(rows, Tensor) else rows):
        indices = [entry] if isinstance(entry, int) else list(entry)
        for index in indices:
            if not -lengths[row] <= index < lengths[row]:
                raise PositionError(
                    f"spans[{name!r}][{row}] names token {index}, but the prompt of row {row} has {lengths[row]} "
                    f"tokens (allowed: {-lengths[row]} to {lengths[row] - 1}). Were the spans counted with padding?"
                )
        distinct = list(dict.fromkeys(starts[row] + index % lengths[row] for index in indices))
        places[row, distinct] = torch.arange(len(distinct))
    return places.to(prompt.start.device)
