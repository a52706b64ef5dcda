"""beartype, where it is installed, before nnsight: imported behind it, beartype fails.

nnsight adds an attribute to `object` that beartype cannot hash while it is imported ("unhashable type:
'instancemethod'"), so whoever needs both would meet an error that names neither.
"""

from __future__ import annotations

from contextlib import suppress

with suppress(ImportError):
    import beartype  # noqa: F401 - for what it does before nnsight is there
