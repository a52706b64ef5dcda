"""What one run of one call is given: the model's own keyword arguments, and beside them where its prompts lie.

A run's inputs are a mapping (a tokenizer's output) or a single tensor for a plain module. Three keys are ours and never
reach the model: `spans` (span name -> tokens of each row), `prompt_lengths` (prompt tokens of each row, where answers
follow), `active` (node name -> which rows it edits).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from causal_reft.errors import PositionError, RunError, nearest
from causal_reft.position_words import is_position_word
from causal_reft.sites import (
    ARCHITECTURES,
    UNNAMED,
    Mentions,
    Positions,
    Prompt,
    Spans,
    Tokens,
    after_text,
    mentions,
    model_config,
    unwrapped,
)
from causal_reft.tensors import Tensor

OURS = ("spans", "prompt_lengths", "active")
TEXT = ("input_ids", "inputs_embeds")
IGNORED_LABEL = -100
RunInputs = Mapping[str, Any] | Tensor


@dataclass(frozen=True)
class Inputs:
    """One run's inputs, parsed.

    `mask` is the 2-D attention mask of text inputs and `None` for inputs without a text (a plain module, an image).
    `decoder` describes the second text of an encoder-decoder model; sites in its decoder count positions there.
    """

    args: tuple[Tensor, ...]
    kwargs: dict[str, Any]
    batch: int
    mask: Tensor | None = None
    spans: Spans | None = None
    prompt_lengths: Tensor | None = None
    active: dict[str, Tensor] = field(default_factory=dict)
    decoder: Inputs | None = None

    @property
    def width(self) -> int | None:
        """Columns of the padded text."""
        return None if self.mask is None else self.mask.shape[1]

    def prompt(self, width: int) -> Prompt:
        """Where each row's prompt lies; without a text, every row is a prompt of `width` tokens."""
        mask = torch.ones(self.batch, width, dtype=torch.long) if self.mask is None else self.mask
        return Prompt.of(mask, self.prompt_lengths)

    def with_kwargs(self, **changes: Any) -> Inputs:
        """The inputs with some of the model's own arguments replaced."""
        return replace(self, kwargs={**self.kwargs, **changes})


def parse_inputs(run: str, given: object, model: nn.Module) -> Inputs:
    """What the user passed for a run -> `Inputs`.

    Raises:
        RunError: nothing that a run can be; an unsupported mask; a batch of pads without a mask.
        PositionError: spans or active rows whose number is not the batch size.
    """
    if isinstance(given, Tensor) and not given.is_floating_point() and model_config(model) is not None:
        given = {"input_ids": given}
    if isinstance(given, Tensor):
        return Inputs((given,), {}, len(given))
    if not isinstance(given, Mapping):
        raise RunError(
            f"run {run!r} was given a {type(given).__name__}. Allowed: a tokenizer's output (a mapping with "
            "'input_ids' and 'attention_mask') or, for a plain module, one tensor whose first axis is the batch."
        )
    ours: dict[str, Any] = {key: given.get(key) for key in OURS}
    _check_span_names(run, ours["spans"])
    kwargs = {key: value for key, value in given.items() if key not in OURS}
    tensors = [value for value in kwargs.values() if isinstance(value, Tensor) and value.ndim]
    if not tensors:
        raise RunError(f"run {run!r} holds no tensor. Tokenise with return_tensors='pt'.")
    _same_device(run, tensors, model)
    text = next((kwargs[key] for key in TEXT if isinstance(kwargs.get(key), Tensor)), None)
    batch = len(tensors[0] if text is None else text)
    mask = None if text is None else _mask(run, kwargs, text, model)
    if mask is not None:
        _fits_context(run, mask, model)
        kwargs |= _position_ids(kwargs, mask, model)
    active = {name: _rows(name, rows, batch) for name, rows in (ours["active"] or {}).items()}
    config = getattr(unwrapped(model), "config", None)
    decoder = _decoder_inputs(kwargs, batch, active) if getattr(config, "is_encoder_decoder", False) else None
    lengths = _prompt_lengths(given, mask, labelled=decoder is None and _continues_texts(model))
    return Inputs((), kwargs, batch, mask, ours["spans"], lengths, active, decoder)


def _check_span_names(run: str, spans: Spans | None) -> None:
    for name in spans or ():
        if is_position_word(str(name)):
            raise PositionError(
                f"run {run!r} brings a span called {name!r}, and positions={str(name)!r} names tokens by their place "
                f"in the prompt, so the span would not be found. Give it another name: spans={{'{name}_span': ...}}."
            )


def _continues_texts(model: nn.Module) -> bool:
    """Whether labels beside the tokens are what follows a prompt (not so for masked or token classification models)."""
    generates = getattr(unwrapped(model), "can_generate", None)
    return bool(generates()) if callable(generates) else True


def _same_device(run: str, tensors: list[Tensor], model: nn.Module) -> None:
    first = next(model.parameters(), None)
    if (
        first is None
        or first.is_meta
        or getattr(model, "_hf_hook", None) is not None
        or all(t.device == first.device for t in tensors)
    ):
        return
    devices = {p.device for p in model.parameters()}
    stray = [t.device for t in tensors if t.device not in devices]
    if stray:
        raise RunError(
            f"run {run!r} is on {stray[0]}, but the model is on {first.device}. Write inputs.to({str(first.device)!r})."
        )


def _decoder_inputs(kwargs: Mapping[str, Any], batch: int, active: dict[str, Tensor]) -> Inputs:
    """The decoder's text: as given; else the labels shifted right, where the prompt ends at the first label that is
    read; else the one token with which generation starts."""
    ids, labels = kwargs.get("decoder_input_ids"), kwargs.get("labels")
    if ids is not None:
        mask = kwargs.get("decoder_attention_mask")
        return Inputs((), {}, batch, torch.ones_like(ids) if mask is None else mask, active=active)
    if not isinstance(labels, Tensor) or labels.ndim != 2:
        return Inputs((), {}, batch, torch.ones(batch, 1, dtype=torch.long), active=active)
    columns, read = torch.arange(labels.shape[1], device=labels.device), labels != IGNORED_LABEL
    last = torch.where(read, columns, -1).amax(1)
    first = torch.where(read, columns, labels.shape[1]).amin(1)
    mask = (columns <= last.clamp_min(0)[:, None]).long()
    return Inputs((), {}, batch, mask, prompt_lengths=torch.minimum(first, last.clamp_min(0)) + 1, active=active)


def _mask(run: str, kwargs: Mapping[str, Any], text: Tensor, model: nn.Module) -> Tensor:
    mask = kwargs.get("attention_mask")
    if mask is None:
        _refuse_hidden_padding(run, kwargs.get("input_ids"), model)
        return torch.ones(text.shape[:2], dtype=torch.long, device=text.device)
    if mask.ndim != 2:
        raise RunError(
            f"run {run!r}: attention_mask has shape {tuple(mask.shape)}; positions are read from the 2-D mask "
            f"(batch, tokens) that a tokenizer gives."
        )
    return mask


def _fits_context(run: str, mask: Tensor, model: nn.Module) -> None:
    config = model_config(model)
    row = ARCHITECTURES.get(config.model_type) if config is not None else None
    if row is None or row.learned_positions is None:
        return
    longest, room = int((mask != 0).sum(1).max()), row.learned_positions(config)
    if longest > room:
        raise RunError(
            f"run {run!r} has a text of {longest} tokens, and {type(model).__name__} has learned positions for "
            f"{room}. Shorten it."
        )


def _position_ids(kwargs: Mapping[str, Any], mask: Tensor, model: nn.Module) -> dict[str, Tensor]:
    """Token numbers for left-padded rows, which most decoders would otherwise count from the padding."""
    config = model_config(model)
    row = ARCHITECTURES.get(config.model_type) if config is not None else None
    if (
        row is None
        or not row.counts_positions
        or kwargs.get("position_ids") is not None
        or not bool((mask[:, 0] == 0).any())
    ):
        return {}
    if "position_ids" not in forward_arguments(model):
        return {}
    return {"position_ids": (mask.long().cumsum(1) - 1).clamp_min(0)}


def _refuse_hidden_padding(run: str, ids: Tensor | None, model: nn.Module) -> None:
    config = getattr(model, "config", None)
    pad, eos = getattr(config, "pad_token_id", None), getattr(config, "eos_token_id", None)
    if ids is None or pad is None or pad == eos or ids.shape[0] == 1:
        return
    if bool((ids[:, [0, -1]] == pad).any()):
        raise RunError(
            f"run {run!r} has padding (token {pad}) but no attention_mask, so 'the last token' of a row is unknown. "
            f"Pass the tokenizer's whole output: model(tokenizer(prompts, padding=True, return_tensors='pt'))."
        )


def _rows(name: str, rows: Any, batch: int) -> Tensor:
    rows = torch.as_tensor(rows, dtype=torch.bool)
    if rows.shape != (batch,):
        raise PositionError(
            f"active[{name!r}] has shape {tuple(rows.shape)}; give one true or false for each of the {batch} rows."
        )
    return rows


def _prompt_lengths(given: Mapping[str, Any], mask: Tensor | None, labelled: bool) -> Tensor | None:
    """As given; else the real tokens before the first label that the loss reads, where labels say so."""
    lengths, labels = given.get("prompt_lengths"), given.get("labels")
    if lengths is not None:
        return torch.as_tensor(lengths, dtype=torch.long)
    if mask is None or not labelled or not isinstance(labels, Tensor) or labels.shape != mask.shape:
        return None
    return before_labels(labels, mask)


def before_labels(labels: Tensor, mask: Tensor) -> Tensor:
    """The real tokens of each row before the first label that the loss reads.

    Raises:
        RunError: a row whose first token is scored.
    """
    read = (labels != IGNORED_LABEL) & (mask != 0)
    first_read = torch.where(read.any(1), read.to(torch.int64).argmax(1), labels.shape[1])
    columns = torch.arange(mask.shape[1], device=mask.device)
    lengths = ((mask != 0) & (columns < first_read[:, None])).sum(1)
    if bool((lengths == 0).any()):
        raise RunError(
            f"labels of row {int((lengths == 0).nonzero()[0])} score the very first token, so no prompt is left to "
            f"name positions in. Set the labels of prompt tokens to {IGNORED_LABEL}, or say where prompts end: "
            "prompt_lengths=[...]."
        )
    return lengths


@dataclass
class Frame:
    """Where the columns of the value at a site lie in a run's text: the window of the current forward, and what
    repeats.

    In a plain forward the window is the whole text, or its first `seen` columns where the rest is not computed. While
    decoding, it is the tokens that this step adds; `rows` is then how many rows the forward has (beams and returned
    sequences repeat each row of the inputs).
    """

    inputs: Inputs
    decoding: bool = False
    offset: int = 0
    rows: int = 0
    seen: int | None = None
    _known: dict[object, Tokens] = field(default_factory=dict)
    _behind: dict[object, tuple[int, Tokens]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rows = self.rows or self.inputs.batch

    def moved(self, offset: int, rows: int) -> None:
        """The next window of a text that is being decoded."""
        if (offset, rows) != (self.offset, self.rows):
            self.offset, self.rows, self._known = offset, rows, {}

    def tokens(self, node: str | None, positions: Positions, rows: int, width: int, device: torch.device) -> Tokens:
        """The tokens that `positions` names in a value of `rows` x `width`, restricted to a node's active rows.

        Behind the prompt every step names the same cells of its window, so they are found once.
        """
        key = (node if node in self.inputs.active else None, positions, rows, width, device)
        if self.decoding and self.inputs.width is not None and self.offset >= self.inputs.width:
            if key not in self._behind:
                self._behind[key] = self.offset, self._resolve(node, positions, rows, width, device)
            offset, tokens = self._behind[key]
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
        if not self.decoding and width not in (text, self.seen):
            raise PositionError(
                f"The value at the site has {width} positions, but the attention mask has {text} columns."
            )
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
    if key not in _WHOLE:
        if len(_WHOLE) == 16:
            _WHOLE.clear()
        _WHOLE[key] = Tokens.of(torch.arange(width, device=device).repeat(rows, 1))
    return _WHOLE[key]


def forward_arguments(model: nn.Module) -> set[str]:
    """The named arguments of a model's forward, and of the model inside where it is wrapped.

    Read from the class: accelerate and nnsight replace the `forward` of the instance.
    """
    parameters = [p for m in (model, unwrapped(model)) for p in inspect.signature(type(m).forward).parameters.values()]
    return {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} - {"self"}


def check_keywords(keywords: Mapping[str, object], accepted: set[str], runs: tuple[str, ...]) -> None:
    """Refuse keyword arguments that neither the graph nor the model's own forward knows.

    Raises:
        RunError: with the nearest name.
    """
    for name in keywords:
        if name not in accepted and name not in runs:
            raise RunError(
                f"{name!r} is neither a run of the graph ({', '.join(runs)}) nor an argument of the model. "
                f"{nearest(name, [*accepted, *runs])}"
            )
