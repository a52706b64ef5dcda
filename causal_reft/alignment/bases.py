"""Rows that confine a search, from data: `Subspace.within(rows, rank)` learns its rotation inside their span.

    varied_directions      what the source runs change: principal directions of source - base at a site
    read_directions        what the rest of the network reads there: the span of the logits' gradients over the data

DAS at equal accuracy finds other subspaces with other seeds where the state holds copies that nothing reads; inside
what is read there is less to choose from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from causal_reft.alignment.encoding import as_encoding
from causal_reft.alignment.reading import THRESHOLD, reading_of
from causal_reft.alignment.row_scores import states_at
from causal_reft.causal import CounterfactualDataset
from causal_reft.errors import FeaturizerError
from causal_reft.sites import Site
from causal_reft.tensors import Rows, Tensor


def varied_directions(
    network: nn.Module, site: Site, data: CounterfactualDataset, encoding: Any, rank: int | None = None
) -> Rows:
    """The principal directions of source - base differences at a site, largest first: orthonormal, (rank, d_model).

    Args:
        network: the model; it is not trained.
        site: where; base and sources name equally many tokens there.
        data: counterfactuals; every run but the base is a source.
        encoding: a tokenizer or an `Encoding`.
        rank: how many; by default all whose singular value is at least 1 % of the largest.

    Raises:
        FeaturizerError: fewer directions than asked for; unequal numbers of tokens; states that do not differ.
    """
    examples = as_encoding(encoding).examples(data)
    states = states_at(network, site, examples, data.runs)
    found = torch.linalg.svd(torch.cat(_differences(states, site)).double(), full_matrices=False)
    there = int((THRESHOLD * found.S.max() < found.S).sum())
    if not 1 <= (rank or there) <= there:
        raise FeaturizerError(
            f"varied_directions(rank={rank}): sources and base differ in {there} directions at {site!r}. Give data "
            "that differ more, or a lower rank."
        )
    return found.Vh[: rank or there].to(torch.promote_types(states["base"].dtype, torch.float32))


def read_directions(network: nn.Module, site: Site, data: CounterfactualDataset, encoding: Any) -> Rows:
    """Orthonormal rows that span what the rest of the network reads at a site: (directions, d_model).

    The directions along which the logits of the expected answers change anywhere in the data, those whose singular
    value is at least 1 % of the largest; where the site is the input of a linear layer, the rows of its weight. See
    `causal_reft.alignment.reading`.

    Args:
        network, site, data, encoding: as `varied_directions` takes them.

    Raises:
        FeaturizerError: nothing is read at this site.
    """
    examples = as_encoding(encoding).examples(data)
    states = states_at(network, site, examples.rows(torch.tensor([0])), ["base"])["base"]
    rows = reading_of(network, site, states.shape[-1], examples, None).rows
    return rows.to(torch.promote_types(states.dtype, torch.float32))


def _differences(states: Mapping[str, Tensor], site: Site) -> list[Tensor]:
    base = states["base"]
    for run, found in states.items():
        if found.shape != base.shape:
            raise FeaturizerError(
                f"{site!r} names {len(found)} tokens in {run!r} and {len(base)} in 'base', so they do not pair. Keep "
                "the rows in which they do (a Study does so), or name one token a row."
            )
    return [found - base for run, found in states.items() if run != "base"]
