"""The shape vocabulary: the letters that signatures and einsums share.

`batch` rows of a call, `pos` tokens of a row, `token` named tokens of all rows in one flat axis, `d_model` the width of
the representation at a site, `rank` the number of coordinates that a featurizer reads.
"""

from __future__ import annotations

from jaxtyping import Bool, Float, Int, Num, Shaped
from torch import Tensor

Hidden = Float[Tensor, "... d_model"]
Coordinates = Float[Tensor, "... rank"]
Rows = Float[Tensor, "rank d_model"]
TokenMask = Shaped[Tensor, "batch pos"]

__all__ = ["Bool", "Coordinates", "Float", "Hidden", "Int", "Num", "Rows", "Shaped", "Tensor", "TokenMask"]
