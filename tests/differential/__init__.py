"""Random calls against a few lines of plain torch hooks: each is equal, or refused in words.

python -m tests.differential [calls of each kind] [first seed] [kinds] prints, for each kind, how many calls were equal,
refused, different or raw, with the seeds of the last two. A kind is a function of a random stream that makes one call
both ways.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.differential.axes import another_order_of_axes
from tests.differential.generating import generation_options
from tests.differential.masks import masks_of_any_shape
from tests.differential.reuse import reuse_after_changes
from tests.differential.threads import threads_on_one_model

KINDS: dict[str, Callable[[random.Random], str]] = {
    kind.__name__: kind
    for kind in (
        another_order_of_axes,
        generation_options,
        masks_of_any_shape,
        reuse_after_changes,
        threads_on_one_model,
    )
}
