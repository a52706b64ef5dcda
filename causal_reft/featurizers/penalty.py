"""Terms that parts of a graph add to the loss while they are trained:

    minimised = loss + weight * sum of penalty() over the parts

    with noting():                                        # the forwards of one step, and no other
        loss = ...
        minimised = loss + weight * penalties(model.interventions)

`Mask` and `GatedScale` have a term of what they learned. `TopLatents` has one of the states that a forward sees, and
notes it there. What runs outside of training mode (validation, the check of a plan) or outside of the block (what
autograd computes again) is not noted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from causal_reft.errors import FeaturizerError
from causal_reft.featurizers.block_value import BlockValue
from causal_reft.tensors import Float, Tensor

_noted = BlockValue[dict[int, list[Tensor]]]("terms of the states of this step")


class Penalised(ABC):
    """Abstract: a part of a graph (a featurizer or a source) that adds a term to the loss while it is trained."""

    @abstractmethod
    def penalty(self) -> Float[Tensor, ""]:
        """The term, differentiable; one of states is that of the `noting` block, summed over its forwards.

        Raises:
            FeaturizerError: a term of states outside of `noting`.
        """


@contextmanager
def noting() -> Iterator[None]:
    """Inside, forwards in training mode note their terms."""
    with _noted.during({}):
        yield


def note(part: Penalised, term: Float[Tensor, ""], trained: bool) -> None:
    """Keep the term of one forward of a part, where one is asked for.

    Raises:
        FeaturizerError: what the term depends on is trained, and it has no gradient.
    """
    if (notes := _noted.get()) is None:
        return
    if trained and not term.requires_grad:
        raise FeaturizerError(
            f"{part!r}: its penalty would lose its gradient here, as in a layer under reentrant gradient "
            "checkpointing. Enable checkpointing with use_reentrant=False, or leave it out."
        )
    notes.setdefault(id(part), []).append(term)


def noted(part: Penalised) -> Float[Tensor, ""]:
    """The sum of what was noted; 0 where no forward edited anything."""
    if (notes := _noted.get()) is None:
        raise FeaturizerError(
            f"{part!r}: its penalty is one of the states of a step. Write `with noting():` around the forward and "
            "penalty()."
        )
    terms = notes.get(id(part), [])
    return torch.stack([term.to(terms[0].device) for term in terms]).sum() if terms else torch.zeros(())


def penalised(modules: nn.Module) -> list[Penalised]:
    """The parts with a term, each once."""
    return [module for module in modules.modules() if isinstance(module, Penalised)]


def penalties(modules: nn.Module, like: Tensor) -> Float[Tensor, ""]:
    """The sum of all terms, on the device of the loss that they are added to."""
    return torch.stack([part.penalty().to(like) for part in penalised(modules)]).sum()
