"""A saved `IntervenedModel`: the files of its graph, and `intervened_model.json`, which names their base model
and says how they were trained; beside them a model card."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from causal_reft.errors import StorageError
from causal_reft.execution.card import write_card
from causal_reft.graph import InterventionGraph, graph_from_files, read_files, save_nodes
from causal_reft.graph.fields import NAMES, RECORD, TEXT, Field, checked, maybe, whole
from causal_reft.graph.folder import from_json, from_safetensors
from causal_reft.sites import model_config

SHAPE = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")
DESCRIPTION, BASE_WEIGHTS = "intervened_model.json", "base_weights.safetensors"
FIELDS: dict[str, Field] = {
    "class": TEXT,
    "base_model": maybe(TEXT),
    "revision": maybe(TEXT),
    "model_type": maybe(TEXT),
    "hidden_size": maybe(whole(1)),
    "num_hidden_layers": maybe(whole(0)),
    "vocab_size": maybe(whole(1)),
    "trained_base": NAMES,
    "about": RECORD,
}


def save(
    graph: InterventionGraph,
    model: nn.Module,
    folder: str | os.PathLike[str],
    overwrite: bool,
    trained_base: Sequence[str] = (),
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write graph.json, weights.safetensors and intervened_model.json, all or nothing; with `trained_base` also
    base_weights.safetensors, the named parameters of the base model. Last comes the model card.
    """
    described, about = _described(model), dict(about or {})
    documents = {DESCRIPTION: {**described, "trained_base": list(trained_base), "about": about}}
    named = dict(model.named_parameters())
    trained = {name: named[name].detach().contiguous() for name in trained_base}
    save_nodes(graph.nodes, folder, overwrite, documents, {BASE_WEIGHTS: trained} if trained else {})
    write_card(folder, graph, described, about)


def load(
    folder: str | os.PathLike[str], model: nn.Module | None, tokenizer: Any
) -> tuple[InterventionGraph, nn.Module, Any, tuple[str, ...], dict[str, Any]]:
    """The graph; the base model (given, or loaded from where it was) with its tokenizer; what was trained of it, and
    how.

    Raises:
        StorageError: no such folder or files; the given model has another shape; no model to load.
    """
    path = Path(folder) if Path(folder).is_dir() else _downloaded(str(folder))
    files = read_files(path)
    graph, described = graph_from_files(files, path), _description(files, path)
    if model is None:
        model, tokenizer = _base(described, path, tokenizer)
    _check_shape(described, _described(model), path)
    return graph, model, tokenizer, _load_trained_base(model, files, path), described.get("about", {})


def load_trained_base(model: nn.Module, folder: str | os.PathLike[str]) -> tuple[str, ...]:
    """Copy what was trained of the base model into it; returns the names of these parameters.

    Raises:
        StorageError: damaged files; the model lacks a parameter, or has another shape of it.
    """
    return _load_trained_base(model, read_files(folder), Path(folder))


def _load_trained_base(model: nn.Module, files: Mapping[str, bytes], path: Path) -> tuple[str, ...]:
    if BASE_WEIGHTS not in files:
        return ()
    saved = from_safetensors(files[BASE_WEIGHTS], str(path / BASE_WEIGHTS))
    named = dict(model.named_parameters())
    for name, value in saved.items():
        if name not in named or named[name].shape != value.shape:
            found = "no such parameter" if name not in named else f"shape {tuple(named[name].shape)}"
            raise StorageError(
                f"{path / BASE_WEIGHTS} holds {name!r} of shape {tuple(value.shape)}, which was trained with the "
                f"graph, but this {type(model).__name__} has {found}. Wrap the base model as it was in training (the "
                "same adapters, the same number of labels) and pass it: from_pretrained(folder, model=...)."
            )
    with torch.no_grad():
        for name, value in saved.items():
            named[name].copy_(value)
    return tuple(saved)


def push(
    graph: InterventionGraph,
    model: nn.Module,
    repo_id: str,
    trained_base: Sequence[str] = (),
    about: Mapping[str, Any] | None = None,
    **options: Any,
) -> Any:
    """Save to a temporary folder and upload that."""
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repo_id, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        save(graph, model, Path(scratch) / "graph", overwrite=True, trained_base=trained_base, about=about)
        return api.upload_folder(repo_id=repo_id, folder_path=str(Path(scratch) / "graph"), **options)


def _described(model: nn.Module) -> dict[str, Any]:
    config = model_config(model)
    shape = {} if config is None else {key: getattr(config, key, None) for key in SHAPE}
    name = None if config is None else getattr(model.config, "_name_or_path", None)
    revision = None if config is None else getattr(model.config, "_commit_hash", None)
    return {"class": type(model).__name__, "base_model": name or None, "revision": revision, **shape}


def _description(files: Mapping[str, bytes], path: Path) -> dict[str, Any]:
    """What the folder says of its base model; nothing where it holds a graph without one."""
    if DESCRIPTION not in files:
        return {}
    described = from_json(files[DESCRIPTION], str(path / DESCRIPTION))
    present = {name: field for name, field in FIELDS.items() if isinstance(described, dict) and name in described}
    return checked(described, present, DESCRIPTION)


def _downloaded(repo_id: str) -> Path:
    from huggingface_hub import snapshot_download

    if repo_id.count("/") > 1 or repo_id.startswith((".", "/", "~")):
        raise StorageError(f"{repo_id!r} is no folder here.")
    return Path(snapshot_download(repo_id))


def _base(described: dict[str, Any], path: Path, tokenizer: Any) -> tuple[nn.Module, Any]:
    name = described.get("base_model")
    if not name:
        raise StorageError(
            f"{path} does not say which base model it belongs to. Pass it: from_pretrained({str(path)!r}, model=...)."
        )
    import transformers

    kind = getattr(transformers, str(described.get("class")), None)
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        raise StorageError(
            f"{path} was made for a {described.get('class')!r}, which transformers {transformers.__version__} has no "
            f"class for. Load it and pass it: from_pretrained({str(path)!r}, model=...)."
        )
    return kind.from_pretrained(name), tokenizer or transformers.AutoTokenizer.from_pretrained(name)


def _check_shape(saved: dict[str, Any], found: dict[str, Any], path: Path) -> None:
    for key in SHAPE:
        if key in saved and saved[key] != found.get(key):
            raise StorageError(
                f"{path} was made for a model with {key}={saved[key]!r}, but this {found['class']} has "
                f"{found.get(key)!r}."
            )
