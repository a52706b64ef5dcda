"""Rows that confine a search, from data: `Subspace.within(rows, rank)` learns its rotation inside their span.

    varied_directions      what the source runs change: principal directions of source - base at a site
    read_directions        what the rest of the network reads there: principal directions of the logits' gradients
    SubspaceWithin         a study's recipe: at every site a subspace inside one of them, or inside both

A subspace may hold directions that nothing reads, or that the data never vary, at no loss, so a search everywhere ends
at another one with every seed. Inside both, with d = source - base and G the rows that are read, it looks among the
principal directions of d G^T G: what the data vary of what is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from causal_reft.alignment.encoding import as_encoding
from causal_reft.alignment.reading import Keep, checked_keep, principal_rows, readings_of
from causal_reft.alignment.row_scores import states_at_each
from causal_reft.causal import CounterfactualDataset
from causal_reft.errors import FeaturizerError
from causal_reft.execution import Examples
from causal_reft.sites import Site
from causal_reft.tensors import Float, Rows, Tensor

ROUNDING = 1e-6  # of differences, by their norm


@dataclass(frozen=True)
class SubspaceWithin:
    """A recipe for `Study(featurizer=...)`: at every site a subspace inside rows that are made there, from the network
    and the training rows of each fit (of permuted labels and shuffled weights their own).

    In a graph of your own: `Subspace.within(read_directions(...), rank)`.

    Args:
        rank: of the subspace, at most the number of rows of every site.
        read: inside what the network reads (`read_directions(keep=read)`); None: wherever.
        varied: inside what the data vary (`varied_directions(keep=varied)`), of what is read where both are given.

    Raises:
        FeaturizerError: neither `read` nor `varied`; one that keeps nothing, or fewer rows than the rank.
    """

    rank: int
    read: Keep = None
    varied: Keep = None

    def __post_init__(self) -> None:
        if self.read is None and self.varied is None:
            raise FeaturizerError(
                f"SubspaceWithin(rank={self.rank}): inside what? Give read=0.95, varied=0.95 or both; "
                f"everywhere is Subspace.of_rank({self.rank})."
            )
        for name, keep in (("read", self.read), ("varied", self.varied)):
            checked_keep(keep, name)
            if isinstance(keep, int) and keep < self.rank:
                raise FeaturizerError(
                    f"SubspaceWithin(rank={self.rank}, {name}={keep}): {keep} rows hold no subspace of rank "
                    f"{self.rank}. Give {name}={self.rank} or more, or a lower rank."
                )

    @property
    def inside(self) -> str:
        """What confines it, in words: "within read=0.95"."""
        given = {"read": self.read, "varied": self.varied}
        return "within " + ", ".join(f"{name}={keep}" for name, keep in given.items() if keep is not None)

    def rows_at(
        self, network: nn.Module, sites: Sequence[Site], examples: Examples, batch_size: int = 64
    ) -> dict[Site, Tensor]:
        """The rows of each site, from the same passes.

        Raises:
            FeaturizerError: fewer rows than the rank; nothing is read; states that do not differ or do not pair.
        """
        found = {} if self.read is None else _read(network, sites, examples, self.read, batch_size)
        if self.varied is not None:
            found = _varied(network, sites, examples, self.varied, batch_size, found)
        for site, rows in found.items():
            if len(rows) < self.rank:
                raise FeaturizerError(
                    f"{self!r}: at {site!r} there are {len(rows)} such directions, so the rank is at most {len(rows)} "
                    "there. Take a lower rank, keep more, or give this site a study of its own."
                )
        return found


def varied_directions(
    network: nn.Module, site: Site, data: CounterfactualDataset, encoding: Any, keep: Keep = None
) -> Rows:
    """The principal directions of source - base differences at a site, largest first: orthonormal, (rows, d_model).

    Args:
        network: the model; it is not trained.
        site: where; base and sources name equally many tokens there.
        data: counterfactuals; every run but the base is a source.
        encoding: a tokenizer or an `Encoding`.
        keep: how many, or below 1 the share of the squared differences that the first ones hold (0.95: as few as hold
            95 %); by default all whose singular value is at least 1 % of the largest.

    Raises:
        FeaturizerError: fewer directions than asked for; unequal numbers of tokens; states that do not differ.
    """
    checked_keep(keep, "keep")
    return _varied(network, [site], as_encoding(encoding).examples(data), keep)[site]


def read_directions(
    network: nn.Module, site: Site, data: CounterfactualDataset, encoding: Any, keep: Keep = None
) -> Rows:
    """Orthonormal rows that span what the rest of the network reads at a site, largest first: (rows, d_model).

    The directions along which the logits of the expected answers change anywhere in the data: principal directions of
    the gradients of (logit of the expected answer - mean logit) in the base runs (active subspaces; Constantine 2015).
    Where the site is the input of a linear layer, those of its weight. See `causal_reft.alignment.reading`.

    Args:
        network, site, data, encoding: as `varied_directions` takes them.
        keep: how many, or below 1 the share of the squared gradients that the first ones hold; by default all whose
            singular value is at least 1 % of the largest.

    Raises:
        FeaturizerError: fewer directions than asked for; nothing is read at this site.
    """
    checked_keep(keep, "keep")
    return _read(network, [site], as_encoding(encoding).examples(data), keep)[site]


def _read(
    network: nn.Module, sites: Sequence[Site], examples: Examples, keep: Keep, batch_size: int = 64
) -> dict[Site, Tensor]:
    one = states_at_each(network, sites, examples.rows(torch.tensor([0])), ["base"])
    widths = {site: found["base"].shape[-1] for site, found in one.items()}
    readings = readings_of(network, widths, examples, keep, batch_size)
    return {site: reading.rows.to(_master(one[site]["base"])) for site, reading in readings.items()}


def _varied(
    network: nn.Module,
    sites: Sequence[Site],
    examples: Examples,
    keep: Keep,
    batch_size: int = 64,
    inside: Mapping[Site, Tensor] | None = None,
) -> dict[Site, Tensor]:
    """Principal directions of the differences, or of their projections on the rows of each site that are given."""
    states = states_at_each(network, sites, examples, examples.runs, batch_size)
    return {site: _principal(found, site, keep, (inside or {}).get(site)) for site, found in states.items()}


def _principal(
    states: Mapping[str, Tensor], site: Site, keep: Keep, inside: Float[Tensor, "read d_model"] | None
) -> Rows:
    differences = torch.cat(_differences(states, site)).double()
    least = ROUNDING * float(differences.norm())
    if inside is not None:
        differences = differences @ inside.mT.double() @ inside.double()
    rows = principal_rows(differences, keep, least)
    if not len(rows) or (isinstance(keep, int) and len(rows) < keep):
        where = "directions" if inside is None else f"of the {len(inside)} directions that are read"
        raise FeaturizerError(
            f"Sources and base differ in {len(rows)} {where} at {site!r}"
            + (f", so {keep} cannot be kept" if keep is not None else "")
            + ". Give data that differ more, or keep fewer."
        )
    return rows.to(_master(states["base"]))


def _differences(states: Mapping[str, Tensor], site: Site) -> list[Tensor]:
    base = states["base"]
    for run, found in states.items():
        if found.shape != base.shape:
            raise FeaturizerError(
                f"{site!r} names {len(found)} tokens in {run!r} and {len(base)} in 'base', so they do not pair. Keep "
                "the rows in which they do (a Study does so), or name one token a row."
            )
    return [found - base for run, found in states.items() if run != "base"]


def _master(states: Tensor) -> torch.dtype:
    return torch.promote_types(states.dtype, torch.float32)
