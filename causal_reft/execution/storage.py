"""A saved `IntervenedModel`: the graph's two files, and `intervened_model.json`, which says what base model they
belong to.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from torch import nn

from causal_reft.errors import StorageError
from causal_reft.graph import InterventionGraph, graph_to_data, load_graph, write_folder
from causal_reft.sites import model_config

SHAPE = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")
DESCRIPTION = "intervened_model.json"


def save(graph: InterventionGraph, model: nn.Module, folder: str | os.PathLike[str], overwrite: bool) -> None:
    """Write graph.json, weights.safetensors and intervened_model.json, all or nothing."""
    data, tensors = graph_to_data(graph)
    documents = {"graph.json": data, DESCRIPTION: _described(model)}
    write_folder(folder, documents, {"weights.safetensors": tensors}, overwrite)


def load(
    folder: str | os.PathLike[str], model: nn.Module | None, tokenizer: Any
) -> tuple[InterventionGraph, nn.Module, Any]:
    """The graph, and the base model (given, or loaded from where it was) with its tokenizer.

    Raises:
        StorageError: no such folder or files; the given model has another shape; no model to load.
    """
    path = Path(folder) if Path(folder).is_dir() else _downloaded(str(folder))
    graph = load_graph(path)
    described = json.loads((path / DESCRIPTION).read_text(encoding="utf-8")) if (path / DESCRIPTION).is_file() else {}
    if model is None:
        model, tokenizer = _base(described, path, tokenizer)
    _check_shape(described, _described(model), path)
    return graph, model, tokenizer


def push(graph: InterventionGraph, model: nn.Module, repo_id: str, **options: Any) -> Any:
    """Save to a temporary folder and upload that."""
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repo_id, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        save(graph, model, Path(scratch) / "graph", overwrite=True)
        return api.upload_folder(repo_id=repo_id, folder_path=str(Path(scratch) / "graph"), **options)


def _described(model: nn.Module) -> dict[str, Any]:
    config = model_config(model)
    shape = {} if config is None else {key: getattr(config, key, None) for key in SHAPE}
    name = None if config is None else getattr(model.config, "_name_or_path", None)
    return {"class": type(model).__name__, "base_model": name or None, **shape}


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
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(name), tokenizer or AutoTokenizer.from_pretrained(name)


def _check_shape(saved: dict[str, Any], found: dict[str, Any], path: Path) -> None:
    for key in SHAPE:
        if key in saved and saved[key] != found.get(key):
            raise StorageError(
                f"{path} was made for a model with {key}={saved[key]!r}, but this {found['class']} has "
                f"{found.get(key)!r}."
            )
