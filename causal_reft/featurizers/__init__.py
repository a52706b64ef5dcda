"""IN WHICH COORDINATES: lenses that read a hidden state and write it back."""

from causal_reft.featurizers.autoencoder import Autoencoder
from causal_reft.featurizers.featurizer import Featurizer
from causal_reft.featurizers.flow import Flow
from causal_reft.featurizers.identity import Identity
from causal_reft.featurizers.mask import END_TEMPERATURE, START_TEMPERATURE, Mask
from causal_reft.featurizers.orthonormal import Rotation, computed_once, orthonormal_rows, random_frames, uncached
from causal_reft.featurizers.penalty import Penalised, note, noted, noting, penalised, penalties
from causal_reft.featurizers.projection import Projection
from causal_reft.featurizers.stacked import RowsOfStack, StackedFeaturizer
from causal_reft.featurizers.subspace import Subspace, principal_angles

__all__ = [
    "END_TEMPERATURE",
    "START_TEMPERATURE",
    "Autoencoder",
    "Featurizer",
    "Flow",
    "Identity",
    "Mask",
    "Penalised",
    "Projection",
    "Rotation",
    "RowsOfStack",
    "StackedFeaturizer",
    "Subspace",
    "computed_once",
    "note",
    "noted",
    "noting",
    "orthonormal_rows",
    "penalised",
    "penalties",
    "principal_angles",
    "random_frames",
    "uncached",
]
