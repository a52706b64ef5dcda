"""The lens laws over random states, ranks and seeds; and for what is no lens, which laws hold and which fail."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import causal_reft as cr
from causal_reft.errors import CausalReftWarning

Build = Callable[[int, int, int], cr.Featurizer]


def half(d_model: int, rank: int, seed: int) -> cr.Featurizer:
    """A slice of a larger rotation."""
    rotation = cr.Subspace(d_model, rank, seed)
    return rotation.split(mine=rank - 1, rest=1)["mine"] if rank > 1 else rotation


def autoencoder(d_model: int, rank: int, seed: int) -> cr.Featurizer:
    generator = torch.Generator().manual_seed(seed)
    encoder, decoder = (
        torch.randn(d_model, 2 * rank, generator=generator),
        torch.randn(2 * rank, d_model, generator=generator),
    )
    return cr.Autoencoder(encoder, decoder, torch.randn(2 * rank, generator=generator))


def soft_mask(d_model: int, rank: int, seed: int) -> cr.Featurizer:
    return cr.Mask(cr.Subspace(d_model, rank, seed), temperature=2.0)


def head_mask(d_model: int, rank: int, seed: int) -> cr.Featurizer:
    """One gate for every `rank` coordinates, some of them open."""
    mask = cr.Mask(cr.Identity(d_model * rank), groups=d_model)
    mask.logits.data.normal_(generator=torch.Generator().manual_seed(seed))
    return mask


def trained_flow(d_model: int, rank: int, seed: int) -> cr.Featurizer:
    """A flow starts as a rotation: only with couplings that are not zero do its two directions differ."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CausalReftWarning)
        flow = cr.Flow(d_model + 1, rank, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter in flow.parameters():
        parameter.data.normal_(generator=generator)
    return flow


LENSES: dict[str, Build] = {
    "trained flow": trained_flow,
    "identity": lambda d, r, s: cr.Identity(d),
    "subspace": cr.Subspace,
    "slice": half,
    "from rows": lambda d, r, s: cr.Subspace.from_rows(torch.randn(r, d, generator=torch.Generator().manual_seed(s))),
    "within": lambda d, r, s: cr.Subspace.within(
        torch.randn((d + r + 1) // 2, d, generator=torch.Generator().manual_seed(s)), r, s
    ),
    "principal directions": lambda d, r, s: cr.Subspace.pca(
        torch.randn(4 * d, d, generator=torch.Generator().manual_seed(s)), r
    ),
}
OTHERS: dict[str, Build] = {
    "projection": cr.Projection,
    "autoencoder": autoencoder,
    "soft mask": soft_mask,
    "hard mask": lambda d, r, s: soft_mask(d, r, s).eval(),
    "mask over heads": head_mask,
}
sizes = st.integers(1, 9).flatmap(lambda d: st.tuples(st.just(d), st.integers(1, d)))


def states(F: cr.Featurizer, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    h, z1, z2 = (
        torch.randn(2, 3, width, generator=generator, dtype=torch.float64) for width in (F.d_model, F.rank, F.rank)
    )
    return 10 * h, z1, z2


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12 * float(1 + b.detach().abs().max()))


@pytest.mark.parametrize("kind", LENSES)
@given(size=sizes, seed=st.integers(0, 10**6))
def test_lens_laws(kind: str, size: tuple[int, int], seed: int) -> None:
    F = LENSES[kind](*size, seed)
    h, z1, z2 = states(F, seed)
    assert F.is_lens
    close(F.write(h, F.read(h)), h)
    close(F.read(F.write(h, z1)), z1)
    close(F.write(F.write(h, z1), z2), F.write(h, z2))


@pytest.mark.parametrize("kind", [*LENSES, *OTHERS])
@given(size=sizes, seed=st.integers(0, 10**6))
def test_writing_what_was_read_changes_nothing_for_every_featurizer(
    kind: str, size: tuple[int, int], seed: int
) -> None:
    F = {**LENSES, **OTHERS}[kind](*size, seed)
    h, _, _ = states(F, seed)
    close(F.write(h, F.read(h)), h)


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_lens_says_so_and_is_none(kind: str) -> None:
    F = OTHERS[kind](6, 4, 0)
    h, z, _ = states(F, 0)
    assert not F.is_lens
    assert (F.read(F.write(h, z)) - z).abs().max() > 1e-2


@given(size=sizes, seed=st.integers(0, 10**6))
def test_a_hard_mask_forgets_what_was_written_before(size: tuple[int, int], seed: int) -> None:
    F = OTHERS["hard mask"](*size, seed)
    h, z1, z2 = states(F, seed)
    close(F.write(F.write(h, z1), z2), F.write(h, z2))


@pytest.mark.parametrize("kind", ["subspace", "slice", "within", "principal directions"])
@given(size=sizes, seed=st.integers(0, 10**6))
def test_the_orthogonal_complement_stays(kind: str, size: tuple[int, int], seed: int) -> None:
    F = LENSES[kind](*size, seed)
    h, z, _ = states(F, seed)
    R = F.rows()
    assert R is not None
    complement = torch.eye(size[0], dtype=torch.float64) - torch.linalg.pinv(R.double()) @ R.double()
    torch.testing.assert_close(F.write(h, z) @ complement, h @ complement, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", [*LENSES, *OTHERS])
def test_tokens_do_not_mix(kind: str) -> None:
    """One token alone is written as it is among others."""
    F = {**LENSES, **OTHERS}[kind](6, 4, 1)
    h, z, _ = states(F, 1)
    close(F.write(h, z)[1, 2], F.write(h[1, 2], z[1, 2]))
