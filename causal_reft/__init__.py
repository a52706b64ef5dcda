"""Find where and how a neural network represents a variable, then use that subspace to change what the model does.

    import causal_reft as cr

The public names stand in one list, `__init__.pyi`, which editors read too; each is imported when it is first used.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

__version__ = "0.1.0"


def _public_names() -> dict[str, str]:
    """name -> the package that defines it, from the imports of the stub."""
    stub = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [line for line in stub.body if isinstance(line, ast.ImportFrom) and line.module]
    return {name.name: line.module for line in imports for name in line.names if line.module}


_NAMES = _public_names()
__all__ = [*_NAMES, "__version__"]


def __getattr__(name: str) -> object:
    if name not in _NAMES:
        raise AttributeError(f"module 'causal_reft' has no attribute {name!r}")
    where = _NAMES[name]
    is_room = where == __name__  # `from causal_reft import plots`: a whole room, by its own name
    value = importlib.import_module(f"{where}.{name}") if is_room else getattr(importlib.import_module(where), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
