"""Which tokens: one small language, one resolver, for training and generation alike.

    5, -1            one token; negative counts back from the last prompt token
    [2, 5], slice    several tokens of every row (a list is never "source 2 to base 5")
    "first", "last", "all", "f5+l5"    clipped to short prompts, every token at most once
    "generated"      the tokens that decoding adds (in training: the tokens after the prompt)
    "subject"        a span name; each row of the data brings its own tokens
    "last+generated", "f3+subject"     unions

All indices count *prompt* tokens: 0 is the first real token of a row, -1 the last one, whatever side is padded and
whatever follows the prompt. Padding is read from the attention mask, per row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from causal_reft.errors import PositionError, nearest
from causal_reft.tensors import Bool, Int, Shaped, Tensor

PositionsLike = int | str | slice | Sequence[int]
SpanRow = int | range | Sequence[int]
Spans = Mapping[str, Sequence[SpanRow] | Tensor]

_EDGE = re.compile(r"^([fl])(\d+)$")
_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_ .-]*$")


@dataclass(frozen=True)
class Part:
    """One term of the union. `kind` is all | generated | first | last | index | slice | span."""

    kind: str
    number: int = 0
    bounds: tuple[int | None, int | None, int | None] = (None, None, None)
    name: str = ""

    def __str__(self) -> str:
        match self.kind:
            case "first" | "last":
                return self.kind if self.number == 1 else f"{self.kind[0]}{self.number}"
            case "index":
                return str(self.number)
            case "slice":
                return "slice({}, {}, {})".format(*self.bounds)
            case "span":
                return self.name
        return self.kind


@dataclass(frozen=True)
class Positions:
    """A parsed union of parts; prints as what the user wrote."""

    parts: tuple[Part, ...]

    @property
    def everything(self) -> bool:
        """Whether this names every prompt token."""
        return self.parts == (Part("all"),)

    @property
    def generated(self) -> bool:
        """Whether decoding steps are named."""
        return any(part.kind == "generated" for part in self.parts)

    @property
    def in_prompt(self) -> bool:
        """Whether any prompt token is named."""
        return any(part.kind != "generated" for part in self.parts)

    @property
    def span_names(self) -> tuple[str, ...]:
        """The span names that each row of the data must bring."""
        return tuple(part.name for part in self.parts if part.kind == "span")

    def to_data(self) -> str | list[int] | dict[str, list[int | None]]:
        """What JSON stores; `parse_positions` reads it back."""
        if all(part.kind == "index" for part in self.parts):
            return [part.number for part in self.parts]
        if len(self.parts) == 1 and self.parts[0].kind == "slice":
            return {"slice": list(self.parts[0].bounds)}
        return "+".join(map(str, self.parts))

    def __str__(self) -> str:
        if all(part.kind == "index" for part in self.parts):
            numbers = [part.number for part in self.parts]
            return str(numbers[0] if len(numbers) == 1 else numbers)
        if len(self.parts) == 1 and self.parts[0].kind == "slice":
            return str(self.parts[0])
        return repr("+".join(map(str, self.parts)))


def parse_positions(given: object) -> Positions:
    """What the user wrote -> `Positions`.

    Raises:
        PositionError: nothing that the language knows.
    """
    if isinstance(given, Positions):
        return given
    if isinstance(given, bool):
        raise PositionError(f"positions={given} is a boolean. Write positions='all' or a token index.")
    if isinstance(given, int):
        return Positions((Part("index", given),))
    if isinstance(given, slice):
        return Positions((Part("slice", bounds=(given.start, given.stop, given.step)),))
    if isinstance(given, Mapping) and set(given) == {"slice"}:
        return Positions((Part("slice", bounds=tuple(given["slice"])),))
    if isinstance(given, str):
        return Positions(tuple(_parse_word(word.strip(), given) for word in given.split("+")))
    if isinstance(given, Sequence) and given and all(isinstance(i, int) and not isinstance(i, bool) for i in given):
        return Positions(tuple(Part("index", i) for i in given))
    raise PositionError(
        f"positions={given!r} is not readable. Allowed: an int, a list of ints, a slice, 'first', 'last', 'all', "
        "'f5+l5', 'generated', a span name of the data, or several joined by '+'. Positions that differ by row are "
        f"spans: positions='subject' and spans={{'subject': [[2, 3], [4]]}} in the call."
    )


def _parse_word(word: str, whole: str) -> Part:
    if word in ("all", "generated"):
        return Part(word)
    if word in ("first", "last"):
        return Part(word, 1)
    if edge := _EDGE.match(word):
        count = int(edge[2])
        if count == 0:
            raise PositionError(f"positions={whole!r}: {word!r} names no token. Leave it out.")
        return Part("first" if edge[1] == "f" else "last", count)
    if re.match(r"^-?\d+$", word):
        return Part("index", int(word))
    if _NAME.match(word):
        return Part("span", name=word)
    raise PositionError(f"positions={whole!r}: {word!r} is neither a position word, an index nor a span name.")


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
    """The named tokens of a batch as one flat axis, row by row, each token once, ascending within a row.

    Decoding shows a text window by window. `ordinal[i]` numbers token i among all that its row names, `before` of
    which lay in earlier windows; `total` is how many the row names so far, and where the text is `unfinished` more may
    follow. `whole` says that every cell of the window is named, so that no gather is needed.
    """

    rows: Int[Tensor, " token"]
    columns: Int[Tensor, " token"]
    ordinal: Int[Tensor, " token"]
    counts: Int[Tensor, " batch"]
    whole: bool
    before: Int[Tensor, " batch"] = None  # type: ignore[assignment] - by default none
    total: Int[Tensor, " batch"] = None  # type: ignore[assignment] - by default counts
    unfinished: bool = False

    def __post_init__(self) -> None:
        if self.before is None:
            object.__setattr__(self, "before", torch.zeros_like(self.counts))
            object.__setattr__(self, "total", self.counts)

    @staticmethod
    def from_mask(
        named: Bool[Tensor, "batch pos"], window: tuple[int, int] | None = None, unfinished: bool = False
    ) -> Tokens:
        """The true cells of a mask, or of a window of its columns; columns count from the window's first."""
        start, stop = window or (0, named.shape[1])
        shown = named[:, start:stop]
        rows, columns = shown.nonzero(as_tuple=True)
        ordinal = (named.cumsum(1) - 1)[rows, columns + start]
        counts = shown.sum(1)
        whole = bool(counts.sum() == shown.numel())
        return Tokens(rows, columns, ordinal, counts, whole, named[:, :start].sum(1), named.sum(1), unfinished)

    def __len__(self) -> int:
        return len(self.rows)

    def further(self, columns: int) -> Tokens:
        """The same cells of a window that begins `columns` later, where a row names every column between or none."""
        grown = columns * (self.counts > 0)
        return replace(
            self, ordinal=self.ordinal + grown[self.rows], before=self.before + grown, total=self.total + grown
        )

    def named_like(self, other: Tokens) -> bool:
        """Whether the same numbers of the same rows are named, so that tokens pair one to one as they stand."""
        return self.rows.device == other.rows.device and all(
            torch.equal(mine, theirs)
            for mine, theirs in ((self.rows, other.rows), (self.total, other.total), (self.before, other.before))
        )


def resolve(positions: Positions, prompt: Prompt, spans: Spans | None = None) -> Tokens:
    """The tokens that `positions` names in a padded batch.

    Args:
        positions: the parsed language.
        prompt: where each row's prompt lies.
        spans: name -> one entry per row: an int, a list of ints or a `range`, counted in prompt tokens.

    Raises:
        PositionError: an index or span outside a row's prompt; an unknown span name.
    """
    columns = torch.arange(prompt.width, device=prompt.start.device)
    start, stop, end = prompt.start[:, None], prompt.stop[:, None], prompt.end[:, None]
    named = torch.zeros(len(prompt.start), prompt.width, dtype=torch.bool, device=columns.device)
    for part in positions.parts:
        match part.kind:
            case "all":
                named |= (columns >= start) & (columns < stop)
            case "generated":
                named |= (columns >= stop) & (columns < end)
            case "first":
                named |= (columns >= start) & (columns < torch.minimum(start + part.number, stop))
            case "last":
                named |= (columns >= torch.maximum(stop - part.number, start)) & (columns < stop)
            case "index":
                named |= columns == _absolute(part.number, prompt)[:, None]
            case "slice":
                named |= _by_row([range(int(n))[slice(*part.bounds)] for n in prompt.stop - prompt.start], prompt)
            case "span":
                named |= _by_row(_span_rows(part.name, spans, len(named)), prompt, part.name)
    return Tokens.from_mask(named)


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


def _span_rows(name: str, spans: Spans | None, batch: int) -> Sequence[SpanRow] | Tensor:
    if spans is None or name not in spans:
        raise PositionError(
            f"positions={name!r} is a span name, and this run's inputs bring no such span. "
            f"{nearest(name, [*(spans or {}), 'all', 'first', 'last', 'generated'])} "
            f"Give it with the inputs: {{'input_ids': ..., 'spans': {{{name!r}: [[2, 3], [4]]}}}}, one entry per row."
        )
    rows = spans[name]
    if len(rows) != batch:
        raise PositionError(f"spans[{name!r}] has {len(rows)} entries for a batch of {batch} rows; give one per row.")
    return rows


def _by_row(rows: Sequence[SpanRow] | Tensor, prompt: Prompt, name: str = "") -> Bool[Tensor, "batch pos"]:
    """Cells named row by row, indices counted in prompt tokens."""
    named = torch.zeros(len(prompt.start), prompt.width, dtype=torch.bool)
    lengths, starts = (prompt.stop - prompt.start).tolist(), prompt.start.tolist()
    for row, entry in enumerate(rows.tolist() if isinstance(rows, Tensor) else rows):
        indices = [entry] if isinstance(entry, int) else list(entry)
        for index in indices:
            if not -lengths[row] <= index < lengths[row]:
                raise PositionError(
                    f"spans[{name!r}][{row}] names token {index}, but the prompt of row {row} has {lengths[row]} "
                    f"tokens (allowed: {-lengths[row]} to {lengths[row] - 1}). Were the spans counted with padding?"
                )
            named[row, starts[row] + index % lengths[row]] = True
    return named.to(prompt.start.device)
