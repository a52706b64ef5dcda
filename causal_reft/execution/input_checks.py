"""What a run may be given: known keys, tensors whose rows are the batch's rows, token ids that the model has.

Every check raises before the model runs, so that nothing is edited in a row that the user did not mean.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from causal_reft.errors import RunError, nearest
from causal_reft.sites import ARCHITECTURES, model_config, unwrapped
from causal_reft.tensors import Tensor

OURS = ("spans", "prompt_lengths", "active")
TEXT = ("input_ids", "inputs_embeds")
PER_TOKEN = ("attention_mask", "token_type_ids")
KEYS_AND_VALUES = ("cache", "past_key_values")  # what a forward calls them: transformers from 5.24 on; before
CACHES = (*KEYS_AND_VALUES, "cache_params", "state")  # and states of recurrent models
OF_EVERY_MODEL = ("num_items_in_batch", "output_attentions", "output_hidden_states", "return_dict")
BY_ROW = (*TEXT, *PER_TOKEN, "labels", "decoder_input_ids", "decoder_attention_mask", "decoder_inputs_embeds")

_PARAMETERS: dict[type, dict[str, inspect.Parameter]] = {}


def forward_arguments(model: nn.Module) -> set[str]:
    """The named arguments of a model's forward, and of the model inside where it is wrapped.

    Read from the class: accelerate and nnsight replace the `forward` of the instance.
    """
    parameters = [p for m in (model, unwrapped(model)) for p in _parameters(type(m)).values()]
    return {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} - {"self"}


def _parameters(kind: type) -> dict[str, inspect.Parameter]:
    # a dictionary, not `functools.cache`: what runs on a server travels as source, which a cached function lacks
    if kind not in _PARAMETERS:
        _PARAMETERS[kind] = dict(inspect.signature(kind.forward).parameters)  # type: ignore[attr-defined]
    return _PARAMETERS[kind]


def accepted_keywords(model: nn.Module) -> set[str]:
    """Keywords of the model's own forward, of every transformers model, and ours."""
    return forward_arguments(model) | set(OURS) | set(OF_EVERY_MODEL)


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


def check_keys(run: str, given: Mapping[str, Any], model: nn.Module) -> None:
    """Refuse entries of a run's mapping that the model's forward does not know, and lists or arrays in it.

    A plain module whose forward takes any keyword takes any key; a transformers model without token types ignores
    those that its tokenizer gives.

    Raises:
        RunError: with the nearest name.
    """
    of_module = _parameters(type(unwrapped(model))).values()
    open_ended = any(p.kind is p.VAR_KEYWORD for p in of_module)
    if not (open_ended and model_config(model) is None):
        accepted = accepted_keywords(model) | ({"token_type_ids"} if open_ended else set())
        for name in given:
            if name not in accepted:
                raise RunError(
                    f"run {run!r}: {name!r} is no argument of {type(unwrapped(model)).__name__}, nor one of "
                    f"{', '.join(OURS)}. {nearest(name, accepted)}"
                )
    for name, value in given.items():
        if name not in OURS and (isinstance(value, list) or type(value).__module__ == "numpy"):
            raise RunError(
                f"run {run!r}: {name} is a {type(value).__name__}. Tokenise with return_tensors='pt', or write "
                f"torch.as_tensor({name})."
            )


def check_text(run: str, kwargs: Mapping[str, Any], text: Tensor, model: nn.Module) -> None:
    """The tokens of a text are (batch, tokens), every other input of a row has the same rows, and every id exists.

    Raises:
        RunError: with the shape that was given and the one that is allowed.
    """
    name = next(key for key in TEXT if kwargs.get(key) is text)
    axes, wanted = ("(batch, tokens)", 2) if name == "input_ids" else ("(batch, tokens, width)", 3)
    if text.ndim != wanted:
        one = f" For one text write {name}[None]." if text.ndim == wanted - 1 else ""
        raise RunError(f"run {run!r}: {name} has shape {tuple(text.shape)}; it must be {axes}.{one}")
    if 0 in text.shape[:2]:
        raise RunError(f"run {run!r}: {name} has shape {tuple(text.shape)}: no token at all. Give every row a token.")
    for key in PER_TOKEN:
        value = kwargs.get(key)
        if isinstance(value, Tensor) and value.ndim == 2 and value.shape != text.shape[:2]:
            raise RunError(
                f"run {run!r}: {key} has shape {tuple(value.shape)} beside {name} of {tuple(text.shape[:2])}; give one "
                "entry for each token of each row."
            )
    for key in BY_ROW:
        value = kwargs.get(key)
        if isinstance(value, Tensor) and value.ndim and len(value) != len(text):
            raise RunError(f"run {run!r}: {key} has {len(value)} rows beside {name} of {len(text)}; give one per row.")
    _check_position_ids(run, kwargs.get("position_ids"), text)
    for key in ("input_ids", "decoder_input_ids"):
        _check_ids(run, key, kwargs.get(key), model)


def check_rows(run: str, kwargs: Mapping[str, Any]) -> None:
    """Without a text, the first axis of every tensor is the batch.

    Raises:
        RunError: tensors of different lengths.
    """
    lengths = {key: len(value) for key, value in kwargs.items() if isinstance(value, Tensor) and value.ndim}
    if len(set(lengths.values())) > 1:
        raise RunError(
            f"run {run!r}: the first axis of every tensor is the batch, and these differ: "
            f"{', '.join(f'{key} {n}' for key, n in lengths.items())}."
        )


def _check_position_ids(run: str, numbers: Any, text: Tensor) -> None:
    if not isinstance(numbers, Tensor):
        return
    shape = tuple(numbers.shape[-2:])
    if numbers.ndim < 2 or shape != tuple(text.shape[:2]):
        raise RunError(
            f"run {run!r}: position_ids have shape {tuple(numbers.shape)} for a text of {tuple(text.shape[:2])}; give "
            f"one number for each token of each row: position_ids.expand({len(text)}, -1) where all rows agree."
        )


def _check_ids(run: str, key: str, ids: Any, model: nn.Module) -> None:
    """Every token id has an embedding."""
    if not isinstance(ids, Tensor) or not ids.numel() or model_config(model) is None:
        return
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise RunError(f"run {run!r}: {key} holds {ids.dtype} values; token ids are integers: {key}.long().")
    size = _vocabulary(unwrapped(model))
    low, high = (int(bound) for bound in ids.aminmax())
    if size and not 0 <= low <= high < size:
        wrong = low if low < 0 else high
        raise RunError(
            f"run {run!r}: {key} holds token {wrong}, and {type(unwrapped(model)).__name__} has tokens 0 to "
            f"{size - 1}. Was the text made by another model's tokenizer?"
        )


def _vocabulary(model: Any) -> int:
    """How many tokens have an embedding; 0 where that is not known."""
    try:
        weight = getattr(model.get_input_embeddings(), "weight", None)
    except (AttributeError, NotImplementedError):
        return 0
    return len(weight) if isinstance(weight, Tensor) and weight.ndim == 2 else 0


def same_device(run: str, tensors: list[Tensor], model: nn.Module) -> None:
    """Inputs are where the model is.

    Raises:
        RunError: with the device of both.
    """
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


def fits_context(run: str, mask: Tensor, model: nn.Module) -> None:
    """A text is no longer than the learned positions of the model.

    Raises:
        RunError: it is.
    """
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


def refuse_hidden_padding(run: str, ids: Tensor | None, model: nn.Module) -> None:
    """A batch with pad tokens brings its mask.

    Raises:
        RunError: it does not.
    """
    config = getattr(model, "config", None)
    pad, eos = getattr(config, "pad_token_id", None), getattr(config, "eos_token_id", None)
    if ids is None or pad is None or pad == eos or ids.shape[0] == 1:
        return
    if bool((ids[:, [0, -1]] == pad).any()):
        raise RunError(
            f"run {run!r} has padding (token {pad}) but no attention_mask, so 'the last token' of a row is unknown. "
            f"Pass the tokenizer's whole output: model(tokenizer(prompts, padding=True, return_tensors='pt'))."
        )


def refuse_filled_caches(kwargs: Mapping[str, Any], call: str) -> None:
    """Positions count in the whole prompt, so the model must be given all of it.

    Raises:
        RunError: a cache that holds tokens already, or a state that does not say how many.
    """
    for name in CACHES:
        if (seen := cached_tokens(kwargs.get(name))) != 0:
            raise RunError(
                f"{call} was given {name} that hold {seen or 'some'} tokens already: edits of those tokens would be "
                f"absent, and positions would count from the wrong token. Leave {name} out and give the whole prompt."
            )


def cached_tokens(cache: Any) -> int | None:
    """How many tokens a cache holds: 0 where there is none, `None` for a recurrent state, which does not say it."""
    if cache is None:
        return 0
    try:
        return int(cache.get_seq_length())
    except (AttributeError, ValueError):
        return None
