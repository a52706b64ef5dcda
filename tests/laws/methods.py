"""Every row of the method table twice: as a graph of the library, and as its formula in a few lines of plain torch.

A reference is `formula(h, s, ordinal) -> h'` over the edited tokens, (token, d_model): h the base run's state there, s
the source run's, ordinal the number of a token among the named ones of its row. It reads the very tensors that the
graph trains, so that gradients can be compared too, and calls nothing of the library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

import causal_reft as cr
from causal_reft.seeds import derive
from tests.models import D_MODEL as D

Formula = Callable[[Tensor, Tensor, Tensor], Tensor]
LAYER, EARLIER = 1, 0


@dataclass(frozen=True)
class Method:
    """A graph with its formula. `reads`: the layer whose state of the base run is handed to the formula as s."""

    graph: cr.InterventionGraph
    formula: Formula
    training: bool = False
    reads: int | None = None
    leaves: tuple[nn.Parameter, ...] = field(default=())


def doubled(graph: cr.InterventionGraph) -> cr.InterventionGraph:
    """float64 masters."""
    graph.modules.double()
    return graph


def frame(master: Tensor) -> Tensor:
    """Gram-Schmidt rows by Householder QR with positive diagonal."""
    q, r = torch.linalg.qr(master.mT)
    return (q * r.diagonal().sign()).mT


def interchange(site: cr.Site, F: cr.Featurizer, source: object, **options: object) -> cr.InterventionGraph:
    return cr.InterventionGraph(edit=cr.Interchange(site, F, source, **options))  # type: ignore[arg-type]


def zero_ablation(site: cr.Site) -> Method:
    return Method(cr.zero_ablate(site, D), lambda h, s, i: torch.zeros_like(h))


def mean_ablation(site: cr.Site) -> Method:
    mean = torch.linspace(-1, 1, D, dtype=torch.float64)
    return Method(cr.mean_ablate(site, mean), lambda h, s, i: mean.expand_as(h))


def noise_ablation(site: cr.Site) -> Method:
    def formula(h: Tensor, s: Tensor, i: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(derive(5, "noise"))
        rows = [torch.randn(D, generator=generator, dtype=torch.float64) for _ in range(int(i.max()) + 1)]
        return 0.7 * torch.stack(rows)[i]

    return Method(cr.noise_ablate(site, D, 0.7, seed=5), formula)


def activation_patching(site: cr.Site) -> Method:
    return Method(cr.patch(site, D), lambda h, s, i: s)


def das(site: cr.Site) -> Method:
    graph = doubled(cr.das(site, D, rank=3))
    M = graph["edit"].featurizer.basis.master

    def formula(h: Tensor, s: Tensor, i: Tensor) -> Tensor:
        R = frame(M)
        return h + (s @ R.T - h @ R.T) @ R

    return Method(graph, formula, leaves=(M,))


def das_within(site: cr.Site) -> Method:
    B = torch.randn(5, D, generator=torch.Generator().manual_seed(4))
    graph = doubled(interchange(site, cr.Subspace.within(B, 2, seed=3), cr.Collect("source")))
    basis = graph["edit"].featurizer.basis

    def formula(h: Tensor, s: Tensor, i: Tensor) -> Tensor:
        R = frame(basis.master @ basis.within)
        return h + (s - h) @ R.T @ R

    return Method(graph, formula, leaves=(basis.master,))


def two_variables(site: cr.Site) -> Method:
    left, right = cr.Subspace(D, 5, seed=3).split(left=2, right=3).values()
    graph = doubled(
        cr.InterventionGraph(
            left=cr.Interchange(site, left, cr.Collect("source")), right=cr.Interchange(site, right, cr.Constant(0.5))
        )
    )

    def formula(h: Tensor, s: Tensor, i: Tensor) -> Tensor:
        R = frame(left.basis.master)
        z = torch.cat([s @ R[:2].T, torch.full((len(h), 3), 0.5, dtype=h.dtype)], -1)
        return h + (z - h @ R.T) @ R

    return Method(graph, formula, leaves=(left.basis.master,))


def boundless(site: cr.Site, training: bool) -> Method:
    graph = doubled(cr.boundless_das(site, D))
    F = graph["edit"].featurizer
    F.temperature = 2.0
    F.logits.data.fill_(0.43)

    def formula(h: Tensor, s: Tensor, i: Tensor) -> Tensor:
        R, index = frame(F.inner.basis.master), torch.arange(D)
        m = torch.sigmoid((F.logits * D - index) / 2.0) if training else (index < 0.43 * D).double()
        return ((1 - m) * (h @ R.T) + m * (s @ R.T)) @ R

    leaves = (F.inner.basis.master, F.logits) if training else (F.inner.basis.master,)
    return Method(graph, formula, training, leaves=leaves)


def dbm_neurons(site: cr.Site, training: bool) -> Method:
    graph = doubled(cr.dbm(site, cr.Identity(D)))
    F = graph["edit"].featurizer
    F.temperature = 0.5
    F.logits.data.copy_(torch.linspace(-1, 1.3, D))

    def formula(h: Tensor, s: Tensor, i: Tensor) -> Tensor:
        m = torch.sigmoid(F.logits / 0.5) if training else (F.logits > 0).double()
        return (1 - m) * h + m * s

    return Method(graph, formula, training, leaves=(F.logits,) if training else ())


def dbm_features(site: cr.Site, training: bool) -> Method:
    generator = torch.Generator().manual_seed(4)
    W, V, b, c = (
        0.5 * torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((D, 24), (24, D), (24,), (D,))
    )
    graph = cr.dbm(site, cr.Autoencoder(W, V, b, c))
    F = graph["edit"].featurizer.double()
    F.temperature = 0.5
    F.logits.data.copy_(torch.linspace(-1, 1.3, 24))

    def formula(h: Tensor, s: Tensor, i: Tensor) -> Tensor:
        m = torch.sigmoid(F.logits / 0.5) if training else (F.logits > 0).double()
        here, there = ((x - c).matmul(W).add(b).relu() for x in (h, s))
        error = h - (here @ V + c)
        return ((1 - m) * here + m * there) @ V + c + error

    return Method(graph, formula, training, leaves=(F.logits,) if training else ())


def _started(graph: cr.InterventionGraph) -> tuple[cr.InterventionGraph, cr.LearnedSource, tuple[nn.Parameter, ...]]:
    """float64, with W and b away from their start."""
    node = doubled(graph)["edit"]
    learned = node.source.source if isinstance(node.source, cr.Shift) else node.source
    generator = torch.Generator().manual_seed(9)
    for p in learned.parameters():
        p.data += 0.3 * torch.randn(*p.shape, generator=generator, dtype=p.dtype)
    return graph, learned, tuple(graph.parameters())


def loreft(site: cr.Site) -> Method:
    graph, learned, leaves = _started(cr.loreft(site, D, rank=3))
    F = graph["edit"].featurizer

    def formula(h: Tensor, s: Tensor, i: Tensor) -> Tensor:
        R = frame(F.basis.master)
        return h + (h @ learned.weight.T + learned.bias - h @ R.T) @ R

    return Method(graph, formula, leaves=leaves)


def loreft_gelu(site: cr.Site) -> Method:
    graph, learned, leaves = _started(cr.loreft(site, D, rank=3, init="random", activation="gelu"))
    F = graph["edit"].featurizer

    def formula(h: Tensor, s: Tensor, i: Tensor) -> Tensor:
        R = frame(F.basis.master)
        return h + (nn.functional.gelu(h @ learned.weight.T + learned.bias) - h @ R.T) @ R

    return Method(graph, formula, leaves=leaves)


def consreft(site: cr.Site) -> Method:
    graph, learned, leaves = _started(cr.consreft(site, D, rank=3))
    F = graph["edit"].featurizer

    def formula(h: Tensor, s: Tensor, i: Tensor) -> Tensor:
        R = frame(F.basis.master)
        return h + (learned.bias - h @ R.T) @ R

    return Method(graph, formula, leaves=leaves)


def lobireft(site: cr.Site) -> Method:
    graph, learned, leaves = _started(cr.lobireft(site, D, rank=3))
    F = graph["edit"].featurizer
    return Method(graph, lambda h, s, i: h + learned.bias @ frame(F.basis.master), leaves=leaves)


def direft(site: cr.Site) -> Method:
    graph, learned, leaves = _started(cr.direft(site, D, rank=3, activation="tanh"))
    F = graph["edit"].featurizer

    def formula(h: Tensor, s: Tensor, i: Tensor) -> Tensor:
        return h + torch.tanh(h @ learned.weight.T + learned.bias) @ frame(F.basis.master)

    return Method(graph, formula, leaves=leaves)


def noreft(site: cr.Site) -> Method:
    graph, learned, leaves = _started(cr.noreft(site, D, rank=3))
    A = graph["edit"].featurizer.weight
    return Method(graph, lambda h, s, i: h + (h @ learned.weight.T + learned.bias - h @ A.T) @ A, leaves=leaves)


def nodireft(site: cr.Site) -> Method:
    graph, learned, leaves = _started(cr.nodireft(site, D, rank=3))
    A = graph["edit"].featurizer.weight
    return Method(graph, lambda h, s, i: h + (h @ learned.weight.T + learned.bias) @ A, leaves=leaves)


def steering(site: cr.Site) -> Method:
    vector = torch.linspace(-2, 1, D, dtype=torch.float64)
    return Method(cr.steer(site, vector, scale=0.5), lambda h, s, i: h + 0.5 * vector)


def added_noise(site: cr.Site) -> Method:
    ablated = noise_ablation(site)
    return Method(
        interchange(site, cr.Identity(D), cr.Shift(cr.Noise(0.7, seed=5))), lambda h, s, i: h + ablated.formula(h, s, i)
    )


def added_source(site: cr.Site) -> Method:
    F = cr.Subspace(D, 3, seed=2)
    graph = doubled(interchange(site, F, cr.Shift(cr.Collect("source"))))

    def formula(h: Tensor, s: Tensor, i: Tensor) -> Tensor:
        R = frame(F.basis.master)
        return h + (s @ R.T) @ R

    return Method(graph, formula, leaves=(F.basis.master,))


def schematic_reft(site: cr.Site) -> Method:
    reads = cr.Collect("base", site.moved(layer=EARLIER))
    source = cr.LearnedSource(rank=3, d_model=D, reads=reads, init="random")
    graph, learned, leaves = _started(interchange(site, cr.Subspace(D, 3), source))
    F = graph["edit"].featurizer

    def formula(h: Tensor, s: Tensor, i: Tensor) -> Tensor:
        R = frame(F.basis.master)
        return h + (s @ learned.weight.T + learned.bias - h @ R.T) @ R

    return Method(graph, formula, reads=EARLIER, leaves=leaves)


def directional_ablation(site: cr.Site) -> Method:
    v = torch.linspace(-2, 1, D, dtype=torch.float64)
    unit = v / v.norm()
    return Method(cr.ablate_directions(site, v[None]), lambda h, s, i: h - (h @ unit)[:, None] * unit)


def trained_steering(site: cr.Site) -> Method:
    graph, learned, _ = _started(cr.steering_vector(site, D))
    return Method(graph, lambda h, s, i: h + learned.bias, leaves=(learned.bias,))


def red(site: cr.Site) -> Method:
    graph, learned, leaves = _started(cr.red(site, D))
    return Method(graph, lambda h, s, i: h * learned.weight + learned.bias, leaves=leaves)


def ia3(site: cr.Site) -> Method:
    graph, learned, leaves = _started(cr.ia3(site, D))
    return Method(graph, lambda h, s, i: h * learned.weight, leaves=leaves)


def reft_r1(site: cr.Site) -> Method:
    graph = doubled(cr.reft_r1(site, D, k=2, seed=3))
    M = graph["edit"].featurizer.basis.master

    def formula(h: Tensor, s: Tensor, i: Tensor) -> Tensor:
        v = M[0] / M[0].norm()
        rows = torch.tensor_split(h, (i == 0).nonzero()[1:, 0])  # a row's first token has number 0
        return torch.cat([row + (row @ v).relu().topk(min(2, len(row))).values.mean() * v for row in rows])

    return Method(graph, formula, leaves=(M,))


def gated_scale(site: cr.Site) -> Method:
    learned = cr.GatedScale(D)
    graph, _, leaves = _started(interchange(site, cr.Identity(D), learned))

    def formula(h: Tensor, s: Tensor, i: Tensor) -> Tensor:
        g = 1.2 * torch.sigmoid(learned.logits) - 0.1
        return (1 + g[0] * learned.weight) * h + g[1] * learned.bias

    return Method(graph, formula, leaves=leaves)


METHODS: dict[str, Callable[[cr.Site], Method]] = {
    "zero ablation": zero_ablation,
    "mean ablation": mean_ablation,
    "noise ablation": noise_ablation,
    "activation patching": activation_patching,
    "DAS": das,
    "DAS within given rows": das_within,
    "DAS, two variables": two_variables,
    "Boundless DAS, training": lambda site: boundless(site, True),
    "Boundless DAS, evaluation": lambda site: boundless(site, False),
    "DBM over neurons, training": lambda site: dbm_neurons(site, True),
    "DBM over neurons, evaluation": lambda site: dbm_neurons(site, False),
    "DBM over features, training": lambda site: dbm_features(site, True),
    "DBM over features, evaluation": lambda site: dbm_features(site, False),
    "LoReFT": loreft,
    "LoReFT with an activation": loreft_gelu,
    "ConsReFT": consreft,
    "LobiReFT": lobireft,
    "DiReFT": direft,
    "NoReFT": noreft,
    "NodiReFT": nodireft,
    "steering": steering,
    "added noise": added_noise,
    "added source": added_source,
    "schematic ReFT": schematic_reft,
    "directional ablation": directional_ablation,
    "trained steering vector": trained_steering,
    "RED": red,
    "(IA)^3": ia3,
    "ReFT-r1": reft_r1,
    "JoLA's edit": gated_scale,
}
