"""The kinds of modules that a folder may name: what their settings are, and which tensors of which shapes they hold.

Nothing is imported by a name found in a file; these tables are all that a file can name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from causal_reft.errors import StorageError
from causal_reft.featurizers import Autoencoder, Featurizer, Flow, Identity, Mask, Projection, Subspace
from causal_reft.featurizers.autoencoder import ACTIVATIONS as ENCODER_ACTIVATIONS
from causal_reft.graph.fields import FLAG, SEED, SIZE, SLICE, TEXT, Field, maybe, number, one_of
from causal_reft.graph.learned import ACTIVATIONS

BUILT_IN: dict[str, type[Featurizer]] = {
    kind.__name__: kind for kind in (Identity, Subspace, Projection, Mask, Autoencoder, Flow)
}
FEATURIZERS = dict(BUILT_IN)

_PLACE = {"d_model": SIZE, "rank": SIZE}
SETTINGS: dict[str, Mapping[str, Field]] = {
    "Identity": {"d_model": SIZE},
    "Subspace": {**_PLACE, "seed": SEED, "slice": SLICE, "basis": TEXT},
    "Projection": {**_PLACE, "seed": SEED},
    "Mask": {
        "kind": one_of("boundary", "coordinates"),
        "temperature": number("a positive number", lambda value: value > 0),
        "inner": TEXT,
        "groups": maybe(SIZE),
    },
    "Autoencoder": {**_PLACE, "activation": one_of(*ENCODER_ACTIVATIONS), "k": maybe(SIZE)},
    "Flow": {**_PLACE, "n_layers": SIZE, "width": SIZE, "seed": SEED},
    "Rotation": {},
    "LearnedScale": {"rank": SIZE, "bias": FLAG},
    "GatedScale": {"rank": SIZE},
    "TopLatents": {"k": SIZE},
    "LearnedSource": {
        **_PLACE,
        "reads_input": FLAG,
        "bias": FLAG,
        "activation": one_of(None, *ACTIVATIONS),
        "init": one_of("identity", "random"),
        "seed": SEED,
        "reads": Field("null or a Collect", lambda value: value is None or type(value) is dict),
    },
}

Shapes = dict[str, tuple[int, ...]]


def register_featurizer(kind: type[Featurizer]) -> None:
    """Let graphs with a featurizer of your own be saved and loaded: its `config()` must be its constructor's
    arguments.

    Raises:
        StorageError: the name of one of the library's own featurizers.
    """
    name = kind.__name__
    if BUILT_IN.get(name, kind) is not kind or (name in SETTINGS and name not in BUILT_IN):
        raise StorageError(f"{name} is the name of a kind of the library itself. Rename your class.")
    FEATURIZERS[name] = kind


def shapes_of(kind: str, config: Mapping[str, Any], n_tensors: int) -> Shapes | None:
    """The tensors that a module with these settings holds itself; None where only they decide (or for a user's own
    kind).
    """
    build: Callable[[Mapping[str, Any]], Shapes] | None = {
        "Identity": lambda c: {},
        "Subspace": lambda c: {},
        "Projection": lambda c: {"weight": (c["rank"], c["d_model"])},
        "LearnedSource": _learned_shapes,
        "LearnedScale": lambda c: {"weight": (c["rank"],), **({"bias": (c["rank"],)} if c["bias"] else {})},
        "GatedScale": lambda c: {"weight": (c["rank"],), "bias": (c["rank"],), "logits": (2,)},
        "TopLatents": lambda c: {},
        "Autoencoder": _autoencoder_shapes,
        "Flow": lambda c: _flow_shapes(c, n_tensors),
    }.get(kind)
    return None if build is None else build(config)


def _learned_shapes(config: Mapping[str, Any]) -> Shapes:
    weight: Shapes = {"weight": (config["rank"], config["d_model"])} if config["reads_input"] else {}
    return weight | ({"bias": (config["rank"],)} if config["bias"] else {})


def _autoencoder_shapes(config: Mapping[str, Any]) -> Shapes:
    d_model, rank = config["d_model"], config["rank"]
    biases: Shapes = {"encoder_bias": (rank,), "decoder_bias": (d_model,), "threshold": (rank,)}
    return {"encoder": (d_model, rank), "decoder": (rank, d_model), **biases}


def _flow_shapes(config: Mapping[str, Any], n_tensors: int) -> Shapes:
    d_model, width = config["d_model"], config["width"]
    half = d_model // 2
    shapes: Shapes = {"master": (d_model, d_model)}
    for layer in range(min(config["n_layers"], n_tensors + 1)):  # one layer too many is enough to see what lacks
        d_in, d_out = (half, d_model - half) if layer % 2 else (d_model - half, half)
        shapes |= {f"into{layer}": (width, d_in), f"offset{layer}": (width,), f"out{layer}": (d_out, width)}
    return shapes
