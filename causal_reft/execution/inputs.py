"""What one run of one call is given: the model's own keyword arguments, and beside them where its prompts lie.

A run's inputs are a mapping (a tokenizer's output) or a single tensor for a plain module. Three keys are ours and never
reach the model: `spans` (span name -> tokens of each row), `prompt_lengths` (prompt tokens of each row, where answers
follow), `active` (node name -> which rows it edits).
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from causal_reft.errors import PositionError, RunError
from causal_reft.execution import input_checks as checks
from causal_reft.execution.input_checks import OURS, TEXT
from causal_reft.execution.left_padding import needs_position_ids, true_positions
from causal_reft.execution.output_layout import NEXT_TOKEN, output_layout
from causal_reft.reserved_names import is_position_word
from causal_reft.sites import ARCHITECTURES, Prompt, Spans, model_config, unwrapped
from causal_reft.tensors import Tensor
from causal_reft.texts import IGNORED_LABEL

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
        RunError: nothing that a run can be; unknown keys; inputs whose rows are not the batch's; an unsupported mask; a
            batch of pads without a mask; tokens that the model does not have; a cache that holds tokens already.
        PositionError: spans or active rows whose number is not the batch size.
    """
    if isinstance(given, Tensor) and not given.ndim:
        raise RunError(f"run {run!r} was given a single number; the first axis of a run's tensor is the batch.")
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
    checks.check_keys(run, given, model)
    checks.same_device(run, tensors, model)
    checks.refuse_filled_caches(kwargs, f"run {run!r}")
    text = next((kwargs[key] for key in TEXT if isinstance(kwargs.get(key), Tensor)), None)
    if text is None:
        checks.check_rows(run, kwargs)
    else:
        checks.check_text(run, kwargs, text, model)
    batch = len(tensors[0] if text is None else text)
    mask = None if text is None else _mask(run, kwargs, text, model)
    if mask is not None:
        checks.fits_context(run, mask, model)
        kwargs |= _position_ids(run, kwargs, mask, model)
    active = {name: active_rows(name, rows, batch) for name, rows in (ours["active"] or {}).items()}
    config = getattr(unwrapped(model), "config", None)
    decoder = _decoder_inputs(kwargs, batch, active) if getattr(config, "is_encoder_decoder", False) else None
    lengths = _prompt_lengths(run, given, mask, batch, labelled=output_layout(model) == NEXT_TOKEN)
    return Inputs((), kwargs, batch, mask, _spans(ours["spans"], batch), lengths, active, decoder)


def _check_span_names(run: str, spans: Mapping[str, Any] | None) -> None:
    for name in spans or ():
        if is_position_word(str(name)):
            raise PositionError(
                f"run {run!r} brings a span called {name!r}, and positions={str(name)!r} names tokens by their place "
                f"in the prompt, so the span would not be found. Give it another name: spans={{'{name}_span': ...}}."
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
        checks.refuse_hidden_padding(run, kwargs.get("input_ids"), model)
        return torch.ones(text.shape[:2], dtype=torch.long, device=text.device)
    if mask.ndim != 2:
        raise RunError(
            f"run {run!r}: attention_mask has shape {tuple(mask.shape)}; positions are read from the 2-D mask "
            f"(batch, tokens) that a tokenizer gives."
        )
    return mask


def _position_ids(run: str, kwargs: Mapping[str, Any], mask: Tensor, model: nn.Module) -> dict[str, Tensor]:
    """Token numbers for left-padded rows, which most decoders would otherwise count from the padding.

    Raises:
        RunError: a model for which no numbers make left padding safe.
    """
    config = model_config(model)
    if config is None or kwargs.get("position_ids") is not None or not bool((mask[:, 0] == 0).any()):
        return {}
    row, takes = ARCHITECTURES.get(config.model_type), "position_ids" in checks.forward_arguments(model)
    if row is not None and (takes or not row.counts_positions):
        needed = row.counts_positions
    else:
        needed = needs_position_ids(run, model)
    return {"position_ids": true_positions(mask)} if needed else {}


def active_rows(name: str, rows: Any, batch: int) -> Tensor:
    """Which rows an edit acts on, (batch,) of booleans.

    Raises:
        PositionError: not one entry for each row.
    """
    rows = torch.as_tensor(rows, dtype=torch.bool)
    if rows.shape != (batch,):
        raise PositionError(
            f"active[{name!r}] has shape {tuple(rows.shape)}; give one true or false for each of the {batch} rows."
        )
    return rows


def _spans(spans: Any, batch: int) -> Spans | None:
    """Every span as token indices, row by row.

    Raises:
        PositionError: not one entry for each row; entries that are no indices (a mask of booleans, say).
    """
    if spans is None:
        return None
    found = {}
    for name, rows in spans.items():
        if len(rows) != batch:
            raise PositionError(
                f"spans[{name!r}] has {len(rows)} entries for a batch of {batch} rows; give one per row."
            )
        entries = rows.tolist() if isinstance(rows, Tensor) else rows
        found[name] = [_indices(f"spans[{name!r}][{row}]", entry) for row, entry in enumerate(entries)]
    return found


def _indices(place: str, entry: Any) -> list[int]:
    plain = entry.tolist() if hasattr(entry, "tolist") else entry
    items: list[Any] = list(plain) if isinstance(plain, Sequence) and not isinstance(plain, str) else [plain]
    if any(isinstance(item, bool) for item in items):
        raise PositionError(
            f"{place} holds booleans, which would be read as tokens 0 and 1. Give token indices: "
            "mask.nonzero().flatten().tolist()."
        )
    try:
        return [operator.index(item) for item in items]
    except TypeError as error:
        raise PositionError(f"{place} = {entry!r} is no token index, range or list of indices.") from error


def _prompt_lengths(
    run: str, given: Mapping[str, Any], mask: Tensor | None, batch: int, labelled: bool
) -> Tensor | None:
    """As given; else the real tokens before the first label that the loss reads, where labels say so."""
    lengths, labels = given.get("prompt_lengths"), given.get("labels")
    if lengths is not None:
        counts = torch.as_tensor(lengths)
        if counts.shape != (batch,) or counts.is_floating_point() or counts.dtype == torch.bool:
            raise RunError(
                f"run {run!r}: prompt_lengths must be one number of tokens for each of the {batch} rows, not "
                f"{counts.dtype} of shape {tuple(counts.shape)}."
            )
        return counts.long()
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
