"""Many featurizers of equal rank in one pass: each row of a batch takes its own member of a stack.

The matrices are stacked, A (member, rank, d_model), and `choose` names the member m of each row of the next batch:

    read(h) = A_m h        write(h, z) = h + s_m A_m^T (z - A_m h)

Without matrices the stack is of whole vectors, where read(h) = h and write(h, z) = h + s_m (z - h). Served graphs and
random controls use it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from causal_reft.errors import FeaturizerError
from causal_reft.featurizers.featurizer import Featurizer, add_in, computing
from causal_reft.tensors import Coordinates, Float, Hidden, Int, Tensor


class StackedFeaturizer(Featurizer):
    """The members of a stack.

    Args:
        matrices: those of all members, orthonormal rows if the members are lenses; `None` for whole vectors.
        d_model: the width of the states; by default that of the matrices.
        scales: what the change of each member is multiplied by; by default 1.
    """

    is_lens = False

    def __init__(
        self,
        matrices: Float[Tensor, "member rank d_model"] | None,
        d_model: int | None = None,
        scales: Float[Tensor, " member"] | None = None,
    ) -> None:
        super().__init__()
        if matrices is not None:
            d_model = matrices.shape[2]
        assert d_model is not None
        self.matrices, self.d_model, self.scales = matrices, d_model, scales
        self.rank = d_model if matrices is None else matrices.shape[1]
        self.members = torch.zeros(0, dtype=torch.long)
        self._bound: RowsOfStack | None = None

    def choose(self, members: Int[Tensor, " row"]) -> None:
        """The member that each row of the next batch takes; any number in rows that are not edited."""
        self.members, self._bound = members, None

    def of_rows(self, rows: Int[Tensor, " token"]) -> RowsOfStack:
        """The featurizer for tokens of these rows; the steps of a generation name the same rows again and again."""
        if self._bound is None or self._bound.rows_of_tokens is not rows:
            self._bound = RowsOfStack(self, rows)
        return self._bound

    def read(self, h: Hidden) -> Coordinates:
        raise FeaturizerError("A stack reads tokens of rows that have chosen a member: stack.of_rows(rows).")

    def write(self, h: Hidden, z: Coordinates) -> Hidden:
        raise FeaturizerError("A stack writes tokens of rows that have chosen a member: stack.of_rows(rows).")

    def config(self) -> dict[str, object]:
        raise FeaturizerError(
            "Stacked featurizers exist for the rows of one call and are not stored; save the graphs themselves."
        )


class RowsOfStack(Featurizer):
    """A stack for the tokens of some rows, laid out as (block, slot): tokens of one block share their matrices.

    Raises:
        FeaturizerError: a row that has chosen no member.
    """

    is_lens = False

    def __init__(self, stack: StackedFeaturizer, rows: Int[Tensor, " token"]) -> None:
        super().__init__()
        self.matrices, self.d_model, self.rank, self.scales = stack.matrices, stack.d_model, stack.rank, stack.scales
        if len(rows) and int(rows.max()) >= len(stack.members):
            raise FeaturizerError(
                f"Row {int(rows.max())} has chosen no member of the stack: stack.choose(members) was given "
                f"{len(stack.members)} rows."
            )
        self.rows_of_tokens, self.member = rows, stack.members.to(rows.device)[rows]
        self._gathered: dict[int, tuple[Tensor, Tensor]] = {}
        self._lay_out()

    def _lay_out(self) -> None:
        """Blocks of one member each where these are equally long, else of one row each."""
        for shared in (self.member, self.rows_of_tokens):
            _, self.block, counts = shared.unique_consecutive(return_inverse=True, return_counts=True)
            self.shape = len(counts), int(counts.max()) if len(counts) else 0
            self.is_full = self.shape[0] * self.shape[1] == len(shared)
            if self.is_full:
                break
        first = counts.cumsum(0) - counts
        self.slot = torch.arange(len(self.member), device=self.member.device) - first[self.block]
        self.member_of_block = self.member[first]

    def times(
        self, matrices: Float[Tensor, "member out in"], x: Float[Tensor, "token in"]
    ) -> Float[Tensor, "token out"]:
        """Each token times the matrix of its member, (token, out)."""
        return self._times(self._gather(matrices, lambda stacked: stacked[self.member_of_block]), x)

    def each(self, values: Float[Tensor, "member *shape"]) -> Float[Tensor, "token *shape"]:
        """For each token the value of its member."""
        return self._gather(values, lambda stacked: stacked[self.member])

    def read(self, h: Hidden) -> Coordinates:
        if self.matrices is None:
            return h.to(torch.promote_types(h.dtype, torch.float32))
        return self.times(self.matrices, h.to(computing(h, self.matrices)))

    def write(self, h: Hidden, z: Coordinates) -> Hidden:
        if self.matrices is None and self.scales is None:
            return z.to(h.dtype)
        change = z - self.read(h)
        if self.matrices is not None:
            matrices = self._gather(self.matrices, lambda stacked: stacked[self.member_of_block])
            change = self._times(matrices.mT, change)
        return add_in(h, change if self.scales is None else self.each(self.scales)[:, None].to(change.dtype) * change)

    def config(self) -> dict[str, object]:
        raise FeaturizerError("The rows of a stack exist for one call and are not stored.")

    def _times(
        self, matrices: Float[Tensor, "block out in"], x: Float[Tensor, "token in"]
    ) -> Float[Tensor, "token out"]:
        matrices = matrices.to(x.dtype).mT
        if self.is_full:
            return torch.bmm(x.reshape(*self.shape, x.shape[-1]), matrices).flatten(0, 1)
        laid_out = x.new_zeros(*self.shape, x.shape[-1]).index_put((self.block, self.slot), x)
        return torch.bmm(laid_out, matrices)[self.block, self.slot]

    def _gather(self, stacked: Tensor, take: Callable[[Tensor], Tensor]) -> Tensor:
        """Taken once from each stacked tensor, which is remembered so that its `id` stays its own."""
        if id(stacked) not in self._gathered:
            self._gathered[id(stacked)] = stacked, take(stacked.to(self.member.device))
        return self._gathered[id(stacked)][1]
