"""WHERE: sites, the positions language, the architecture table, and finding a site in a model."""

from causal_reft.sites.architectures import ARCHITECTURES, Architecture, Port, register_architecture
from causal_reft.sites.locate import Blocks, Location, find_blocks, locate, model_config, unwrapped
from causal_reft.sites.positions import Positions, PositionsLike, parse_positions
from causal_reft.sites.site import COMPONENTS, WITH_HEADS, Site, site_grid
from causal_reft.sites.tokens import PART, UNNAMED, Mentions, Prompt, Spans, Tokens, after_text, mentions, resolve

__all__ = [
    "ARCHITECTURES",
    "COMPONENTS",
    "PART",
    "UNNAMED",
    "WITH_HEADS",
    "Architecture",
    "Blocks",
    "Location",
    "Mentions",
    "Port",
    "Positions",
    "PositionsLike",
    "Prompt",
    "Site",
    "Spans",
    "Tokens",
    "after_text",
    "find_blocks",
    "locate",
    "mentions",
    "model_config",
    "parse_positions",
    "register_architecture",
    "resolve",
    "site_grid",
    "unwrapped",
]
