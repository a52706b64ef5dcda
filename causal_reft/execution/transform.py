"""The one meaning of a node, for every backend: given the value at a module's port, what comes out and what is kept.

    states <- what edits of this run read here, here or later              (before the edits)
    for each edit, in graph order:   h <- h + scale (F.write(h, source) - h)    (every source sees the value before
        the edits)
    states <- what collects and other runs read here                       (after the edits)

Nothing is changed in place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import nn

from causal_reft.errors import FeaturizerError, GraphError, PositionError, RunError
from causal_reft.featurizers.featurizer import add_in, computing
from causal_reft.graph import Collect, EditContext, Interchange
from causal_reft.graph.intervention_graph import held_modules
from causal_reft.sites import PART, Location, Site, Tokens
from causal_reft.tensors import Float, Hidden, Int, Tensor


@dataclass(frozen=True)
class State:
    """Collected hidden states: one row of `h` for each of `tokens`, (token, d_model)."""

    h: Hidden
    tokens: Tokens


States = dict[tuple[str, Site], State]


@dataclass(frozen=True)
class Place:
    """A site in one batch: its location in the model and the tokens that it names."""

    site: Site
    location: Location
    tokens: Tokens

    def take(self, stream: Float[Tensor, "batch pos width"]) -> Hidden:
        """The named tokens' features, (token, d_model)."""
        features = self.location.features(stream.shape[-1])
        h = stream if features is None else stream[..., features.to(stream.device)]
        return h.flatten(0, 1) if self.tokens.whole else h[self.tokens.rows, self.tokens.columns]

    def put(self, stream: Float[Tensor, "batch pos width"], h: Hidden) -> Float[Tensor, "batch pos width"]:
        """The stream with the named tokens' features replaced; a new tensor."""
        features = self.location.features(stream.shape[-1])
        rows, columns = self.tokens.rows, self.tokens.columns
        if features is None:
            return h.reshape(stream.shape).contiguous() if self.tokens.whole else stream.index_put((rows, columns), h)
        features = features.to(stream.device)
        return stream.index_put((rows[:, None], columns[:, None], features[None]), h)


@dataclass(frozen=True)
class Edit:
    """An `Interchange` in one batch. `repeats`: rows of the value for each row of the inputs (beams)."""

    name: str
    node: Interchange
    place: Place
    repeats: int = 1


def transform(
    stream: Float[Tensor, "batch pos width"],
    run: str,
    edits: Sequence[Edit],
    reads: Sequence[Place],
    collects: Sequence[Place],
    states: Mapping[tuple[str, Site], State],
    training: bool = False,
) -> tuple[Float[Tensor, "batch pos width"], States]:
    """Apply the edits of one port and keep what is collected there.

    Args:
        stream: the value at the port.
        run: the run that is executed.
        edits, reads, collects: what to change; what edits of this run read before; what is collected after.
        states: everything collected so far.
        training: whether dropout on edits and the draws of gates are on.

    Returns:
        The new value, and the states that were collected here.
    """
    before: States = {(_unedited(run), place.site): _kept(place, stream) for place in reads}
    after = stream
    for edit in edits:
        after = _edited(edit, stream, after, {**states, **before}, training)
    kept: States = {(run, place.site): _kept(place, after) for place in collects}
    return after, {**before, **kept}


def _unedited(run: str) -> str:
    """The name under which a run's own edits find what they read; no run can be called so."""
    return f"{run}, before its edits"


def _kept(place: Place, stream: Tensor) -> State:
    """What stays of a stream; a copy, because some models go on to add to the tensor in place."""
    h = place.take(stream)
    return State(h.clone() if place.tokens.whole else h, place.tokens)


def _edited(
    edit: Edit, original: Tensor, stream: Tensor, states: Mapping[tuple[str, Site], State], training: bool
) -> Tensor:
    if not len(edit.place.tokens):
        return stream
    node, h_original, h = edit.node, edit.place.take(original), edit.place.take(stream)
    _check_width(edit, h)
    rows = edit.place.tokens.rows
    F = node.featurizer.of_rows(rows if edit.repeats == 1 else rows // edit.repeats)
    try:
        z = node.source.coordinates(h_original, F, _States(states, edit, h, training))
        new = F.write(h, z)
        if node.scale != 1:
            change = new.to(computing(h)) - h
            new = add_in(h, node.scale * change)
    except RuntimeError as error:
        _explain_devices(edit, h, error)
        raise
    if training and node.dropout:
        new = h + nn.functional.dropout(new - h, node.dropout)
    return edit.place.put(stream, new)


def _explain_devices(edit: Edit, h: Hidden, error: RuntimeError) -> None:
    """Whether torch failed because the base model was moved away from the graph.

    Raises:
        RunError: it did.
    """
    stray = next((p.device for held in held_modules(edit.node).values() for p in held.parameters()), h.device)
    if stray != h.device:
        raise RunError(
            f"Node {edit.name!r} is on {stray}, but the model's state at {edit.place.site!r} is on {h.device}: the "
            f"model was moved and the graph was not. Move both: reft.to({str(h.device)!r})."
        ) from error


def _check_width(edit: Edit, h: Hidden) -> None:
    F = edit.node.featurizer
    if h.shape[-1] != F.d_model:
        raise FeaturizerError(
            f"Node {edit.name!r}: {edit.place.site!r} is {h.shape[-1]} wide in this model, but its featurizer is "
            f"{F!r}. Build it with d_model={h.shape[-1]}."
        )


class _States(EditContext):
    """The collected states, matched to the tokens of one edit: same row, same number in the order of naming."""

    def __init__(self, states: Mapping[tuple[str, Site], State], edit: Edit, now: Hidden, training: bool) -> None:
        self._states, self._edit, self._now, self._training = states, edit, now, training

    @property
    def now(self) -> Hidden:
        return self._now

    @property
    def ordinal(self) -> Int[Tensor, " token"]:
        return self._edit.place.tokens.ordinal

    @property
    def named(self) -> Int[Tensor, " token"]:
        return self._edit.place.tokens.total[self._edit.place.tokens.rows]

    @property
    def unfinished(self) -> bool:
        return self._edit.place.tokens.unfinished

    @property
    def training(self) -> bool:
        return self._training

    @property
    def rows(self) -> Int[Tensor, " token"]:
        return self._edit.place.tokens.rows // self._edit.repeats

    @property
    def n_rows(self) -> int:
        return len(self._edit.place.tokens.counts) // self._edit.repeats

    def state(self, collect: Collect) -> Hidden:
        site = collect.at(self._edit.node.site).site
        assert site is not None
        own = collect.run == self._edit.node.run
        state = self._states.get((_unedited(collect.run) if own else collect.run, site))
        if state is None:
            raise GraphError(
                f"Node {self._edit.name!r} at {self._edit.node.site!r} reads {site!r} of run {collect.run!r}, which "
                "comes later in the forward pass or is never reached. Read an earlier site."
            )
        mine = self._edit.place.tokens
        if mine.named_like(state.tokens):
            return state.h
        return state.h[self._matching(state.tokens, collect.run, site)].to(mine.rows.device)

    def _matching(self, given: Tokens, run: str, site: Site) -> Int[Tensor, " token"]:
        """For each edited token, the index of the state with its row and its number within the row.

        Raises:
            PositionError: other numbers of tokens on the two sides; tokens of different parts; a state that this
                window of the text does not hold.
        """
        mine, device = self._edit.place.tokens, self._edit.place.tokens.rows.device
        rows = mine.rows // self._repeats(given, run)
        wanted, total = mine.total[mine.rows], given.total.to(device)[rows]
        differs = (total < wanted) if mine.unfinished else (total != wanted)
        most = max(int(tokens.total.max()) if len(tokens.total) else 0 for tokens in (mine, given))
        places = given.rows.to(device), given.ordinal.to(device)
        states = torch.full((len(given.counts), most), -1, device=device)
        index = states.index_put(places, torch.arange(len(given), device=device))[rows, mine.ordinal]
        wrong = differs | (index < 0)
        if mine.n_parts == given.n_parts and len(given):
            wrong = wrong | (given.mention.to(device)[index] != mine.mention)
        if bool(wrong.any()):
            self._explain(int(wrong.nonzero()[0]), rows, total, differs, index, given, f"{site!r} of run {run!r}")
        return index

    def _explain(
        self, token: int, rows: Tensor, total: Tensor, differs: Tensor, index: Tensor, given: Tokens, there: str
    ) -> NoReturn:
        """Why a token of the edit has no partner."""
        mine, here, row = self._edit.place.tokens, f"{self._edit.node.site!r}", int(rows[token])
        if bool(differs[token]):
            why = (
                f"names {int(mine.total[mine.rows[token]])} tokens at {here} but {int(total[token])} at {there}; they "
                "must pair one to one. Name one token on both sides, e.g. positions='last'."
            )
        elif int(index[token]) < 0:
            why = f"needs a token of {there} that this forward does not compute. Name tokens of the prompt."
        else:
            parts = (int(tokens.mention[at]) // PART for tokens, at in ((mine, token), (given, int(index[token]))))
            mine_part, their_part = (number + 1 for number in parts)
            why = (
                f"pairs token {int(mine.ordinal[token])} as part {mine_part} of {here} with part {their_part} of "
                f"{there}: the parts name other numbers of tokens in the two runs, or share other tokens. Parts pair "
                "in the order in which they are written; use spans of equal length, or a node for each part."
            )
        raise PositionError(f"Node {self._edit.name!r}: row {row} {why}")

    def _repeats(self, given: Tokens, run: str) -> int:
        """Rows of the edited value for each row of the state: 1, or the number of beams."""
        mine, theirs, repeats = len(self._edit.place.tokens.counts), len(given.counts), self._edit.repeats
        if theirs not in (mine, mine // repeats):
            raise PositionError(
                f"Node {self._edit.name!r}: run {run!r} has {theirs} rows and the edited run has {mine // repeats}. "
                f"Give every row its own source."
            )
        return mine // theirs


def in_batch_shape(h: Hidden, tokens: Tokens) -> Float[Tensor, "batch pos d_model"]:
    """Flat token states as (batch, most tokens of a row, d_model); rows that name fewer are filled up with NaN at
    the end.
    """
    most = int(tokens.counts.max()) if len(tokens.counts) else 0
    filled = h.new_full((len(tokens.counts), most, h.shape[-1]), float("nan"))
    if len(tokens) == filled.shape[0] * most:
        return h.reshape(filled.shape)
    return filled.index_put((tokens.rows, tokens.ordinal), h)
