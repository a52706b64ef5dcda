"""A subspace over text: what its coordinates are at every token, and what the model says when it is pushed along one.

projections(model, tokenizer, text, site, R)               z = R h at each token, for `plots.token_strip`
push(site, R, direction=0, strength=3)                     the graph  h + strength * R_i : Shift(Constant(...))
steered(model, tokenizer, prompts, site, R, strengths)     the texts that come out
steer_latents(reft, texts, alpha)                          the graph  h + alpha m v  after `reft_r1`, m a maximum
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import nn

from causal_reft.errors import DataError
from causal_reft.execution import IntervenedModel
from causal_reft.featurizers import Featurizer
from causal_reft.graph import Collect, Constant, Interchange, InterventionGraph, Shift, TopLatents
from causal_reft.reft import generate_texts
from causal_reft.sites import Site
from causal_reft.tensors import Float, Tensor
from causal_reft.texts import prompt_rows


@torch.no_grad()
def states_at(model: nn.Module, tokenizer: Any, texts: Sequence[str], site: Site) -> Float[Tensor, "state d_model"]:
    """The states of all tokens that the site names, text after text, (state, d_model)."""
    seen = IntervenedModel(model, InterventionGraph(seen=Collect("base", site)), tokenizer)
    return torch.cat([seen.collect(text)["seen"][0] for text in texts])


@torch.no_grad()
def projections(model: nn.Module, tokenizer: Any, text: str, site: Site, featurizer: Featurizer) -> pd.DataFrame:
    """The coordinates at every token of a text.

    Args:
        model, tokenizer: a model whose tokens the tokenizer makes.
        text: one text.
        site: where; its positions are ignored, all tokens are read.
        featurizer: which coordinates.

    Returns:
        Columns `position`, `token` (its text), `coordinate`, `z`, ordered by coordinate, so that
        `plots.token_strip(table, row="coordinate")` draws one strip for each.
    """
    graph = InterventionGraph(seen=Collect("base", site.moved(positions="all"), featurizer))
    seen = IntervenedModel(model, graph, tokenizer)
    ids = prompt_rows(text, tokenizer)[0]
    z = seen.collect(torch.tensor([ids], device=seen.device))["seen"][0].cpu()
    tokens = [tokenizer.decode([i]) or tokenizer.convert_ids_to_tokens(i) for i in ids]
    return pd.DataFrame(
        [
            {"position": position, "token": token, "coordinate": coordinate, "z": float(z[position, coordinate])}
            for coordinate in range(z.shape[1])
            for position, token in enumerate(tokens)
        ]
    )


def push(site: Site, featurizer: Featurizer, strength: float, direction: int = 0) -> InterventionGraph:
    """The graph that adds `strength` to one coordinate and leaves the others alone.

    Raises:
        DataError: a coordinate that the featurizer does not have.
    """
    if not 0 <= direction < featurizer.rank:
        raise DataError(f"direction={direction}: {featurizer!r} has coordinates 0 to {featurizer.rank - 1}.")
    change = torch.zeros(featurizer.rank)
    change[direction] = strength
    return InterventionGraph(push=Interchange(site, featurizer, Shift(Constant(change))))


@torch.no_grad()
def steer_latents(
    model: IntervenedModel, texts: Sequence[str], alpha: float = 1.0, node: str = "edit"
) -> InterventionGraph:
    """The graph that generates with the direction v of a trained `reft_r1`: h + alpha m v at all tokens, prompt and
    generated, m the largest latent ReLU(h v) in the texts, without the edit (AxBench: Wu et al. 2025, arXiv 2501.17148,
    steering factor times maximal activation).

    Args:
        model: the trained model with its tokenizer.
        texts: where the concept occurs; m is their maximum over the tokens that the node names.
        alpha: the steering factor; `.scaled(...)` of the graph multiplies it too.
        node: which edit of the graph.

    Raises:
        DataError: a node that is no such edit, or whose latents are 0 in all texts.
    """
    edit = model.graph[node]
    source = edit.source.source if isinstance(edit, Interchange) and isinstance(edit.source, Shift) else None
    if not isinstance(edit, Interchange) or not isinstance(source, TopLatents):
        raise DataError(f"Node {node!r} is {edit!r}, which has no latents. Give a graph of reft_r1 and node=...")
    seen = model.with_graph(InterventionGraph(seen=Collect(edit.run, edit.site, edit.featurizer)))
    largest = torch.stack([torch.relu(seen.collect(text)["seen"][0]).amax(0) for text in texts]).amax(0)
    if not bool((largest > 0).all()):
        raise DataError(f"The latents of node {node!r} are 0 at every token of the texts. Give texts of its concept.")
    site = edit.site.moved(positions="all+generated")
    return InterventionGraph(steer=Interchange(site, edit.featurizer, Shift(Constant(alpha * largest))))


def steered(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[str],
    site: Site,
    featurizer: Featurizer,
    strengths: Sequence[float],
    direction: int = 0,
    max_new_tokens: int = 20,
) -> pd.DataFrame:
    """What the model says (greedily) at each strength: columns `strength`, `prompt`, `continuation`."""
    rows = []
    for strength in strengths:
        pushed = IntervenedModel(model, push(site, featurizer, strength, direction), tokenizer)
        texts = generate_texts(pushed, prompts, max_new_tokens=max_new_tokens)
        rows += [{"strength": strength, "prompt": p, "continuation": t} for p, t in zip(prompts, texts, strict=True)]
    return pd.DataFrame(rows)
