"""DAS as a study: alignments, metrics, controls, uncertainty, the illusion report, and resumable studies."""

from causal_reft.alignment.alignment import Alignment, mixed
from causal_reft.alignment.bases import SubspaceWithin, read_directions, varied_directions
from causal_reft.alignment.cells import Controls
from causal_reft.alignment.columns import COLUMNS
from causal_reft.alignment.controlled_score import Score
from causal_reft.alignment.controls import random_scores
from causal_reft.alignment.encoding import Encoding, TensorEncoding, TextEncoding
from causal_reft.alignment.illusion import IllusionReport
from causal_reft.alignment.network import digest_of
from causal_reft.alignment.results import StudyResult
from causal_reft.alignment.row_scores import score_rows
from causal_reft.alignment.sampling import Sampling
from causal_reft.alignment.statistics import SHARE, UNBOUNDED, Interval, mean_interval
from causal_reft.alignment.study import Study

__all__ = [
    "COLUMNS",
    "SHARE",
    "UNBOUNDED",
    "Alignment",
    "Controls",
    "Encoding",
    "IllusionReport",
    "Interval",
    "Sampling",
    "Score",
    "Study",
    "StudyResult",
    "SubspaceWithin",
    "TensorEncoding",
    "TextEncoding",
    "digest_of",
    "mean_interval",
    "mixed",
    "random_scores",
    "read_directions",
    "score_rows",
    "varied_directions",
]
