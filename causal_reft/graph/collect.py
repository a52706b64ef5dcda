"""A state that is read from a run, and what a source may know about the tokens of the edit that it feeds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

from causal_reft.display import treescope_repr
from causal_reft.errors import GraphError
from causal_reft.featurizers import Featurizer
from causal_reft.sites import Site
from causal_reft.tensors import Coordinates, Hidden, Int, Tensor


@dataclass(frozen=True)
class Collect:
    """The state at a site of a run, read through a featurizer.

    As a node of its own it ends up in `.collected[name]`; as the source of an `Interchange` it feeds the edit.

    Args:
        run: the name of the run that it is taken from.
        site: where; by default the site of the interchange that it feeds.
        featurizer: how it is read; by default that of the interchange it feeds, or the whole vector.
    """

    run: str = "source"
    site: Site | None = None
    featurizer: Featurizer | None = None

    def __post_init__(self) -> None:
        if not self.run.isidentifier():
            raise GraphError(
                f"Collect(run={self.run!r}): a run is a keyword of the call, so its name must be an identifier."
            )

    def at(self, site: Site) -> Collect:
        """This collect with its site filled in where it was left open."""
        return self if self.site is not None else replace(self, site=site)

    def coordinates(self, h: Hidden, featurizer: Featurizer, context: EditContext) -> Coordinates:
        reader, state = self.featurizer or featurizer, context.state(self)
        if state.shape[-1] != reader.d_model:
            raise GraphError(
                f"{self!r} gives states of width {state.shape[-1]}, but they are read by {reader!r}. "
                f"Name a site of that width, or give Collect a featurizer of its own."
            )
        return reader.read(state)

    def needs(self) -> tuple[Collect, ...]:
        return (self,)

    def __repr__(self) -> str:
        parts = [repr(self.run)]
        if self.site is not None:
            parts.append(f"site={self.site!r}")
        if self.featurizer is not None:
            parts.append(f"featurizer={self.featurizer!r}")
        return f"Collect({', '.join(parts)})"

    __treescope_repr__ = treescope_repr


class EditContext(ABC):
    """What a source may know about the tokens of one edit."""

    @abstractmethod
    def state(self, collect: Collect) -> Hidden:
        """The collected states, one for each edited token, (token, d_model of the collected site)."""

    @property
    @abstractmethod
    def ordinal(self) -> Int[Tensor, " token"]:
        """The number of each edited token among the named tokens of its row."""

    @property
    @abstractmethod
    def named(self) -> Int[Tensor, " token"]:
        """How many tokens the row of each edited token names."""

    @property
    @abstractmethod
    def unfinished(self) -> bool:
        """Whether decoding may add named tokens."""

    @property
    @abstractmethod
    def training(self) -> bool:
        """Whether the edit is in training mode, with dropout and gates drawn at random."""

    @property
    @abstractmethod
    def rows(self) -> Int[Tensor, " token"]:
        """The row of the inputs of each edited token."""

    @property
    @abstractmethod
    def n_rows(self) -> int:
        """How many rows the inputs have."""

    @property
    @abstractmethod
    def now(self) -> Hidden:
        """The edited tokens' states after the earlier edits at the same site, (token, d_model)."""
