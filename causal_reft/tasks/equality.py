"""Hierarchical equality: are (w = x) and (y = z) the same? The hypotheses of Geiger et al. 2023, and their data.

The causal models speak of integer ids; a network sees a 4-dimensional vector per id, uniform in [-1, 1], drawn anew for
every row, so that it cannot learn the ids. Base and sources of one row share their vectors: two slots hold the same
vector exactly where they hold the same id, also across an interchange.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from causal_reft.causal import CausalModel, CounterfactualDataset, concat
from causal_reft.causal.columns import Column
from causal_reft.errors import CausalModelError, nearest
from causal_reft.seeds import derive, numpy_stream
from causal_reft.tensors import Float, Int

SLOTS = ("w", "x", "y", "z")
VECTOR_SIZE = 4
N_IDS = 12


def _left(w: Column, x: Column) -> Column:
    return w == x


def _right(y: Column, z: Column) -> Column:
    return y == z


def _both(left: Column, right: Column) -> Column:
    return left == right


def _left_alone(left: Column, y: Column, z: Column) -> Column:
    return left == (y == z)


def _identity(w: Column) -> Column:
    return w.copy()


def _left_of_first(first: Column, x: Column) -> Column:
    return first == x


@dataclass(frozen=True)
class Hypothesis:
    """A causal model of the task and the variables it says the network holds.

    `is_true`: whether a network that solves the task can be expected to hold them (the paper's verdict). `inside`: the
    variable whose subspace must contain this one, if the hypothesis says so.
    """

    name: str
    causal_model: CausalModel
    variables: tuple[str, ...]
    is_true: bool
    inside: str = ""


def hypothesis(name: str, n_ids: int = N_IDS) -> Hypothesis:
    """One of "both relations", "left only", "identity of first argument", "identity subspace of left equality"."""
    first = {"first": _identity, "left": _left_of_first, "answer": _left_alone}
    table = {
        "both relations": ({"left": _left, "right": _right, "answer": _both}, ("left", "right"), True, ""),
        "left only": ({"left": _left, "answer": _left_alone}, ("left",), True, ""),
        "identity of first argument": (first, ("first",), False, ""),
        "identity subspace of left equality": (first, ("first",), False, "left"),
    }
    if name not in table:
        raise CausalModelError(f"There is no hypothesis {name!r} of hierarchical equality. {nearest(name, table)}")
    mechanisms, variables, is_true, inside = table[name]
    return Hypothesis(name, CausalModel(dict.fromkeys(SLOTS, range(n_ids)), mechanisms), variables, is_true, inside)


HYPOTHESES = (
    "both relations",
    "left only",
    "identity of first argument",
    "identity subspace of left equality",
)


def equality_examples(n: int, seed: int) -> tuple[Float[Tensor, "n d_in"], Int[Tensor, " n"]]:
    """n training examples with fresh vectors, and their labels; the four cases (left, right) are equally frequent."""
    stream = numpy_stream(seed, "equality examples")
    vectors = _uniform(stream, (n, len(SLOTS)))
    case = stream.permutation(np.arange(n) % 4)
    left, right = case % 2 == 0, case < 2
    vectors[left, 1] = vectors[left, 0]
    vectors[right, 3] = vectors[right, 2]
    return torch.from_numpy(vectors.reshape(n, -1)), torch.from_numpy((left == right).astype(np.int64))


def equality_counterfactuals(what: Hypothesis, n: int, seed: int) -> CounterfactualDataset:
    """Interchanges of a hypothesis' variables on which doing nothing, or knowing nothing, scores one half.

    Two ids a row: then every relation holds in half of the rows, in base, sources and outcome independently, so
        neither the
    base's own answer nor a constant one is worth more than chance. With several variables, two thirds of the rows
    interchange one of them (the other takes the base's value) and one third all, as in Geiger et al. 2023.
    """
    model = hypothesis(what.name, n_ids=2).causal_model
    if len(what.variables) == 1:
        return model.counterfactuals(what.variables, n, seed)
    together, single = n // 3, n - n // 3
    return concat(
        [
            model.counterfactuals(what.variables, together, derive(seed, "together")),
            model.counterfactuals(what.variables, single, derive(seed, "single"), "per_variable"),
        ]
    )


def equality_inputs(data: CounterfactualDataset, seed: int) -> dict[str, Float[Tensor, "n d_in"]]:
    """What the network reads for each run of counterfactuals: four vectors side by side, one table of them per row."""
    n_ids = 1 + max(int(frame[slot].max()) for frame in data.runs.values() for slot in SLOTS)
    table = _uniform(numpy_stream(seed, "equality vectors"), (len(data), n_ids))
    return {run: _look_up(table, frame) for run, frame in data.runs.items()}


def equality_labels(data: CounterfactualDataset) -> Int[Tensor, " n"]:
    """The class the causal model expects after the interchange: 1 where the two relations agree."""
    return torch.from_numpy(data.labels["answer"].to_numpy().astype(np.int64))


def _look_up(table: np.ndarray, frame: pd.DataFrame) -> Float[Tensor, "n d_in"]:
    ids = np.stack([frame[slot].to_numpy() for slot in SLOTS], axis=1)
    return torch.from_numpy(table[np.arange(len(ids))[:, None], ids].reshape(len(ids), -1))


def _uniform(stream: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return stream.random((*shape, VECTOR_SIZE), dtype=np.float32) * 2 - 1
