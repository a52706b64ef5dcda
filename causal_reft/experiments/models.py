"""A language model by name or folder, and what identifies a model and its tokenizer in the description of a sweep."""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from causal_reft import __version__
from causal_reft.alignment import digest_of as digest_of_weights
from causal_reft.errors import DataError
from causal_reft.sweeps import digest_of


def load_model(name: str | os.PathLike[str], device: str = "cpu", dtype: str = "auto") -> tuple[Any, Any]:
    """A causal language model in evaluation mode, and its tokenizer.

    Args:
        name: a folder of `save_pretrained`, or a hub id.
        device, dtype: of the weights; "auto" keeps the type that they were saved in.

    Raises:
        DataError: there is no such model, or no such device.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    given = os.fspath(name)
    if not Path(given).is_dir() and (given.startswith((".", "/", "~")) or given.count("/") > 1):
        raise DataError(f"There is no folder {given!r}. Give a folder of save_pretrained, or a hub id (owner/name).")
    try:
        tokenizer = AutoTokenizer.from_pretrained(given)
        model: Any = AutoModelForCausalLM.from_pretrained(given, dtype=dtype)
    except (OSError, ValueError) as error:
        where = "holds no model" if Path(given).is_dir() else "is no folder here, and no model that the hub gives us"
        raise DataError(f"{given!r} {where}: {' '.join(str(error).split())[:200]}") from error
    return on_device(model.eval(), device), tokenizer


def on_device(model: Any, device: str) -> Any:
    """The model, moved.

    Raises:
        DataError: there is no such device.
    """
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise DataError(f"device={device!r} cannot be used: {' '.join(str(error).split())[:200]}") from error


def identity_of(model: Any, tokenizer: Any) -> dict[str, Any]:
    """What determines the numbers of a language model, as JSON: versions, weights, configuration, tokenizer."""
    packages = {name: version(name) for name in ("torch", "transformers")}
    config = model.config.to_dict()
    settings = {key: value for key, value in config.items() if key not in ("_name_or_path", "transformers_version")}
    return {
        "versions": {"causal_reft": __version__, **packages},
        "model": {
            "class": type(model).__name__,
            "weights": digest_of_weights(model),
            "config": digest_of(json.loads(json.dumps(settings, default=str))),
        },
        "tokenizer": {"class": type(tokenizer).__name__, "content": digest_of(_content(tokenizer))},
    }


def _content(tokenizer: Any) -> dict[str, Any]:
    """Vocabulary, special tokens, and how a fast tokenizer cuts text (without padding, which every call sets)."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    rules = {} if fast is None else json.loads(fast.to_str())
    return {
        "vocabulary": sorted(tokenizer.get_vocab().items()),
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "rules": {name: rule for name, rule in rules.items() if name not in ("padding", "truncation", "model")},
    }
