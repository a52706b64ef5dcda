"""The one equation as a node:    h at site  <-  F.write(h, source)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from causal_reft.display import treescope_repr
from causal_reft.errors import GraphError
from causal_reft.featurizers import Featurizer, Subspace
from causal_reft.graph.sources import Collect, GatedScale, LearnedScale, LearnedSource, Shift, Source
from causal_reft.sites import Site


@dataclass(frozen=True)
class Interchange:
    """An edit of one run.

    Args:
        site: where.
        featurizer: in which coordinates.
        source: what is written into them.
        run: the run that is edited.
        dropout: probability with which each coordinate of the *edit* is dropped while training (never of the stream).
        scale: the strength of the edit; multiplies its change: h + scale * (F.write(h, z) - h).

    Raises:
        GraphError: widths or ranks that do not fit; a full-rank rotation without a mask; dropout outside [0, 1); a
            scale that is not finite.
    """

    site: Site
    featurizer: Featurizer
    source: Source
    run: str = "base"
    dropout: float = 0.0
    scale: float | int = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise GraphError(f"Interchange(scale={self.scale}): a finite number; 1 is the edit as it is, 0 no edit.")
        if not 0 <= self.dropout < 1:
            raise GraphError(f"Interchange(dropout={self.dropout}): a probability in [0, 1).")
        if not self.run.isidentifier():
            raise GraphError(
                f"Interchange(run={self.run!r}): a run is a keyword of the call, so its name must be an identifier."
            )
        self._refuse_cancelling_rotation()
        inner = self.source.source if isinstance(self.source, Shift) else self.source
        if isinstance(inner, LearnedSource):
            self._check_learned(inner)
        if isinstance(inner, LearnedScale | GatedScale) and inner.rank != self.featurizer.rank:
            raise GraphError(
                f"{inner!r} scales {inner.rank} coordinates, but {self.featurizer!r} has {self.featurizer.rank}. Use "
                f"{type(inner).__name__}(rank={self.featurizer.rank})."
            )
        if (
            isinstance(inner, Collect)
            and inner.featurizer is not None
            and inner.featurizer.rank != self.featurizer.rank
        ):
            raise GraphError(
                f"{inner!r} reads {inner.featurizer.rank} coordinates, but {self.featurizer!r} writes "
                f"{self.featurizer.rank}. Read as many as are written."
            )

    def needs(self) -> tuple[Collect, ...]:
        """The states that must be collected before this edit, with their sites filled in."""
        return tuple(collect.at(self.site) for collect in self.source.needs())

    def _refuse_cancelling_rotation(self) -> None:
        F = self.featurizer
        reads_same = isinstance(self.source, Collect) and self.source.featurizer in (None, F)
        if isinstance(F, Subspace) and F.rank == F.d_model and reads_same:
            raise GraphError(
                f"Interchange(featurizer={F!r}, source={self.source!r}): a full rotation cancels (h + R^T (R s - R h) "
                "= s), so this is plain activation patching and the gradient of R is rounding noise. Write "
                f"featurizer=Identity({F.d_model}) to patch, Mask({F!r}) to learn how many coordinates, or a lower "
                "rank."
            )

    def _check_learned(self, learned: LearnedSource) -> None:
        F = self.featurizer
        if learned.rank != F.rank:
            raise GraphError(
                f"{learned!r} writes {learned.rank} coordinates, but {F!r} has {F.rank}. Use "
                f"LearnedSource(rank={F.rank}, ...)."
            )
        if learned.reads is None and learned.reads_input and learned.d_model != F.d_model:
            raise GraphError(
                f"{learned!r} reads width {learned.d_model}, but the site has d_model={F.d_model} for {F!r}."
            )
        if learned.reads is not None and learned.reads.run != self.run:
            raise GraphError(
                f"{learned!r} reads run {learned.reads.run!r}, but edits run {self.run!r}; a learned source reads the "
                f"run that it edits. Write reads=Collect({self.run!r}, ...), or source=Collect({learned.reads.run!r}) "
                "for an interchange."
            )
        learned.start_from(F, shifted=isinstance(self.source, Shift))

    def __repr__(self) -> str:
        run = "" if self.run == "base" else f", run={self.run!r}"
        dropout = f", dropout={self.dropout:g}" if self.dropout else ""
        scale = "" if self.scale == 1 else f", scale={self.scale:g}"
        return f"Interchange({self.site!r}, {self.featurizer!r}, source={self.source!r}{run}{dropout}{scale})"

    __treescope_repr__ = treescope_repr


Node = Collect | Interchange
