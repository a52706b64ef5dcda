"""A site: the place in a network where a representation lives. A value; it knows no model.

`Site(8, positions="last")` names layer 8's block output at the last prompt token of any transformer in the
architecture table. `Site.at("blocks.0")` names the output of any module of any `nn.Module` by its path.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import product

from causal_reft.display import treescope_repr
from causal_reft.errors import SiteError, nearest
from causal_reft.sites.positions import Positions, PositionsLike, parse_positions

COMPONENTS = (
    "embeddings",
    "block_input",
    "block_output",
    "attention_input",
    "attention_output",
    "attention_query",
    "attention_key",
    "attention_value",
    "attention_head_output",
    "mlp_input",
    "mlp_activation",
    "mlp_output",
    "final_norm",
)
WITHOUT_LAYER = ("embeddings", "final_norm")
WITH_HEADS = ("attention_query", "attention_key", "attention_value", "attention_head_output")
STACKS = ("encoder", "decoder")


@dataclass(frozen=True)
class Site:
    """Where a representation is read or written.

    Args:
        layer: index of the block, 0-based; `None` for `embeddings`, `final_norm` and sites by path.
        component: one of `COMPONENTS`; in an encoder-decoder model with the stack before it: "encoder.block_output".
        positions: which tokens; see `causal_reft.sites.positions` for the language.
        head: one attention head (0-based) of a per-head component; `None` takes all heads side by side.
        path, port: set by `Site.at`; a dotted module path and "output", "input" or "source:<name>".

    Raises:
        SiteError: unknown component, missing or superfluous layer, head on a component without heads.
        PositionError: positions that the language does not know.
    """

    layer: int | None = None
    component: str = "block_output"
    positions: Positions | PositionsLike = "all"
    head: int | None = None
    path: str | None = field(default=None, kw_only=True)
    port: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions", parse_positions(self.positions))
        if self.path is not None:
            self._check_path()
        else:
            self._check_component()

    @staticmethod
    def at(path: str, port: str = "output", positions: Positions | PositionsLike = "all") -> Site:
        """The value at a port of any module: `Site.at("blocks.0")`, `Site.at("encoder.proj", port="input")`."""
        return Site(positions=positions, path=path, port=port)

    def moved(self, **changes: object) -> Site:
        """The same site with some fields replaced: `site.moved(layer=3)`."""
        return replace(self, **changes)  # type: ignore[arg-type] - checked by __post_init__

    @property
    def where(self) -> Positions:
        """The parsed positions."""
        assert isinstance(self.positions, Positions)
        return self.positions

    @property
    def stack(self) -> str:
        """ "encoder" or "decoder" where the component names one, else ""."""
        return self.component.rpartition(".")[0]

    @property
    def part(self) -> str:
        """The component without its stack."""
        return self.component.rpartition(".")[2]

    @property
    def name(self) -> str:
        """A short name for tables and node names: `block_output.8`, `attention_query.3.h2`, `blocks.0`."""
        if self.path is not None:
            return self.path if self.port == "output" else f"{self.path}:{self.port}"
        layer = "" if self.layer is None else f".{self.layer}"
        return f"{self.component}{layer}" + ("" if self.head is None else f".h{self.head}")

    def _check_path(self) -> None:
        port = self.port or ""
        if port not in ("output", "input") and not port.startswith("source:"):
            raise SiteError(
                f"Site.at({self.path!r}, port={self.port!r}): a port is 'output', 'input' or 'source:<name>' "
                f"(a value inside the forward, nnsight backend only). Write Site.at({self.path!r}, port='output')."
            )
        if self.layer is not None or self.head is not None:
            raise SiteError(f"Site.at({self.path!r}) names a module by its path, so it takes no layer and no head.")

    def _check_component(self) -> None:
        if self.part not in COMPONENTS or self.stack not in ("", *STACKS):
            raise SiteError(
                f"Site(layer={self.layer}, component={self.component!r}) does not exist. "
                f"{nearest(self.component, COMPONENTS)} For any other module write Site.at('path.of.the.module')."
            )
        if self.part in WITHOUT_LAYER and self.layer is not None:
            raise SiteError(
                f"{self.component!r} belongs to the whole model, not to layer {self.layer}. "
                f"Write Site(component={self.component!r})."
            )
        if self.part not in WITHOUT_LAYER and not isinstance(self.layer, int):
            raise SiteError(f"{self.component!r} needs a layer. Write Site(0, component={self.component!r}).")
        if self.layer is not None and self.layer < 0:
            raise SiteError(
                f"layer={self.layer} is negative: layers count from 0, because a graph must mean the same on a deeper "
                f"model. For the last layer write Site(model.config.num_hidden_layers - 1)."
            )
        if self.head is not None and self.part not in WITH_HEADS:
            raise SiteError(f"{self.component!r} has no heads; head={self.head} fits only {', '.join(WITH_HEADS)}.")

    def __repr__(self) -> str:
        if self.path is not None:
            port = "" if self.port == "output" else f", port={self.port!r}"
            return f"Site.at({self.path!r}{port}, positions={self.where})"
        parts = [] if self.layer is None else [str(self.layer)]
        if self.component != "block_output":
            parts.append(f"component={self.component!r}")
        parts.append(f"positions={self.where}")
        if self.head is not None:
            parts.append(f"head={self.head}")
        return f"Site({', '.join(parts)})"

    __treescope_repr__ = treescope_repr


def site_grid(
    layers: Iterable[int] | int,
    positions: Iterable[PositionsLike] | PositionsLike = "all",
    components: Iterable[str] | str = "block_output",
    heads: Iterable[int | None] | int | None = None,
    **others: object,
) -> list[Site]:
    """All sites of layers x components x heads x positions, in that order.

    Each argument is a list of alternatives, one site each, or a single one: `positions=["gender", "last"]`.

    Args:
        layers: numbers of layers, from 0.
        positions: as `Site` takes them.
        components: names of components; with heads "attention_head_output".
        heads: numbers of heads, each a site of its own; None is the whole of a component.
        others: refused by name.

    Raises:
        SiteError: a component that does not exist, or has no heads; an argument by another name.
    """
    for name in others:
        raise SiteError(
            f"site_grid takes no {name!r}. {nearest(name, ('layers', 'positions', 'components', 'heads'))} They are "
            "plural, as each takes all alternatives: site_grid([1, 2], components=['mlp_output'], positions=['last'])."
        )
    given = (layers, components, heads, positions)
    grid = product(*([one] if one is None or isinstance(one, str | int | slice) else list(one) for one in given))
    return [Site(layer, part, where, head) for layer, part, head, where in grid]  # type: ignore[arg-type] - any product
