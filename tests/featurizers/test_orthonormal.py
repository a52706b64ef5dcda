"""Orthonormal rows: same rows and gradients by Cholesky and by Householder QR, in stacks, ill-conditioned, drifting."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from causal_reft.errors import FeaturizerError
from causal_reft.featurizers import Rotation, computed_once, orthonormal, orthonormal_rows, random_frames, uncached
from causal_reft.featurizers.block_value import BlockValue


def householder(master: Tensor) -> Tensor:
    """Gram-Schmidt rows by QR with positive diagonal: the plain reference."""
    q, r = torch.linalg.qr(master.mT)
    return (q * r.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]).mT


def masters(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def nearly_dependent(rank: int, d_model: int, gap: float) -> Tensor:
    """Rows that all point the same way, but for a part of size `gap`."""
    return masters(1, d_model) + gap * masters(rank, d_model, seed=1)


@given(rank=st.integers(1, 6), extra=st.integers(0, 6), seed=st.integers(0, 10**6), scale=st.floats(-12, 12))
def test_rows_are_orthonormal_span_the_master_and_equal_gram_schmidt(
    rank: int, extra: int, seed: int, scale: float
) -> None:
    master = masters(rank, rank + extra, seed=seed) * 10.0**scale
    rows = orthonormal_rows(master)
    torch.testing.assert_close(rows @ rows.T, torch.eye(rank, dtype=rows.dtype), rtol=0, atol=1e-13)
    condition = float(torch.linalg.cond(master / master.norm(dim=-1, keepdim=True)))
    torch.testing.assert_close(rows, householder(master), rtol=0, atol=1e-14 * condition + 1e-13)


@pytest.mark.parametrize("gap", [1.0, 1e-1, 1e-2, 1e-4, 1e-6])
def test_both_ways_give_the_same_rows_and_gradients(gap: float) -> None:
    """gap 1 goes through Cholesky, 1e-4 falls back to QR; nothing but rounding tells them apart."""
    weights = masters(4, 20, seed=5)
    results = []
    for way in (orthonormal_rows, householder):
        master = nearly_dependent(4, 20, gap).requires_grad_()
        rows = way(master)
        results.append((rows, *torch.autograd.grad((rows * weights).sum(), master)))
    (rows, grad), (plain_rows, plain_grad) = results
    torch.testing.assert_close(rows, plain_rows, rtol=0, atol=1e-13 / gap)
    torch.testing.assert_close(grad, plain_grad, rtol=0, atol=1e-12 / gap * float(plain_grad.abs().max()))


def test_cholesky_is_the_usual_way_and_qr_the_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = orthonormal._qr_rows
    monkeypatch.setattr(orthonormal, "_qr_rows", lambda rows: calls.append(1) or real(rows))
    orthonormal_rows(masters(4, 20))
    assert not calls
    orthonormal_rows(nearly_dependent(4, 20, 1e-4))
    assert calls


@pytest.mark.parametrize("gap", [1.0, 1e-5], ids=["cholesky", "qr"])
def test_gradcheck(gap: float) -> None:
    assert torch.autograd.gradcheck(
        orthonormal_rows, nearly_dependent(3, 5, gap).requires_grad_(), eps=1e-6 * gap, atol=1e-4 / gap
    )


@pytest.mark.parametrize("gap", [1.0, 1e-5], ids=["cholesky", "qr"])
def test_a_stack_is_its_members(gap: float) -> None:
    stack = torch.stack([nearly_dependent(3, 9, gap), masters(3, 9, seed=7), masters(3, 9, seed=8) * 1e5])
    torch.testing.assert_close(
        orthonormal_rows(stack), torch.stack([orthonormal_rows(m) for m in stack]), rtol=0, atol=1e-14 / gap
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ill_conditioned_single_precision_masters_stay_orthonormal(dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    for gap in (1.0, 1e-1, 1e-2, 1e-3, 1e-4):
        rows = orthonormal_rows(nearly_dependent(8, 256, gap).to(dtype))
        assert (rows @ rows.T - torch.eye(8, dtype=dtype)).abs().max() < 16 * eps


@given(rank=st.integers(2, 8), d_model=st.sampled_from([8, 64, 512]), seed=st.integers(0, 1000))
def test_dependent_rows_are_refused_not_guessed(rank: int, d_model: int, seed: int) -> None:
    for dtype in (torch.float32, torch.float64):
        master = masters(rank, d_model, seed=seed, dtype=dtype)
        master[-1] = master[:-1].sum(0)
        with pytest.raises(FeaturizerError, match="linearly dependent"):
            orthonormal_rows(master)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_rows_without_a_direction_are_refused(value: float) -> None:
    master = masters(3, 8)
    master[1] = value
    with pytest.raises(FeaturizerError, match=r"not finite.*lower the learning rate"):
        orthonormal_rows(master)


def test_no_drift_after_a_thousand_adam_steps_in_single_precision() -> None:
    rotation = Rotation.random(8, 64, seed=0)
    target, optimizer = random_frames(1, 8, 64, seed=1)[0], torch.optim.Adam(rotation.parameters(), lr=1e-2)
    for _ in range(1000):
        optimizer.zero_grad()
        rows = rotation.rows(torch.float32)
        (8 - (rows @ target.T).square().sum()).backward()
        optimizer.step()
    rows = rotation.rows(torch.float32).detach()
    assert (rows @ rows.T - torch.eye(8)).abs().max() < 2e-6
    assert 8 - (rows @ target.T).square().sum() < 1e-3, "and it got where it should"


def test_random_frames_are_haar_reproducible_and_independent_of_the_global_seed() -> None:
    frames = random_frames(4000, 2, 3, seed=0)
    assert torch.equal(frames[:5], random_frames(4000, 2, 3, seed=0)[:5])
    assert not torch.equal(frames[:5], random_frames(4000, 2, 3, seed=1)[:5])
    assert frames.mean(0).abs().max() < 0.05
    second_moment = (frames[..., :, None] * frames[..., None, :]).mean(0)
    torch.testing.assert_close(second_moment, torch.eye(3).expand(2, 3, 3) / 3, rtol=0, atol=0.02)


def test_computed_once_computes_once_and_notices_changes() -> None:
    rotation = Rotation.random(3, 8, seed=0)
    with computed_once():
        rows = rotation.rows(torch.float32)
        assert rotation.rows(torch.float32) is rows
        with torch.no_grad():
            without_graph = rotation.rows(torch.float32)
        assert without_graph is not rows and not without_graph.requires_grad
        assert rotation.rows(torch.float64).dtype == torch.float64
        with torch.no_grad():
            rotation.master += 1
        assert not torch.equal(rotation.rows(torch.float32), rows)
        with computed_once():
            inner = rotation.rows(torch.float32)
        assert rotation.rows(torch.float32) is inner, "an inner block joins the outer one"
        with uncached():
            assert rotation.rows(torch.float32) is not rotation.rows(torch.float32)
        assert rotation.rows(torch.float32) is inner
    assert rotation.rows(torch.float32) is not rotation.rows(torch.float32)


def test_computed_once_gives_the_same_gradients() -> None:
    grads = []
    for once in (False, True):
        rotation = Rotation.random(3, 8, seed=0)
        with computed_once() if once else torch.enable_grad():
            (rotation.rows(torch.float32)[0, 0] + 2 * rotation.rows(torch.float32)[1, 3]).backward()
        grads.append(rotation.master.grad)
    torch.testing.assert_close(grads[0], grads[1])


def test_a_value_of_a_block_is_there_and_nowhere_else_and_travels_empty() -> None:
    value = BlockValue[int]("a number")
    with value.during(1):
        with value.during(2):
            assert value.get() == 2
        sent = pickle.loads(pickle.dumps(value))
        assert value.get() == 1 and sent.get() is None and sent.name == "a number"
    assert value.get() is None
