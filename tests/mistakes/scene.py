"""What the lines of the table find around them: tiny models, prompts, data; made anew for each, in an empty folder."""

from __future__ import annotations

import ast
import contextlib
import io
import linecache
import os
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers

import causal_reft as cr
from causal_reft import plots
from causal_reft.analysis import Edit, MemoryRecipe, memorise
from causal_reft.execution import plan_all
from causal_reft.graph import kinds
from causal_reft.sites import ARCHITECTURES
from causal_reft.training import fit_many
from tests import words
from tests.alignment import planted, small
from tests.families import model_of
from tests.models import ToyMLP

SCRIPT = "your_script.py"


class Twice(torch.nn.Module):
    """A module that runs twice, one that never runs, and one that runs once."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.idle, self.last = (torch.nn.Linear(3, 3) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.inner(self.inner(x)))


class Doubled(cr.Featurizer):
    """A user's own featurizer: the coordinates are twice the state."""

    d_model = rank = 16

    def read(self, h: torch.Tensor) -> torch.Tensor:
        return 2 * h

    def write(self, h: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return z / 2

    def config(self) -> dict[str, object]:
        return {}


def batch_of(tokenizer: Any, *texts: str) -> dict[str, torch.Tensor]:
    """Padded prompts as a plain dictionary."""
    return dict(tokenizer(list(texts), padding=True, return_tensors="pt", return_token_type_ids=False))


def bert() -> torch.nn.Module:
    """As `families.model_of`, in single precision."""
    return transformers.BertModel(transformers.BertConfig(**bert_settings())).eval()


def bert_settings() -> dict[str, Any]:
    return {name: getattr(model_of("bert").config, name) for name in (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "max_position_embeddings", "pad_token_id")}  # fmt: skip


def empty() -> torch.nn.Module:
    """A model without numbers."""
    with torch.device("meta"):
        return words.model()


def bigcode() -> torch.nn.Module:
    """Of a family without a row in the table."""
    config = transformers.GPTBigCodeConfig(vocab_size=20, n_embd=16, n_layer=2, n_head=2, n_positions=16)
    return transformers.GPTBigCodeForCausalLM(config)


MODELS = {"model": words.model, "copy": words.model, "empty": empty, "bert": bert, "bigcode": bigcode}


def scene(code: str) -> dict[str, Any]:
    """Every name that some lines may use, and the models that they do use."""
    torch.manual_seed(0)
    tokenizer = words.tokenizer()
    used = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    tokenizer.unk_token = "<unk>"
    batch, other, longer = (
        batch_of(tokenizer, "the cat sees a dog", "the owl"),
        batch_of(tokenizer, "the owl hears a cat", "a dog"),
        batch_of(tokenizer, "the owl hears a cat", "a dog that"),
    )
    pairs = small.SPLITS.train + small.SPLITS.select + small.SPLITS.test
    equality = cr.CausalModel(
        dict.fromkeys("wxyz", range(3)),
        {
            "left": lambda w, x: w == x,
            "right": lambda y, z: y == z,
            "answer": lambda left, right: left == right,
        },
    )
    wide = cr.CausalModel(dict.fromkeys("abc", range(100)), {"same": lambda a, b, c: (a == b) & (b == c)})
    return {
        "cr": cr, "torch": torch, "np": np, "Path": Path, "plots": plots,
        "plan_all": plan_all, "fit_many": fit_many, "memorise": memorise, "Edit": Edit, "MemoryRecipe": MemoryRecipe,
        "TrainingArguments": transformers.TrainingArguments,
        "tokenizer": tokenizer,
        "t5": model_of("t5"), **{name: make() for name, make in MODELS.items() if name in used},
        "toy": ToyMLP(), "twice": Twice(), "Doubled": Doubled, "x": torch.randn(2, 3),
        "batch": batch, "other": other, "longer": longer,
        "examples": cr.Examples({"base": batch, "source": other}, torch.tensor([3, 4])),
        "equality": equality, "wide": wide, "pairs": pairs, "splits": small.SPLITS, "site": planted.SITE,
        "network": planted.truth, "encoding": planted.ENCODING,
        "unlearned": lambda: planted.Planted("absent", 0), "few": planted.counterfactuals(24, 0).split(0.4, 0.3, 0.3),
        "settings": {
            "featurizer": cr.Subspace.of_rank(2), "sampling": cr.Sampling(solved=False), "recipe": small.QUICK,
            "controls": cr.Controls(random=2, seeds=0, ladder=False, illusion=False),
        },
        "pool": ThreadPoolExecutor(1),
        "table": pd.DataFrame({"layer": [0, 1], "positions": ["last", "last"], "iia": [0.5, 1.0]}),
    }  # fmt: skip


@cache
def original() -> tuple[dict[str, Any], dict[str, Any]]:
    """The tables that a user may add to, as they are."""
    return dict(ARCHITECTURES), dict(kinds.FEATURIZERS)


@contextmanager
def stage(code: str) -> Iterator[dict[str, Any]]:
    """The scene in an empty working folder; what was registered in it is forgotten, what was printed is not shown."""
    before, tables, home = original(), (ARCHITECTURES, kinds.FEATURIZERS), Path.cwd()
    names = scene(code)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        os.chdir(folder)
        try:
            yield names
        finally:
            os.chdir(home)
            names["pool"].shutdown()
            for table, was in zip(tables, before, strict=True):
                table.clear()
                table.update(was)


def perform(code: str, names: dict[str, Any]) -> None:
    """Run lines as those of a user's script; a warning of ours is an error."""
    linecache.cache[SCRIPT] = len(code), None, code.splitlines(keepends=True), SCRIPT
    with warnings.catch_warnings():
        warnings.simplefilter("error", cr.CausalReftWarning)
        exec(compile(code, SCRIPT, "exec"), names)


def answer(code: str, names: dict[str, Any], error: type[Exception]) -> str:
    """The message with which the last line of some code is answered.

    Raises:
        AssertionError: there is none, or an earlier line is answered already.
    """
    *before, last = (ast.unparse(node) for node in ast.parse(code).body)
    for statement in before:
        perform(statement, names)
    with pytest.raises(error) as found:
        perform(last, names)
    assert found.type is error
    return str(found.value)
