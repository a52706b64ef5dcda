"""A graph with every kind of node, source, featurizer, site and position, to be saved."""

from __future__ import annotations

import torch
from torch import Tensor

import causal_reft as cr
from tests.models import D_MODEL as D


def weights(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def rich() -> cr.InterventionGraph:
    """Every kind of node, source, featurizer, site and position."""
    a, b = cr.Subspace(D, 4, seed=1).split(a=1, b=3).values()
    reads = cr.Collect("base", cr.Site(0, "mlp_activation", positions="last"))
    wide = cr.LearnedSource(3, 64, reads=reads, activation="silu", init="random", seed=4)
    features = cr.Autoencoder(
        weights(D, 20), weights(20, D), weights(20), activation="jumprelu", threshold=weights(20).abs()
    )
    mask = cr.Mask(cr.Subspace(D, D), temperature=3.5)
    rows = cr.Projection(D, 2, seed=8)
    rows.weight.requires_grad_(False)
    return cr.InterventionGraph(
        a=cr.Interchange(
            cr.Site(1, positions="f2+l2"), a, cr.Collect("other", cr.Site(0, positions=[0, 2])), dropout=0.5
        ),
        b=cr.Interchange(cr.Site(1, positions="last"), b, wide),
        c=cr.Interchange(cr.Site(2, positions=slice(1, -1)), mask, cr.Collect("source"), run="mid"),
        d=cr.Interchange(
            cr.Site.at("transformer.h.1", port="input"), cr.Mask(features, "coordinates"), cr.Collect("mid")
        ),
        e=cr.Interchange(cr.Site(0, positions="subject"), rows, cr.Shift(cr.Noise(0.3, 7))),
        f=cr.Interchange(cr.Site(0, "attention_query", head=1), cr.Identity(8), cr.Constant(weights(2, 8).double())),
        g=cr.Interchange(
            cr.Site(0), cr.Projection(D, 1).double(), cr.Shift(cr.Collect("source", featurizer=cr.Subspace(D, 1)))
        ),
        h=cr.Interchange(cr.Site(component="final_norm"), cr.Identity(D), cr.Constant(-2.5)),
        seen=cr.Collect("mid", cr.Site(2), cr.Subspace(D, 2, seed=5).bfloat16().float()),
        plain=cr.Collect("base", cr.Site(component="embeddings")),
    )
