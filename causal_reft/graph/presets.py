"""Every method of the table as a graph: three to six lines each. What differs between them is the featurizer and the
source.

A preset takes the sites (one or several, e.g. from `site_grid`), the width of the representation there, and the rank.
What shares its trained parameters is one argument, `share`:

    "positions"    one set for each site, used at all its tokens (tied; the default)
    "layers"       one set for each group of tokens ("f5", "l5"), used at all sites
    "all"          one set for everything
    None           one set for each site and group of tokens (untied; pyreft's default)

Where the groups of "f5+l5" have parameters of their own, each takes at most half of a short prompt, as in pyreft.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from causal_reft.errors import GraphError, nearest
from causal_reft.featurizers import Featurizer, Identity, Mask, Projection, Subspace
from causal_reft.graph.interchange import Interchange
from causal_reft.graph.intervention_graph import InterventionGraph
from causal_reft.graph.sources import (
    Collect,
    Constant,
    GatedScale,
    LearnedScale,
    LearnedSource,
    Noise,
    Shift,
    Source,
    TopLatents,
)
from causal_reft.seeds import derive
from causal_reft.sites import Positions, PositionsLike, Site
from causal_reft.tensors import Float, Tensor

Sites = Site | Sequence[Site]
Share = str | None  # one of SHARES
SHARES = ("positions", "layers", "all", None)


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
    share: Share = "positions",
) -> InterventionGraph:
    """LoReFT: h + R^T (act(W h + b) - R h), 2 d r + r numbers (Wu et al. 2024, arXiv 2404.03592)."""
    return _graph(
        sites,
        seed,
        lambda s: (Subspace(d_model, rank, s), LearnedSource(rank, d_model, activation=activation, init=init, seed=s)),
        dropout,
        share,
    )


def consreft(sites: Sites, d_model: int, rank: int, seed: int = 0, share: Share = "positions") -> InterventionGraph:
    """ConsReFT: h + R^T (b - R h), d r + r numbers."""
    return _graph(
        sites,
        seed,
        lambda s: (Subspace(d_model, rank, s), LearnedSource(rank, d_model, reads_input=False, seed=s)),
        share=share,
    )


def lobireft(sites: Sites, d_model: int, rank: int, seed: int = 0, share: Share = "positions") -> InterventionGraph:
    """LobiReFT: h + R^T b, d r + r numbers."""
    return _graph(
        sites,
        seed,
        lambda s: (Subspace(d_model, rank, s), Shift(LearnedSource(rank, d_model, reads_input=False, seed=s))),
        share=share,
    )


def direft(
    sites: Sites,
    d_model: int,
    rank: int,
    seed: int = 0,
    init: str = "identity",
    activation: str | None = None,
    share: Share = "positions",
) -> InterventionGraph:
    """DiReFT: h + R^T act(W h + b), 2 d r + r numbers."""
    return _graph(
        sites,
        seed,
        lambda s: (
            Subspace(d_model, rank, s),
            Shift(LearnedSource(rank, d_model, activation=activation, init=init, seed=s)),
        ),
        share=share,
    )


def noreft(
    sites: Sites, d_model: int, rank: int, seed: int = 0, init: str = "identity", share: Share = "positions"
) -> InterventionGraph:
    """NoReFT: h + A^T (W h + b - A h) with unconstrained rows A, 2 d r + r numbers."""
    return _graph(
        sites,
        seed,
        lambda s: (Projection(d_model, rank, s), LearnedSource(rank, d_model, init=init, seed=s)),
        share=share,
    )


def nodireft(
    sites: Sites, d_model: int, rank: int, seed: int = 0, init: str = "identity", share: Share = "positions"
) -> InterventionGraph:
    """NodiReFT: h + A^T (W h + b) with unconstrained rows A, 2 d r + r numbers."""
    return _graph(
        sites,
        seed,
        lambda s: (Projection(d_model, rank, s), Shift(LearnedSource(rank, d_model, init=init, seed=s))),
        share=share,
    )


def steering_vector(sites: Sites, d_model: int, share: Share = "positions") -> InterventionGraph:
    """A trained steering vector: h + v, d numbers, starting at v = 0 (Subramani et al. 2022, arXiv 2205.05124)."""
    return _graph(
        sites, 0, lambda s: (Identity(d_model), Shift(LearnedSource(d_model, d_model, reads_input=False))), share=share
    )


def lofit(heads: Sequence[tuple[int, int]], d_head: int, positions: PositionsLike = "all") -> InterventionGraph:
    """LoFiT's offsets: z + v at the output of each selected (layer, head), d_head numbers a head (Yin et al. 2024,
    arXiv 2406.01563); which heads is its first step, and is given here.
    """
    sites = [Site(layer, "attention_head_output", positions, head) for layer, head in heads]
    return steering_vector(sites, d_head)


def jola(heads: Sequence[tuple[int, int]], d_head: int, positions: PositionsLike = "all") -> InterventionGraph:
    """JoLA: (1 + g_m m) * z + g_a a at the output of each (layer, head), 2 d_head + 2 numbers a head (Lai et al. 2025,
    arXiv 2502.01179). Gates close under `fit(..., penalty=)` or `ReftTrainer(..., penalty=)`: see `GatedScale`.
    """
    sites = [Site(layer, "attention_head_output", positions, head) for layer, head in heads]
    return _graph(sites, 0, lambda s: (Identity(d_head), GatedScale(d_head)))


def reft_r1(sites: Sites, d_model: int, k: int = 8, seed: int = 0, share: Share = "positions") -> InterventionGraph:
    """ReFT-r1 in training: h + mean(top-k ReLU(h v)) v with a unit vector v, d numbers (Wu et al. 2025, arXiv
    2501.17148). `fit(..., penalty=)` or `ReftTrainer(..., penalty=)` weighs the L1 norm of the other latents, and
    `steer_latents` makes the edit that generates: see `TopLatents`.
    """
    return _graph(sites, seed, lambda s: (Subspace(d_model, 1, s), Shift(TopLatents(k))), share=share)


def red(sites: Sites, d_model: int, share: Share = "positions") -> InterventionGraph:
    """RED: s * h + b, 2 d numbers, at MLP outputs in the paper (Wu et al. 2024, arXiv 2402.15179)."""
    return _graph(sites, 0, lambda s: (Identity(d_model), LearnedScale(d_model)), share=share)


def ia3(sites: Sites, d_model: int, share: Share = "positions") -> InterventionGraph:
    """(IA)^3: s * h, d numbers; in the paper at keys, values and MLP activations (Liu et al. 2022, arXiv
    2205.05638).
    """
    return _graph(sites, 0, lambda s: (Identity(d_model), LearnedScale(d_model, bias=False)), share=share)


def lora(
    sites: Sites, d_in: int, d_out: int, rank: int, alpha: float | int | None = None, seed: int = 0
) -> InterventionGraph:
    """LoRA as an intervention: h + (alpha / rank) B A x at the output h of a linear layer with input x, rank (d_in +
    d_out) numbers, starting at B = 0 (Hu et al. 2021, arXiv 2106.09685).

    Args:
        sites: outputs of linear layers by path: `Site.at("model.layers.3.mlp.down_proj")`.
        alpha: by default the rank, so that the factor is 1.

    Raises:
        GraphError: a site that is no module's output by path.
    """
    listed = [sites] if isinstance(sites, Site) else list(sites)
    if wrong := [site for site in listed if site.path is None or site.port != "output"]:
        raise GraphError(f"lora({wrong[0]!r}): give the output of a linear layer, Site.at('path.of.the.layer').")
    factor, nodes = 1.0 if alpha is None else alpha / rank, {}
    for index, site in enumerate(listed):
        B, reads = Projection(d_out, rank), Collect("base", site.moved(port="input"))
        torch.nn.init.zeros_(B.weight)
        A = LearnedSource(rank, d_in, bias=False, reads=reads, init="random", seed=derive(seed, "site", index))
        nodes["edit" if len(listed) == 1 else f"edit_{index}"] = Interchange(site, B, Shift(A), scale=factor)
    return InterventionGraph(**nodes)


def zero_ablate(sites: Sites, d_model: int) -> InterventionGraph:
    """Zero ablation: h <- 0."""
    return _graph(sites, 0, lambda s: (Identity(d_model), Constant(0.0)))


def mean_ablate(sites: Sites, mean: Float[Tensor, " d_model"]) -> InterventionGraph:
    """Mean ablation: h <- the given mean state, (d_model,)."""
    return _graph(sites, 0, lambda s: (Identity(mean.shape[-1]), Constant(mean)))


def noise_ablate(sites: Sites, d_model: int, std: float, seed: int = 0) -> InterventionGraph:
    """Noise ablation: h <- Gaussian noise of standard deviation `std`; see `Noise`."""
    return _graph(sites, seed, lambda s: (Identity(d_model), Noise(std, s)))


def ablate_directions(sites: Sites, directions: Float[Tensor, "direction d_model"]) -> InterventionGraph:
    """Directional ablation: h - R^T R h, R the orthonormal rows that span the directions (Arditi et al. 2024, arXiv
    2406.11717, for one direction).
    """
    return _graph(sites, 0, lambda s: (Subspace.from_rows(directions), Constant(0.0)))


def path_patch(sender: Site, receiver: Site, d_model: int, source: str = "source") -> InterventionGraph:
    """Path patching: the source's state at the sender enters run `mid`; what then arrives at the receiver enters the
    base (Wang et al. 2022, arXiv 2211.00593). Call with `mid=` the base inputs: `model(base, mid=base, source=other)`.
    """
    return InterventionGraph(
        sender=Interchange(sender, Identity(d_model), Collect(source), run="mid"),
        receiver=Interchange(receiver, Identity(d_model), Collect("mid")),
    )


def _graph(
    sites: Sites,
    seed: int,
    parts: Callable[[int], tuple[Featurizer, Source]],
    dropout: float = 0.0,
    share: Share = "positions",
) -> InterventionGraph:
    """One node for each site (and group of tokens); a single one is called `edit`, several `edit_0`, `edit_1`, ..., and
    each set of parameters has a seed of its own.
    """
    if share not in SHARES:
        raise GraphError(f"share={share!r}. {nearest(str(share), map(str, SHARES))}")
    listed = [sites] if isinstance(sites, Site) else list(sites)
    places = [
        ((0 if share in ("layers", "all") else index, group), part)
        for index, site in enumerate(listed)
        for group, part in enumerate(_groups(site) if share in ("layers", None) else [site])
    ]
    keys = list(dict.fromkeys(key for key, _ in places))
    single = len(keys) == 1
    built = {(i, g): parts(seed if single else derive(seed, "site", i, *([g] if g else []))) for i, g in keys}
    nodes = [Interchange(site, *built[key], dropout=dropout) for key, site in places]
    names = ["edit"] if len(nodes) == 1 else [f"edit_{index}" for index in range(len(nodes))]
    return InterventionGraph(**dict(zip(names, nodes, strict=True)))


def _groups(site: Site) -> list[Site]:
    """The site at each of its groups of tokens."""
    parts = site.where.parts
    if len(parts) == 1:
        return [site]
    halves = [replace(part, half=True) if part.kind in ("first", "last") else part for part in parts]
    return [site.moved(positions=Positions((part,))) for part in halves]
