"""The public names: this list, and no other. `__init__.py` reads it and imports each name when it is first used."""

from causal_reft.errors import CausalReftError as CausalReftError
from causal_reft.errors import CausalReftWarning as CausalReftWarning
from causal_reft.execution import Examples as Examples
from causal_reft.execution import FullPasses as FullPasses
from causal_reft.execution import IntervenedModel as IntervenedModel
from causal_reft.execution import plan as plan
from causal_reft.featurizers import Autoencoder as Autoencoder
from causal_reft.featurizers import Featurizer as Featurizer
from causal_reft.featurizers import Identity as Identity
from causal_reft.featurizers import Mask as Mask
from causal_reft.featurizers import Projection as Projection
from causal_reft.featurizers import Subspace as Subspace
from causal_reft.featurizers import principal_angles as principal_angles
from causal_reft.graph import Collect as Collect
from causal_reft.graph import Constant as Constant
from causal_reft.graph import Interchange as Interchange
from causal_reft.graph import InterventionGraph as InterventionGraph
from causal_reft.graph import LearnedSource as LearnedSource
from causal_reft.graph import Noise as Noise
from causal_reft.graph import Shift as Shift
from causal_reft.graph import load_graph as load_graph
from causal_reft.graph import register_featurizer as register_featurizer
from causal_reft.graph.presets import boundless_das as boundless_das
from causal_reft.graph.presets import consreft as consreft
from causal_reft.graph.presets import das as das
from causal_reft.graph.presets import dbm as dbm
from causal_reft.graph.presets import direft as direft
from causal_reft.graph.presets import lobireft as lobireft
from causal_reft.graph.presets import loreft as loreft
from causal_reft.graph.presets import nodireft as nodireft
from causal_reft.graph.presets import noreft as noreft
from causal_reft.graph.presets import patch as patch
from causal_reft.graph.presets import steer as steer
from causal_reft.sites import Site as Site
from causal_reft.sites import grid as grid
from causal_reft.sites import register_architecture as register_architecture
from causal_reft.training import History as History
from causal_reft.training import fit as fit

__version__: str
