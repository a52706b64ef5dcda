"""The corpus and its scripts live in ``data/``, outside the package: put that folder on the path."""

import sys
from pathlib import Path

DATA = Path(__file__).parents[2] / "data"
sys.path.insert(0, str(DATA))
