"""NaN and infinity stop the call: scored logits, losses and collected states are numbers."""

from __future__ import annotations

import math

from causal_reft.errors import RunError
from causal_reft.execution.transform import State
from causal_reft.graph import Collect
from causal_reft.tensors import Float, Int, Tensor


def check_finite_logits(
    logits: Float[Tensor, "read classes"], rows: Int[Tensor, " read"], columns: Int[Tensor, " read"] | None
) -> None:
    """Every read has a largest logit. Single classes may be minus infinity, as a model's suppressed tokens are.

    Raises:
        RunError: with the first row that has none.
    """
    if not logits.numel():
        return
    good = logits.detach().amax(-1).isfinite()
    if not bool(good.all()):
        first = int((~good).nonzero()[0])
        column = "" if columns is None else f", column {int(columns[first])}"
        raise RunError(
            f"The base run's logits of row {int(rows[first])} of the batch{column} hold NaN or infinity. The model "
            "(in this precision, with this padding) or an edit gives no numbers there."
        )


def check_finite_states(name: str, node: Collect, state: State) -> None:
    """Collected states are numbers.

    Raises:
        RunError: with the node, the site, the run and the first row that is not.
    """
    good = state.h.detach().isfinite()
    if not bool(good.all()):
        row = int(state.tokens.rows[(~good.flatten(1).all(1)).nonzero()[0]])
        raise RunError(
            f"Node {name!r}: the state at {node.site!r} of run {node.run!r} holds NaN or infinity in row {row} of the "
            "batch. The model (in this precision, with this padding) or an edit before it gives no numbers there."
        )


def check_finite_loss(value: float, what: str) -> None:
    """A loss is a number.

    Raises:
        RunError: it is not.
    """
    if not math.isfinite(value):
        raise RunError(
            f"The loss of {what} is {value}. Lower the learning rate, or look at the labels: a class that the model "
            "gives probability zero has an infinite loss."
        )
