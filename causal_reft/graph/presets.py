"""Every method of the table as a graph: three to six lines each. What differs between them is the featurizer and the
source.

A preset takes the sites (one or several, e.g. from `grid`), the width of the representation there, and the rank. With
several sites every site gets its own parameters and a node of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from causal_reft.featurizers import Featurizer, Identity, Mask, Projection, Subspace
from causal_reft.graph.interchange import Interchange
from causal_reft.graph.intervention_graph import InterventionGraph
from causal_reft.graph.sources import Collect, Constant, LearnedSource, Shift, Source
from causal_reft.seeds import derive
from causal_reft.sites import Site
from causal_reft.tensors import Tensor

Sites = Site | Sequence[Site]


def das(sites: Sites, d_model: int, rank: int, seed: int = 0, source: str = "source") -> InterventionGraph:
    """Distributed alignment search: h + R^T (R s - R h) (Geiger et al. 2023, arXiv 2303.02536)."""
    return _graph(sites, seed, lambda s: (Subspace(d_model, rank, s), Collect(source)))


def boundless_das(sites: Sites, d_model: int, seed: int = 0, source: str = "source") -> InterventionGraph:
    """DAS that learns the subspace's size by a boundary over a full rotation (Wu et al. 2023, arXiv 2305.08809)."""
    return _graph(sites, seed, lambda s: (Mask(Subspace(d_model, d_model, s), "boundary"), Collect(source)))


def dbm(sites: Sites, coordinates: Featurizer, source: str = "source") -> InterventionGraph:
    """Desiderata-based masking: a learned mask over given coordinates (neurons, PCA directions, SAE features)."""
    return _graph(sites, 0, lambda s: (Mask(coordinates, "coordinates"), Collect(source)))


def patch(sites: Sites, d_model: int, source: str = "source") -> InterventionGraph:
    """Activation patching: the whole vector of the source run."""
    return _graph(sites, 0, lambda s: (Identity(d_model), Collect(source)))


def steer(sites: Sites, vector: Tensor, scale: float = 1.0) -> InterventionGraph:
    """Activation addition: h + scale * vector, the vector (d_model,)."""
    return _graph(sites, 0, lambda s: (Identity(vector.shape[-1]), Shift(Constant(scale * vector))))


def loreft(
    sites: Sites,
    d_model: int,
    rank: int,
    seed: int = 0,
    init: str = "identity",
    activation: str | None = None,
    dropout: float = 0.0,
) -> InterventionGraph:
    """LoReFT: h + R^T (act(W h + b) - R h), 2 d r + r numbers (Wu et al. 2024, arXiv 2404.03592)."""
    return _graph(
        sites,
        seed,
        lambda s: (Subspace(d_model, rank, s), LearnedSource(rank, d_model, activation=activation, init=init, seed=s)),
        dropout,
    )


def consreft(sites: Sites, d_model: int, rank: int, seed: int = 0) -> InterventionGraph:
    """ConsReFT: h + R^T (b - R h), d r + r numbers."""
    return _graph(
        sites, seed, lambda s: (Subspace(d_model, rank, s), LearnedSource(rank, d_model, reads_input=False, seed=s))
    )


def lobireft(sites: Sites, d_model: int, rank: int, seed: int = 0) -> InterventionGraph:
    """LobiReFT: h + R^T b, d r + r numbers."""
    return _graph(
        sites,
        seed,
        lambda s: (Subspace(d_model, rank, s), Shift(LearnedSource(rank, d_model, reads_input=False, seed=s))),
    )


def direft(
    sites: Sites, d_model: int, rank: int, seed: int = 0, init: str = "identity", activation: str | None = None
) -> InterventionGraph:
    """DiReFT: h + R^T act(W h + b), 2 d r + r numbers."""
    return _graph(
        sites,
        seed,
        lambda s: (
            Subspace(d_model, rank, s),
            Shift(LearnedSource(rank, d_model, activation=activation, init=init, seed=s)),
        ),
    )


def noreft(sites: Sites, d_model: int, rank: int, seed: int = 0, init: str = "identity") -> InterventionGraph:
    """NoReFT: h + A^T (W h + b - A h) with unconstrained rows A, 2 d r + r numbers."""
    return _graph(
        sites, seed, lambda s: (Projection(d_model, rank, s), LearnedSource(rank, d_model, init=init, seed=s))
    )


def nodireft(sites: Sites, d_model: int, rank: int, seed: int = 0, init: str = "identity") -> InterventionGraph:
    """NodiReFT: h + A^T (W h + b) with unconstrained rows A, 2 d r + r numbers."""
    return _graph(
        sites, seed, lambda s: (Projection(d_model, rank, s), Shift(LearnedSource(rank, d_model, init=init, seed=s)))
    )


def _graph(
    sites: Sites, seed: int, parts: Callable[[int], tuple[Featurizer, Source]], dropout: float = 0.0
) -> InterventionGraph:
    """One node for each site; a single one is called `edit`, several `edit_0`, `edit_1`, ..., with seeds of their
    own.
    """
    listed = [sites] if isinstance(sites, Site) else list(sites)
    nodes = {}
    for index, site in enumerate(listed):
        featurizer, source = parts(seed if len(listed) == 1 else derive(seed, "site", index))
        nodes["edit" if len(listed) == 1 else f"edit_{index}"] = Interchange(site, featurizer, source, dropout=dropout)
    return InterventionGraph(**nodes)
