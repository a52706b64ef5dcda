"""Two-digit addition, 00 + 00 to 99 + 99: the ones make a digit and a carry, the tens and the carry make the rest.

The 10,000 sums are all settings of the causal model. `carry` is the classic hidden variable; `ones` is the digit.
"""

from __future__ import annotations

from causal_reft.causal import CausalModel, Task, Template
from causal_reft.causal.columns import Column

DIGITS = range(10)
PLAIN = "{tens_a}{ones_a}+{tens_b}{ones_b}="


def _carry(ones_a: Column, ones_b: Column) -> Column:
    return (ones_a + ones_b) // 10


def _ones(ones_a: Column, ones_b: Column) -> Column:
    return (ones_a + ones_b) % 10


def _tens(tens_a: Column, tens_b: Column, carry: Column) -> Column:
    return tens_a + tens_b + carry


def _answer(tens: Column, ones: Column) -> Column:
    return 10 * tens + ones


def addition_model() -> CausalModel:
    """Inputs tens_a, ones_a, tens_b, ones_b; `carry` 0 or 1; `ones` and `tens` of the sum; `answer` 0 to 198."""
    return CausalModel(
        inputs=dict.fromkeys(("tens_a", "ones_a", "tens_b", "ones_b"), DIGITS),
        mechanisms={"carry": _carry, "ones": _ones, "tens": _tens, "answer": _answer},
    )


def addition(text: str = PLAIN) -> Task:
    """The task in any wording that shows the four digits, e.g. "Q: {tens_a}{ones_a} plus {tens_b}{ones_b}? A: "."""
    return Task("addition", addition_model(), Template(text), answers=str, variables=("carry", "ones", "tens"))
