"""Which tokens of a run's text lie in the value at a site: the whole text, or the window of a decoding step."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from causal_reft.errors import PositionError
from causal_reft.execution.inputs import Inputs
from causal_reft.sites import UNNAMED, Mentions, Positions, Tokens, after_text, mentions


@dataclass
class Frame:
    """Where the columns of the value at a site lie in a run's text: the window of the current forward, and what
    repeats.

    In a plain forward the window is the whole text, or its first `seen` columns where the rest is not computed. While
    decoding, it is the `step` tokens that this step adds; `rows` is then how many rows the forward has (beams and
    returned sequences repeat each row of the inputs).
    """

    inputs: Inputs
    decoding: bool = False
    offset: int = 0
    rows: int = 0
    seen: int | None = None
    step: int | None = None
    _known: dict[object, Tokens] = field(default_factory=dict)
    _after: dict[object, tuple[int, Tokens]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rows = self.rows or self.inputs.batch

    @property
    def columns(self) -> int | None:
        """How many columns of the text the current forward computes; `None` without a text."""
        return self.step or self.seen or self.inputs.width

    def moved(self, offset: int, rows: int, step: int) -> None:
        """The next window of a text that is being decoded."""
        self.step = step
        if (offset, rows) != (self.offset, self.rows):
            self.offset, self.rows, self._known = offset, rows, {}

    def tokens(self, node: str | None, positions: Positions, rows: int, width: int, device: torch.device) -> Tokens:
        """The tokens that `positions` names in a value of `rows` x `width`, restricted to a node's active rows.

        After the prompt every step names the same cells of its window, so they are found once.
        """
        key = (node if node in self.inputs.active else None, positions, rows, width, device)
        if self.decoding and self.inputs.width is not None and self.offset >= self.inputs.width:
            if key not in self._after:
                self._after[key] = self.offset, self._resolve(node, positions, rows, width, device)
            offset, tokens = self._after[key]
            return tokens if offset == self.offset else tokens.further(self.offset - offset)
        if key not in self._known:
            self._known[key] = self._resolve(node, positions, rows, width, device)
        return self._known[key]

    def repeats(self, rows: int) -> int:
        """Rows of the value per row of the inputs."""
        if rows % self.inputs.batch:
            raise PositionError(f"A value of {rows} rows does not fit inputs of {self.inputs.batch} rows.")
        return rows // self.inputs.batch

    def _resolve(self, node: str | None, positions: Positions, rows: int, width: int, device: torch.device) -> Tokens:
        text = self.inputs.width if self.inputs.width is not None else width
        if self.inputs.mask is None and positions.everything and node not in self.inputs.active and not self.decoding:
            return _everything(rows, width, device)
        named = self.mentions(positions, text, self.offset + width)
        if node in self.inputs.active:
            named = named.where(self.inputs.active[node].to(named.device)[:, None], UNNAMED)
        window = self.offset, self.offset + width
        return Tokens.of(
            named.repeat_interleave(self.repeats(rows), 0),
            len(positions.parts),
            window,
            unfinished=self.decoding and positions.generated,
        ).to(device)

    def mentions(self, positions: Positions, text: int, seen: int) -> Mentions:
        """The mention of each column of the text as far as it is known, (batch, at least the prompt)."""
        prompt = self.inputs.prompt(text)
        found = mentions(positions, prompt, self.inputs.spans)
        return torch.cat([found, after_text(positions, prompt, seen - text)], 1) if seen > text else found


_WHOLE: dict[tuple[int, int, torch.device], Tokens] = {}


def _everything(rows: int, width: int, device: torch.device) -> Tokens:
    """Every cell of a value without a text; the last few shapes are remembered.

    In a dictionary, not by `functools.cache`: what runs on a server travels as source, which a cached function lacks.
    """
    key = rows, width, device
    found = _WHOLE.get(key)
    if found is None:
        if len(_WHOLE) == 16:
            _WHOLE.clear()
        found = _WHOLE[key] = Tokens.of(torch.arange(width, device=device).repeat(rows, 1))
    return found
