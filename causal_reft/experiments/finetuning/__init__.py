"""FINETUNING: methods trained on the same records with the same arguments, and scored by what they then write.

`python -m causal_reft replicate` runs LoReFT by the paper's recipes, `ablate` varies its positions, rank, layers and
tying, `compare` puts it beside other methods. The three are grids of one kind of cell; see `cell.py`.
"""

from causal_reft.experiments.finetuning.benchmarks import BENCHMARKS, GROUPS, Benchmark, Item
from causal_reft.experiments.finetuning.cell import Bench, FinetuningCell
from causal_reft.experiments.finetuning.methods import METHODS

__all__ = ["BENCHMARKS", "GROUPS", "METHODS", "Bench", "Benchmark", "FinetuningCell", "Item"]
