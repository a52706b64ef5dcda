"""beartype, where it is installed, before nnsight: imported after it, beartype fails.

nnsight adds an attribute to `object` that beartype cannot hash while it is imported ("unhashable type:
'instancemethod'"), so whoever needs both would meet an error that names neither.
"""

from __future__ import annotations

import sys
from contextlib import suppress

if "nnsight" not in sys.modules:  # else it is too late, and whoever imported it lives without beartype
    with suppress(ImportError):
        import beartype  # noqa: F401 - for what it does before nnsight is there
