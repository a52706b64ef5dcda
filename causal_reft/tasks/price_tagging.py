"""Price tagging (Wu et al. 2023): is an amount of money inside a bracket? Yes or no.

Four hypotheses compute the same answer by different variables: the two boundary checks, one of them only, the distance
from the middle of the bracket, and the bracket's identity. Money is counted in cents, so comparisons are exact.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from causal_reft.causal import CausalModel, Task, Template
from causal_reft.causal.columns import Column
from causal_reft.errors import CausalModelError, nearest
from causal_reft.seeds import numpy_stream

CENTS = range(1000)
NARROWEST, WIDEST = 250, 750
ALPACA = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nPlease say yes only if it costs between {lower} and {upper} dollars, otherwise no.\n\n"
    "### Input:\n{amount} dollars\n\n### Response:\n"
)
ANSWERS = {True: "Yes", False: "No"}


def _not_below(lower: Column, amount: Column) -> Column:
    return amount >= lower


def _not_above(upper: Column, amount: Column) -> Column:
    return amount <= upper


def _both_hold(not_below: Column, not_above: Column) -> Column:
    return not_below & not_above


def _left_then_check(not_below: Column, upper: Column, amount: Column) -> Column:
    return not_below & (amount <= upper)


def _distance(lower: Column, upper: Column, amount: Column) -> Column:
    """Twice the distance from the middle, which is a whole number of cents."""
    return np.abs(2 * amount - (lower + upper))


def _near_enough(distance: Column, lower: Column, upper: Column) -> Column:
    return distance <= upper - lower


def _bracket(lower: Column, upper: Column) -> Column:
    return lower * len(CENTS) + upper


def _inside_bracket(bracket: Column, amount: Column) -> Column:
    return (amount >= bracket // len(CENTS)) & (amount <= bracket % len(CENTS))


HYPOTHESES = {
    "both boundaries": {"not_below": _not_below, "not_above": _not_above, "answer": _both_hold},
    "left boundary": {"not_below": _not_below, "answer": _left_then_check},
    "midpoint distance": {"distance": _distance, "answer": _near_enough},
    "bracket identity": {"bracket": _bracket, "answer": _inside_bracket},
}


def price_model(hypothesis: str = "both boundaries") -> CausalModel:
    """Inputs lower, upper and amount in cents; the mechanisms of one of the four hypotheses."""
    if hypothesis not in HYPOTHESES:
        raise CausalModelError(
            f"There is no hypothesis {hypothesis!r} of price tagging. {nearest(hypothesis, HYPOTHESES)}"
        )
    return CausalModel(dict.fromkeys(("lower", "upper", "amount"), CENTS), HYPOTHESES[hypothesis])


def price_settings(n: int, seed: int) -> pd.DataFrame:
    """n brackets 2.50 to 7.50 dollars wide inside 0.00 to 9.99, and an amount: a third each below, inside, above."""
    stream = numpy_stream(seed, "prices")
    width = stream.integers(NARROWEST, WIDEST + 1, size=n)
    lower = stream.integers(1, len(CENTS) - 1 - width)
    upper = lower + width
    place = stream.permutation(np.arange(n) % 3)
    first = np.choose(place, [np.zeros(n, dtype=np.int64), lower, upper + 1])
    beyond = np.choose(place, [lower, upper + 1, np.full(n, len(CENTS))])
    return pd.DataFrame({"lower": lower, "upper": upper, "amount": stream.integers(first, beyond)})


def dollars(cents: int) -> str:
    """Cents as "5.49"."""
    return f"{cents // 100}.{cents % 100:02d}"


def price_tagging(hypothesis: str = "both boundaries", n_settings: int = 20_000, seed: int = 0) -> Task:
    """The task under one hypothesis, over n_settings brackets and amounts drawn with the seed."""
    return Task(
        f"price tagging: {hypothesis}",
        price_model(hypothesis),
        Template(ALPACA, show=dict.fromkeys(("lower", "upper", "amount"), dollars)),
        answers=ANSWERS,
        among=price_settings(n_settings, seed),
    )
