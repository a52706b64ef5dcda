"""Which tokens: one small language, for training and generation alike (`tokens.py` finds them in a batch).

    5, -1            one token; negative counts back from the last prompt token
    [2, 5], slice    several tokens of every row (a list is never "source 2 to base 5")
    "first", "last", "all", "f5+l5"    clipped to short prompts, every token at most once
    "f5<half", "l5<half"               the same, and at most half of a prompt: pyreft's rule, in which "f5<half+l5<half"
                                       leaves out the middle token of a short prompt of odd length
    "generated"      the tokens that decoding adds (in training: the tokens after the prompt)
    "subject"        a span name; each row of the data brings its own tokens
    "subject[-1]"    one token of a span: here its last
    "last+generated", "f3+subject"     unions

The order in which tokens are named is the order in which they pair with those of another run: `[0, 2]` takes its
values from `[3, 1]` as 0 <- 3, 2 <- 1, and "who+city" pairs part by part, wherever the parts are in the text. A token
that is named twice counts once, at its first mention. "generated" comes last.

All indices count *prompt* tokens: 0 is the first real token of a row, -1 the last one, whatever side is padded and
whatever follows the prompt. Padding is read from the attention mask, per row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from causal_reft.errors import PositionError
from causal_reft.reserved_names import is_position_word

PositionsLike = int | str | slice | Sequence[int]

_EDGE = re.compile(r"^([fl])(\d+)(<half)?$")
_SPAN = re.compile(r"^([A-Za-z_][A-Za-z0-9_ .-]*)(?:\[(-?\d+)\])?$")


@dataclass(frozen=True)
class Part:
    """One term of the union. `kind` is all | generated | first | last | index | slice | span."""

    kind: str
    number: int = 0
    bounds: tuple[int | None, int | None, int | None] = (None, None, None)
    name: str = ""
    token: int | None = None  # of a span; None: all of them
    half: bool = False  # at most half of the prompt

    def __str__(self) -> str:
        match self.kind:
            case "first" | "last":
                edge = self.kind if self.number == 1 and not self.half else f"{self.kind[0]}{self.number}"
                return f"{edge}<half" if self.half else edge
            case "index":
                return str(self.number)
            case "slice":
                return "slice({}, {}, {})".format(*self.bounds)
            case "span":
                return self.name if self.token is None else f"{self.name}[{self.token}]"
        return self.kind


@dataclass(frozen=True)
class Positions:
    """A parsed union of parts, in the order in which the user wrote them.

    Raises:
        PositionError: prompt tokens after "generated".
    """

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        kinds = [part.kind == "generated" for part in self.parts]
        if kinds != sorted(kinds):
            ordered = sorted(self.parts, key=lambda part: part.kind == "generated")
            raise PositionError(
                f"positions={'+'.join(map(str, self.parts))!r}: tokens pair in the order in which they are named, and "
                f"generated ones come after the prompt. Write {'+'.join(map(str, ordered))!r}."
            )

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
    if not is_position_word(word):
        return _span(word, whole)
    if word in ("all", "generated"):
        return Part(word)
    if word in ("first", "last"):
        return Part(word, 1)
    if edge := _EDGE.match(word):
        count = int(edge[2])
        if count == 0:
            raise PositionError(f"positions={whole!r}: {word!r} names no token. Leave it out.")
        return Part("first" if edge[1] == "f" else "last", count, half=edge[3] is not None)
    return Part("index", int(word))


def _span(word: str, whole: str) -> Part:
    found = _SPAN.match(word)
    if not found:
        raise PositionError(f"positions={whole!r}: {word!r} is neither a position word, an index nor a span name.")
    return Part("span", name=found[1], token=None if found[2] is None else int(found[2]))
