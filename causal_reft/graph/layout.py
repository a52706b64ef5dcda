"""Where the parts of a drawn graph stand: sites in the order of the network, runs as lanes, slots within a site.

An edit takes the first slot that is free in every lane between it and what it reads at the same site, so that the arrow
goes straight down and crosses nothing. Places are in inches, lanes count from above.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from causal_reft.featurizers import Featurizer, Mask, Subspace
from causal_reft.graph.interchange import Interchange, Node
from causal_reft.graph.sources import Collect
from causal_reft.sites import Site
from causal_reft.sites.site import COMPONENTS

WIDE, TURNED, SLIM, GAP = 1.26, 0.5, 0.5, 0.16  # inches: a box, a box written upwards, a circle, between sites
IN_ORDER = [*(component for component in COMPONENTS if component != "block_output"), "block_output"]
CROWDED = 8  # more boxes than this are written upwards
LETTER = 0.062  # inches of a letter at the size of the site names


@dataclass(frozen=True)
class Item:
    """A box (`Interchange`) or a circle (`Collect`; without a name it only feeds an edit), and where it stands."""

    node: Interchange | Collect
    name: str
    column: int
    lane: int
    slot: int


@dataclass
class Layout:
    """The items, and for each site and lane the next free slot."""

    runs: Sequence[str]
    sites: list[Site]
    items: list[Item] = field(default_factory=list)
    free: dict[tuple[int, int], int] = field(default_factory=dict)

    @property
    def boxes(self) -> list[Item]:
        """The edits."""
        return [item for item in self.items if isinstance(item.node, Interchange)]

    @property
    def crowded(self) -> bool:
        """Whether boxes are written upwards."""
        return len(self.boxes) > CROWDED

    @property
    def lane_height(self) -> float:
        """Inches from lane to lane."""
        return 1.7 if self.crowded else 1.15

    def lane(self, run: str) -> int:
        """The lane of a run, counted from above."""
        return self.runs.index(run)

    def take(self, column: int, lanes: Sequence[int]) -> int:
        """The first slot that is free in all lanes from the highest to the lowest of these."""
        crossed = [(column, lane) for lane in range(min(lanes), max(lanes) + 1)]
        slot = max(self.free.get(key, 0) for key in crossed)
        self.free.update(dict.fromkeys(crossed, slot + 1))
        return slot

    def circle_of(self, collect: Collect) -> Item | None:
        """Where an edit reads this, if it is drawn already."""
        return next((item for item in self.items if not item.name and _same(item.node, collect)), None)

    def add_circle(self, collect: Collect, name: str = "", slot: int | None = None) -> None:
        """A circle in a given slot or in one of its own; unnamed ones are drawn once."""
        assert collect.site is not None
        if not name and self.circle_of(collect):
            return
        column, lane = self.sites.index(collect.site), self.lane(collect.run)
        self.items.append(Item(collect, name, column, lane, self.take(column, [lane]) if slot is None else slot))

    def add_box(self, name: str, edit: Interchange) -> None:
        """A box right below what it reads at the same site, or in a slot of its own."""
        column, lane = self.sites.index(edit.site), self.lane(edit.run)
        above = [c for c in edit.needs() if c.run != edit.run and c.site == edit.site and not self.circle_of(c)]
        slot = self.take(column, [lane, *(self.lane(collect.run) for collect in above)])
        self.items.append(Item(edit, name, column, lane, slot))
        for collect in above:
            self.add_circle(collect, slot=slot)

    def widths(self, column: int) -> list[float]:
        """Inches of each slot of a site."""
        here = [item for item in self.items if item.column == column]
        widths = [SLIM] * (1 + max(item.slot for item in here))
        for item in here:
            widths[item.slot] = max(widths[item.slot], self.needed(item))
        return widths

    def needed(self, item: Item) -> float:
        """Inches that an item takes."""
        if isinstance(item.node, Interchange):
            return TURNED if self.crowded else WIDE
        return LETTER * max(map(len, circle_text(item).split("\n"))) + 0.12

    def span(self, column: int) -> tuple[float, float]:
        """Left and right end of a site, in inches."""
        left = 0.1
        for before in range(column):
            left = self.span_width(before) + left + GAP
        return left, left + self.span_width(column)

    def span_width(self, column: int) -> float:
        """Room for the slots and for the name below."""
        longest = max(map(len, site_names(self.sites)[0][column].split("\n")))
        return max(sum(self.widths(column)), LETTER * longest)

    def place(self, item: Item) -> tuple[float, float]:
        """The middle of an item, in inches; lanes go downwards."""
        left, right = self.span(item.column)
        widths = self.widths(item.column)
        start = left + (right - left - sum(widths)) / 2 + sum(widths[: item.slot])
        return start + widths[item.slot] / 2, -self.lane_height * item.lane


def lay_out(nodes: Mapping[str, Node], runs: Sequence[str]) -> Layout:
    """Reads of the same run first, then the edits run by run, then the states that are collected after them."""
    layout = Layout(runs, sorted(dict.fromkeys(_sites(nodes)), key=_depth))
    edits = {name: node for name, node in nodes.items() if isinstance(node, Interchange)}
    needs = [(edit, need) for edit in edits.values() for need in edit.needs()]
    for edit, need in needs:
        if need.run == edit.run:
            layout.add_circle(need)
    for name, edit in sorted(edits.items(), key=lambda pair: layout.lane(pair[1].run)):
        layout.add_box(name, edit)
    for _, need in needs:
        layout.add_circle(need)
    for name, node in nodes.items():
        if isinstance(node, Collect):
            layout.add_circle(node, name)
    return layout


def circle_text(item: Item) -> str:
    """The name of a collecting node, and its featurizer where it has one of its own."""
    assert isinstance(item.node, Collect)
    through = "" if item.node.featurizer is None else featurizer_name(item.node.featurizer)
    return "\n".join(filter(None, [item.name, through]))


def site_names(sites: Sequence[Site]) -> tuple[list[str], str]:
    """A name for each site, and what all of them share (said once, below)."""
    if len(sites) > 1 and all(site.layer is not None and site.head is None for site in sites):
        shared = {(site.component, _tokens(site)) for site in sites}
        if len(shared) == 1:
            component, where = shared.pop()
            return [f"layer {site.layer}" for site in sites], f"{component.replace('_', ' ')}, {where}"
    return [_site_name(site) for site in sites], ""


def _site_name(site: Site) -> str:
    if site.path is not None:
        return f"{site.name}\n{_tokens(site)}"
    place = "" if site.layer is None else f"layer {site.layer}" + ("" if site.head is None else f", head {site.head}")
    return "\n".join(filter(None, [place, site.component.replace("_", " "), _tokens(site)]))


def _tokens(site: Site) -> str:
    return "tokens: " + str(site.where).strip("'")


def _sites(nodes: Mapping[str, Node]) -> Iterator[Site]:
    for node in nodes.values():
        for site in [node.site, *(need.site for need in node.needs())]:
            assert site is not None
            yield site


def _depth(site: Site) -> tuple[float, int, int]:
    """Where the network comes to this site: by layer (or the first number of a path), component, head."""
    if site.path is not None:
        found = re.search(r"\d+", site.path)
        return (float(found[0]) if found else float("inf")), 0, 0
    ends = {"embeddings": -1.0, "final_norm": float("inf")}
    layer = ends.get(site.component, 0.0) if site.layer is None else float(site.layer)
    return layer, IN_ORDER.index(site.component), -1 if site.head is None else site.head


def _same(node: Interchange | Collect, collect: Collect) -> bool:
    """Whether this circle is what the edit reads: same run, site and (the very same) featurizer."""
    if not isinstance(node, Collect):
        return False
    return (node.run, node.site) == (collect.run, collect.site) and node.featurizer is collect.featurizer


def featurizer_name(featurizer: Featurizer) -> str:
    """`Subspace (4)`, `Subspace (4 of 8)` for a slice of a rotation, `Mask of Subspace (64)`."""
    match featurizer:
        case Mask(inner=inner):
            return f"Mask of {featurizer_name(inner)}"
        case Subspace():
            total = featurizer.basis.master.shape[0]
            rows = f"{featurizer.rank}" if total == featurizer.rank else f"{featurizer.rank} of {total}"
            return f"Subspace ({rows})"
    return f"{type(featurizer).__name__} ({featurizer.rank})"
