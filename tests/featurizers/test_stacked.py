"""A stack gives each row of a batch what its own member gives by itself."""

from __future__ import annotations

import pytest
import torch

from causal_reft.errors import FeaturizerError
from causal_reft.featurizers import RowsOfStack, StackedFeaturizer, orthonormal_rows, random_frames

FRAMES = orthonormal_rows(random_frames(3, 2, 6, 0).double())
EQUAL, UNEQUAL, SCATTERED = [0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 2, 2], [2, 0, 2, 1]


@pytest.mark.parametrize("members", [EQUAL, UNEQUAL, SCATTERED])
@pytest.mark.parametrize("tokens_of_a_row", [(1,), (2,), (1, 3)])
def test_each_row_has_its_own_member(members: list[int], tokens_of_a_row: tuple[int, ...]) -> None:
    draw = torch.Generator().manual_seed(0)
    stack = StackedFeaturizer(FRAMES)
    stack.choose(torch.tensor(members))
    counts = torch.tensor([tokens_of_a_row[i % len(tokens_of_a_row)] for i in range(len(members))])
    rows = torch.arange(len(members)).repeat_interleave(counts)
    h, z = (torch.randn(len(rows), width, generator=draw, dtype=torch.float64) for width in (6, 2))
    bound = stack.of_rows(rows)
    assert stack.of_rows(rows) is bound
    for token, row in enumerate(rows):
        A = FRAMES[members[row]]
        torch.testing.assert_close(bound.read(h)[token], A @ h[token], rtol=0, atol=1e-14)
        written = h[token] + A.T @ (z[token] - A @ h[token])
        torch.testing.assert_close(bound.write(h, z)[token], written, rtol=0, atol=1e-14)
    torch.testing.assert_close(bound.each(torch.arange(3.0)), torch.tensor(members)[rows].float())


@pytest.mark.parametrize("scales", [None, torch.tensor([0.5, -2.0, 3.0]).double()], ids=["", "scaled"])
@pytest.mark.parametrize("frames", [FRAMES, None], ids=["rows", "whole vectors"])
def test_a_members_change_is_multiplied_by_its_scale(frames: torch.Tensor | None, scales: torch.Tensor | None) -> None:
    draw, members = torch.Generator().manual_seed(0), torch.tensor(SCATTERED)
    stack = StackedFeaturizer(frames, None if frames is not None else 6, scales)
    stack.choose(members)
    F = stack.of_rows(torch.arange(4))
    h, z = (torch.randn(4, width, generator=draw, dtype=torch.float64) for width in (6, F.rank))
    A = torch.eye(6).double().expand(3, 6, 6) if frames is None else frames
    for token, m in enumerate(SCATTERED):
        change = A[m].T @ (z[token] - A[m] @ h[token])
        wanted = h[token] + (1 if scales is None else scales[m]) * change
        torch.testing.assert_close(F.write(h, z)[token], wanted, rtol=0, atol=1e-14)
    assert F.write(h.float(), z).dtype == torch.float32 and F.read(h.bfloat16().float()).dtype != torch.bfloat16
    assert not F.is_lens and not stack.is_lens


def test_another_choice_is_another_layout() -> None:
    stack, rows = StackedFeaturizer(FRAMES), torch.arange(2)
    h = torch.ones(2, 6, dtype=torch.float64)
    found = []
    for members in ([0, 1], [2, 1]):
        stack.choose(torch.tensor(members))
        found.append(stack.of_rows(rows).read(h))
    assert not torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_blocks_of_one_member_share_their_matrix() -> None:
    stack = StackedFeaturizer(FRAMES)
    for members, blocks in ((EQUAL, 3), (UNEQUAL, 6)):
        stack.choose(torch.tensor(members))
        assert stack.of_rows(torch.arange(6)).shape == (blocks, 6 // blocks)


def test_a_row_without_a_member_is_refused() -> None:
    stack = StackedFeaturizer(FRAMES)
    stack.choose(torch.tensor([0, 1]))
    with pytest.raises(FeaturizerError, match="Row 2 has chosen no member"):
        stack.of_rows(torch.arange(3))
    with pytest.raises(FeaturizerError, match="rows that have chosen a member"):
        stack.read(torch.zeros(2, 6))
    with pytest.raises(FeaturizerError, match="not stored"):
        RowsOfStack(stack, torch.arange(2)).config()
