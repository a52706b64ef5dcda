"""What is learned: an edit of some rank at some layers and prompt tokens; as controls, nothing or a prompt embedding.

    ConsReFT    h + R^T (b - R h)         d r + r numbers for each layer      the paper's released experiment
    LoReFT      h + R^T (W h + b - R h)   2 d r + r numbers for each layer
    prompt_embedding                      d r numbers: r free vectors after the prompt, in place of token embeddings
    none                                  0 numbers: the model as it is

A learned prompt embedding is a graph too: the whole vector at the embeddings of r placeholder tokens, taken from a
learned constant. So it trains and generates by the same code as the edits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from causal_reft.errors import DataError, nearest
from causal_reft.execution.planning.decoder import Decoder, find_decoder
from causal_reft.featurizers import Identity
from causal_reft.graph import Interchange, InterventionGraph, LearnedSource, presets
from causal_reft.seeds import derive
from causal_reft.sites import Prompt, Site, locate, model_config, resolve, site_grid

NONE, PROMPT_EMBEDDING = "none", "prompt_embedding"
CONTROLS = (NONE, PROMPT_EMBEDDING)
REFT: dict[str, Callable[..., InterventionGraph]] = {
    name: getattr(presets, name) for name in ("consreft", "loreft", "lobireft", "direft", "noreft", "nodireft")
}


@dataclass(frozen=True)
class Edit:
    """What is learned and where.

    Args:
        method: "consreft", "loreft" or another preset of the ReFT family; "prompt_embedding" or "none".
        rank: of each layer's subspace; for a prompt embedding the number of vectors.
        layers: block outputs that are edited, each with numbers of its own; none for the controls.
        positions: prompt tokens that are edited, in the positions language; they share a layer's numbers.

    Raises:
        DataError: an unknown method, an edit without layers, a control with layers.
    """

    method: str = "consreft"
    rank: int = 1
    layers: tuple[int, ...] = ()
    positions: str | int = "last"

    def __post_init__(self) -> None:
        if self.method not in (*REFT, *CONTROLS):
            raise DataError(f"There is no method {self.method!r} here. {nearest(self.method, [*REFT, *CONTROLS])}")
        if (self.method in CONTROLS) == bool(self.layers):
            word = "takes no layers" if self.layers else "needs layers, e.g. layers=(3,)"
            raise DataError(f"Edit({self.method!r}, layers={self.layers}): {self.method} {word}.")

    @property
    def is_control(self) -> bool:
        """Whether nothing is edited inside the model."""
        return self.method in CONTROLS

    @property
    def added_tokens(self) -> int:
        """Placeholder tokens after the prompt."""
        return self.rank if self.method == PROMPT_EMBEDDING else 0

    def extended(self, prompt: Sequence[int]) -> list[int]:
        """The prompt with its placeholders; which token they repeat does not matter, its embedding is replaced."""
        return [*prompt, *[prompt[-1]] * self.added_tokens]

    def graph(self, model: nn.Module, seed: int) -> InterventionGraph:
        """The untrained graph."""
        if self.method == NONE:
            return InterventionGraph()
        if self.method == PROMPT_EMBEDDING:
            return prompt_embedding(model, self.rank, seed)
        sites = site_grid(self.layers, [self.positions])
        return REFT[self.method](
            sites if len(sites) > 1 else sites[0], model_config(model).hidden_size, self.rank, seed
        )

    def row(self) -> dict[str, Any]:
        """The columns of a table that say what this is."""
        layer = self.layers[0] if len(self.layers) == 1 else None
        return {**asdict(self), "layers": _in_words(self.layers), "positions": str(self.positions), "layer": layer}

    def __str__(self) -> str:
        if self.method == NONE:
            return "no edit"
        if self.method == PROMPT_EMBEDDING:
            return f"prompt embedding of {self.rank}"
        return f"{self.method} rank {self.rank}, layers {_in_words(self.layers)}, {self.positions}"


def prompt_embedding(model: nn.Module, count: int, seed: int = 0) -> InterventionGraph:
    """`count` learned vectors in place of the embeddings of the last `count` prompt tokens; d numbers each.

    They stand where `inputs_embeds` would: a model with learned positions adds those to them.
    """
    table = model.get_input_embeddings()  # type: ignore[operator]
    path = next(path for path, module in model.named_modules() if module is table)
    width = table.embedding_dim
    nodes = {}
    for number in range(count):
        source = LearnedSource(
            width, width, reads_input=False, init="random", seed=derive(seed, "prompt embedding", number)
        )
        site = Site.at(path, positions=slice(number - count, number - count + 1 or None))
        nodes[f"vector_{number}"] = Interchange(site, Identity(width), source)
    return InterventionGraph(**nodes)


def equal_prompt_embedding(model: nn.Module, edit: Edit) -> Edit:
    """The prompt embedding whose number of trainable parameters is nearest to an edit's."""
    width = model.get_input_embeddings().embedding_dim  # type: ignore[operator]
    return Edit(PROMPT_EMBEDDING, max(1, round(edit.graph(model, 0).n_trainable_parameters / width)))


def layer_edits(
    model: nn.Module,
    method: str = "consreft",
    rank: int = 1,
    layers: Sequence[int] | None = None,
    positions: str | int = "last",
) -> list[Edit]:
    """One edit for each layer (by default all), and the two controls: no edit, and a prompt embedding of equal size."""
    layers = range(model_config(model).num_hidden_layers) if layers is None else layers
    edits = [Edit(method, rank, (layer,), positions) for layer in layers]
    return [*edits, equal_prompt_embedding(model, edits[0]), Edit(NONE, 0)]


def reach(model: nn.Module, edit: Edit, prompt_length: int, n: int) -> int:
    """How many of n new tokens an edit can change: all, 1 where it is after the last mixing of tokens, or 0.

    An edit of the last block's output changes only the logits of its own tokens; the first new token is read from the
    last prompt token, the others from tokens that the edit never touches.
    """
    if edit.method == NONE:
        return 0
    decoder = causal_decoder(model)
    sites = [node.site for node in edit.graph(model, 0).edits.values()]
    if any(decoder.mixes_tokens(locate(model, site)) for site in sites):
        return n
    prompt = Prompt.of(torch.ones(1, prompt_length + edit.added_tokens))
    last = prompt_length + edit.added_tokens - 1
    return int(any(last in resolve(site.where, prompt).columns.tolist() for site in sites))


def causal_decoder(model: nn.Module) -> Decoder:
    """What is known of the model as a causal language model.

    Raises:
        DataError: it is none.
    """
    found = find_decoder(model, frozenset({"input_ids", "attention_mask"}))
    if isinstance(found, str):
        raise DataError(f"Memorisation needs a causal language model, and {found} ({type(model).__name__}).")
    return found


def _in_words(layers: Sequence[int]) -> str:
    """ "3", "0-3" or "0, 2, 5"."""
    if len(layers) > 1 and list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}-{layers[-1]}"
    return ", ".join(map(str, layers))
