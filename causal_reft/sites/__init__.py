"""WHERE: sites, the positions language, the architecture table, and finding a site in a model."""

from causal_reft.sites.architectures import ARCHITECTURES, Architecture, Port, register_architecture
from causal_reft.sites.locate import Blocks, Location, find_blocks, locate, model_config, unwrapped
from causal_reft.sites.positions import Positions, PositionsLike, Prompt, Spans, Tokens, parse_positions, resolve
from causal_reft.sites.site import COMPONENTS, WITH_HEADS, Site, site_grid

__all__ = [
    "ARCHITECTURES",
    "COMPONENTS",
    "WITH_HEADS",
    "Architecture",
    "Blocks",
    "Location",
    "Port",
    "Positions",
    "PositionsLike",
    "Prompt",
    "Site",
    "Spans",
    "Tokens",
    "find_blocks",
    "locate",
    "model_config",
    "parse_positions",
    "register_architecture",
    "resolve",
    "site_grid",
    "unwrapped",
]
