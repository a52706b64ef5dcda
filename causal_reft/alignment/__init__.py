"""DAS as a study: alignments, metrics, controls, uncertainty, the illusion report, and resumable studies."""

from causal_reft.alignment.alignment import Alignment, mixed
from causal_reft.alignment.encoding import Encoding, Tensors, Texts
from causal_reft.alignment.illusion import IllusionReport
from causal_reft.alignment.score import Score

__all__ = ["Alignment", "Encoding", "IllusionReport", "Score", "Tensors", "Texts", "mixed"]
