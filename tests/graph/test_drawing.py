"""Drawn graphs: one lane a run, one box an edit, one circle a state, one arrow a read, and nothing on anything else."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys

import matplotlib.pyplot as plt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Rectangle

import causal_reft as cr
from causal_reft.graph.drawing import source_formula
from causal_reft.graph.layout import Layout, circle_text, featurizer_name, lay_out, site_names
from causal_reft.graph.sources import RowSource

D = 16


def laid_out(graph: cr.InterventionGraph) -> Layout:
    return lay_out(graph.nodes, graph.runs)


def das_graph() -> cr.InterventionGraph:
    return cr.das(cr.Site(8, positions="last"), D, 4)


def loreft_on_four_layers() -> cr.InterventionGraph:
    return cr.loreft(cr.site_grid([3, 9, 18, 24], "f5+l5"), D, 4)


def path_patching() -> cr.InterventionGraph:
    return cr.InterventionGraph(
        sender=cr.Interchange(cr.Site(2), cr.Identity(D), cr.Collect("source"), run="mid"),
        receiver=cr.Interchange(cr.Site(6, component="mlp_output"), cr.Identity(D), cr.Collect("mid")),
        seen=cr.Collect("base", cr.Site(7)),
    )


def two_slices_at_one_site() -> cr.InterventionGraph:
    parts = cr.Subspace(D, 8).split(german=4, instruct=4)
    return cr.InterventionGraph(**{n: cr.Interchange(cr.Site(2), F, cr.LearnedSource(4, D)) for n, F in parts.items()})


def two_sources() -> cr.InterventionGraph:
    parts = cr.Subspace(D, 4).split(left=2, right=2)
    site = cr.Site.at("blocks.0")
    return cr.InterventionGraph(**{n: cr.Interchange(site, F, cr.Collect(f"source_{n}")) for n, F in parts.items()})


def reading_another_site() -> cr.InterventionGraph:
    learned = cr.LearnedSource(2, D, reads=cr.Collect("base", cr.Site(1)), activation="gelu", init="random")
    return cr.InterventionGraph(edit=cr.Interchange(cr.Site(5), cr.Subspace(D, 2), learned))


def crowd() -> cr.InterventionGraph:
    return cr.das(cr.site_grid(range(12), "last"), D, 4)


def watched() -> cr.InterventionGraph:
    return das_graph() + cr.InterventionGraph(seen=cr.Collect("source", cr.Site(8, positions="last")))


GRAPHS = [
    watched,
    das_graph,
    loreft_on_four_layers,
    path_patching,
    two_slices_at_one_site,
    two_sources,
    reading_another_site,
    crowd,
]


def marks(ax, gid: str) -> list:
    return [artist for artist in ax.get_children() if artist.get_gid() == gid]


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts if text.get_text()]


@pytest.mark.parametrize("make", GRAPHS)
def test_one_box_an_edit_one_circle_a_state_one_arrow_a_read(make):
    graph = make()
    ax = graph.draw()
    ax.figure.canvas.draw()
    needs = {(need.run, need.site) for edit in graph.edits.values() for need in edit.needs()}
    assert len(marks(ax, "edit")) == len(graph.edits)
    assert len(marks(ax, "collect")) == len(needs) + len(graph.collects)
    assert len(marks(ax, "read")) == sum(len(edit.needs()) for edit in graph.edits.values())
    assert {*graph, *graph.runs} <= set(texts(ax))


@pytest.mark.parametrize("make", GRAPHS)
def test_nothing_stands_on_anything_else(make):
    ax = make().draw()
    ax.figure.canvas.draw()
    boxes = [mark.get_window_extent() for mark in marks(ax, "edit") + marks(ax, "collect")]
    assert not [1 for i, one in enumerate(boxes) for two in boxes[:i] if one.overlaps(two)]
    labels = [text.get_window_extent() for text in ax.texts if text.get_text()] + [
        t.get_window_extent() for t in ax.get_xticklabels()
    ]
    assert not [1 for i, one in enumerate(labels) for two in labels[:i] if one.overlaps(two)]


def within(inner, outer) -> bool:
    """Whether an extent lies in another one, to a pixel."""
    return outer.x0 - 1 < inner.x0 and outer.y0 - 1 < inner.y0 and inner.x1 < outer.x1 + 1 and inner.y1 < outer.y1 + 1


def middle(extent, axis: int) -> float:
    return (extent.min[axis] + extent.max[axis]) / 2


def long_names() -> cr.InterventionGraph:
    edit = cr.Interchange(
        cr.Site(1, "attention_head_output", head=0), cr.Mask(cr.Subspace(1024, 1024)), cr.Collect("mid")
    )
    seen = cr.Collect("mid", cr.Site(1), cr.Subspace(D, 2))
    return cr.InterventionGraph(an_edit_with_a_name_of_many_words=edit, seen=seen)


@pytest.mark.parametrize("make", [*GRAPHS, long_names])
def test_each_mark_and_text_stands_where_it_belongs(make):
    """Names in their boxes, sources above them, names of states below, runs before their lanes, all inside the axes."""
    graph, layout = make(), laid_out(make())
    ax = graph.draw()
    ax.figure.canvas.draw()
    extent = {text: text.get_window_extent() for text in ax.texts if text.get_text()}
    boxes, circles = ([mark.get_window_extent() for mark in marks(ax, gid)] for gid in ("edit", "collect"))
    axes, places = ax.get_window_extent(), {}
    assert all(within(inner, axes) for inner in [*extent.values(), *boxes, *circles])
    for item, box in zip(layout.boxes, boxes, strict=True):
        named = {text.get_text() for text in extent if within(extent[text], box)}
        assert named == {item.name, featurizer_name(item.node.featurizer)}
        if formula := source_formula(item.node.source):
            above = [
                extent[t] for t in extent if t.get_text() == formula and abs(middle(extent[t], 0) - middle(box, 0)) < 2
            ]
            assert any(0 < label.y0 - box.y1 < box.height for label in above)
        places[item] = box
    for item, circle in zip([i for i in layout.items if i not in layout.boxes], circles, strict=True):
        if circle_text(item):
            below = [e for t, e in extent.items() if t.get_text() == circle_text(item)]
            assert any(
                abs(middle(e, 0) - middle(circle, 0)) < 2 and 0 < circle.y0 - e.y1 < circle.height for e in below
            )
        places[item] = circle
    bands = [p.get_window_extent() for p in ax.patches if isinstance(p, Rectangle)]
    lanes = [p for p in ax.patches if isinstance(p, FancyArrowPatch) and not p.get_gid()]
    assert (len(bands), len(lanes)) == (len(layout.sites), len(graph.runs))
    for band, label in zip(bands, ax.get_xticklabels(), strict=True):
        assert abs(middle(label.get_window_extent(), 0) - middle(band, 0)) < 2
    assert all(one.x1 < two.x0 for one, two in itertools.pairwise(bands))
    for item, place in places.items():
        assert bands[item.column].x0 < place.x0 and place.x1 < bands[item.column].x1
    names = {text.get_text(): extent[text] for text in extent}
    for lane, (run, line) in enumerate(zip(graph.runs, lanes, strict=True)):
        there = line.get_window_extent()
        assert names[run].x1 < bands[0].x0 and there.x0 <= bands[0].x0 and bands[-1].x1 < there.x1
        heights = [middle(e, 1) for e in (names[run], there, *(p for i, p in places.items() if i.lane == lane))]
        assert max(heights) - min(heights) < 3
    for arrow, (edit, need) in zip(
        marks(ax, "read"), [(i, n) for i in layout.boxes for n in i.node.needs()], strict=True
    ):
        path, read = arrow.get_transform().transform_path(arrow.get_path()), places[layout.circle_of(need)]
        start, end = path.vertices[0], path.get_extents()
        assert math.dist(start, (middle(read, 0), middle(read, 1))) < read.width
        assert end.padded(2).overlaps(places[edit].padded(30))
        assert end.y0 > places[edit].y1 - 2 or need.run == edit.node.run


def test_the_text_of_a_drawing_shrinks_with_its_axes():
    def sizes(ax) -> list[float]:
        drawn = [*ax.texts, *ax.get_xticklabels(), *ax.get_legend().get_texts(), *ax.lines]
        return [x.get_markersize() if isinstance(x, Line2D) else x.get_fontsize() for x in drawn]

    full, factors = sizes(watched().draw()), []
    for width in (1, 4, 60):
        ax = plt.subplots(figsize=(width, 3))[1]
        ratios = [small / large for small, large in zip(sizes(watched().draw(ax)), full, strict=True)]
        assert max(ratios) - min(ratios) < 1e-9
        factors.append(ratios[0])
    assert factors == sorted(set(factors)) and factors[-1] == 1


def test_runs_stand_in_the_same_order_in_every_process():
    code = (
        "import causal_reft as cr; F = cr.Identity(4); print(cr.InterventionGraph(**{run: "
        "cr.Interchange(cr.Site(0), F, cr.Collect(run)) for run in ('left', 'right', 'middle')}).runs)"
    )
    orders = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert orders == {"('left', 'middle', 'right', 'base')\n"}


@pytest.mark.parametrize("make", [das_graph, two_sources, path_patching])
def test_an_arrow_goes_straight_down_and_crosses_no_mark(make):
    layout = laid_out(make())
    places = {id(item): layout.place(item) for item in layout.items}
    for box in layout.boxes:
        x, y = places[id(box)]
        (read,) = [layout.circle_of(need) for need in box.node.needs()]
        assert places[id(read)][0] == x and places[id(read)][1] > y
        between = [other for other in places.values() if other[0] == x and y < other[1] < places[id(read)][1]]
        assert not between


def test_sites_go_from_left_to_right_as_the_network_does():
    where = [
        cr.Site(component="final_norm"),
        cr.Site(3),
        cr.Site(10),
        cr.Site(3, component="attention_output"),
        cr.Site(component="embeddings"),
    ]
    layout = laid_out(cr.InterventionGraph(**{f"n{i}": cr.Collect("base", site) for i, site in enumerate(where)}))
    assert layout.sites == [where[4], where[3], where[1], where[2], where[0]]
    lefts = [layout.span(column)[0] for column in range(5)]
    assert lefts == sorted(lefts)


def test_heads_go_by_number_and_paths_by_the_first_number_in_them():
    whole = cr.Site(3, "attention_query")
    heads = [whole.moved(head=1), whole.moved(head=0), whole]
    paths = [cr.Site.at("head"), cr.Site.at("blocks.10"), cr.Site.at("blocks.2")]
    for where in (heads, paths):
        graph = cr.InterventionGraph(**{f"n{i}": cr.Collect("base", site) for i, site in enumerate(where)})
        assert laid_out(graph).sites == where[::-1]
    assert site_names(heads)[0][1] == "layer 3, head 0\nattention query\ntokens: all"
    assert site_names([*paths[:1], cr.Site(component="embeddings", positions="last")]) == (
        ["head\ntokens: all", "embeddings\ntokens: last"],
        "",
    )


def test_reads_come_before_edits_and_collected_nodes_after():
    graph = cr.InterventionGraph(
        seen=cr.Collect("base", cr.Site(2)),
        edit=cr.Interchange(
            cr.Site(2), cr.Subspace(D, 2), cr.LearnedSource(2, D, reads=cr.Collect("base", cr.Site(2)), init="random")
        ),
        more=cr.Interchange(cr.Site(2), cr.Identity(D), cr.Constant(0.0)),
    )
    layout = laid_out(graph)
    assert [item.name for item in sorted(layout.items, key=lambda item: layout.place(item)[0])] == [
        "",
        "edit",
        "more",
        "seen",
    ]


def test_what_two_edits_read_is_drawn_once():
    graph = cr.InterventionGraph(
        a=cr.Interchange(cr.Site(2), cr.Subspace(D, 2), cr.Collect("source")),
        b=cr.Interchange(cr.Site(2), cr.Subspace(D, 2, seed=1), cr.Collect("source")),
    )
    ax = graph.draw()
    assert len(marks(ax, "collect")) == 1 and len(marks(ax, "read")) == 2


def test_boxes_name_their_featurizer_and_the_title_counts():
    ax = two_slices_at_one_site().draw()
    assert texts(ax).count("Subspace (4 of 8)") == 2 and texts(ax).count("W h + b") == 2
    assert ax.get_title(loc="left") == f"2 edits, {8 * D + 2 * (4 * D + 4):,} trainable parameters"
    assert [t.get_text() for t in ax.get_xticklabels()] == ["layer 2\nblock output\ntokens: all"]


def test_what_all_sites_share_is_said_once():
    names, shared = site_names(cr.site_grid([3, 9], "f5+l5"))
    assert names == ["layer 3", "layer 9"] and shared == "block output, tokens: f5+l5"
    names, shared = site_names([cr.Site(3), cr.Site(9, positions="last")])
    assert names == ["layer 3\nblock output\ntokens: all", "layer 9\nblock output\ntokens: last"] and shared == ""


@pytest.mark.parametrize(
    ("source", "formula"),
    [
        (cr.Collect("source"), ""),
        (cr.Constant(0.0), "0"),
        (cr.Constant(torch.ones(D)), "c"),
        (cr.Noise(0.5), "noise 0.5"),
        (cr.Shift(cr.Noise(0.5)), "+ noise 0.5"),
        (cr.Shift(cr.Collect("source")), "+"),
        (cr.LearnedSource(2, D), "W h + b"),
        (cr.LearnedSource(2, D, bias=False), "W h"),
        (cr.LearnedSource(2, D, reads_input=False), "b"),
        (cr.Shift(cr.LearnedSource(2, D, activation="relu")), "+ relu(W h + b)"),
        (cr.LearnedSource(2, D, reads=cr.Collect("base", cr.Site(1)), init="random"), "W s + b"),
        (cr.LearnedScale(2), "s h + b"),
        (cr.LearnedScale(2, bias=False), "s h"),
        (cr.GatedScale(2), "(1 + g m) h + g' a"),
        (cr.Shift(cr.TopLatents(3)), "+ mean of top 3"),
        (cr.PerRow(torch.ones(2, D)), "by row"),
    ],
)
def test_formulas(source, formula):
    assert source_formula(source) == formula


def test_the_legend_explains_what_is_there_and_nothing_else():
    assert [t.get_text() for t in das_graph().draw().get_legend().get_texts()] == [
        "state collected",
        "edit: from another run",
    ]
    assert [t.get_text() for t in loreft_on_four_layers().draw().get_legend().get_texts()] == ["edit: learned"]


def test_a_box_has_the_colour_of_its_kind_in_the_legend():
    F = cr.Identity(D)
    learned = [cr.LearnedSource(D, D), cr.LearnedScale(D), cr.GatedScale(D), cr.Shift(cr.TopLatents(2))]
    of_kind = {
        "from another run": [cr.Shift(cr.Collect("source"))], "learned": learned, "constant": [cr.Constant(0.0)],
        "noise": [cr.Shift(cr.Noise(1.0))], "by row": [cr.PerRow(torch.ones(2, D))],
    }  # fmt: skip
    pairs = [(kind, source) for kind, sources in of_kind.items() for source in sources]
    ax = cr.InterventionGraph(**{f"n{i}": cr.Interchange(cr.Site(i), F, s) for i, (_, s) in enumerate(pairs)}).draw()
    legend = ax.get_legend()
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["state collected", *(f"edit: {kind}" for kind in of_kind)]
    colours = dict(zip(of_kind, [patch.get_facecolor() for patch in legend.get_patches()], strict=True))
    assert [box.get_facecolor() for box in marks(ax, "edit")] == [colours[kind] for kind, _ in pairs]
    assert len(set(colours.values())) == 5


def test_the_heading_counts_edits_and_states():
    assert path_patching().draw().get_title(loc="left") == "2 edits, 1 collected, 0 trainable parameters"


def test_a_source_that_differs_by_row_is_named_so():
    class Zeros(RowSource):
        def coordinates(self, h, featurizer, given):
            return torch.zeros(*h.shape[:-1], featurizer.rank)

    ax = cr.InterventionGraph(edit=cr.Interchange(cr.Site(0), cr.Identity(D), Zeros())).draw()
    assert "by row" in texts(ax)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["edit: by row"]


def test_a_drawing_has_no_frame_and_no_ticks_and_shows_names_as_they_are_written():
    edit = cr.Interchange(cr.Site(1), cr.Identity(D), cr.Shift(cr.Constant(0.0)))
    seen = cr.Collect("base", cr.Site(1, positions="who"))
    ax = cr.InterventionGraph(**{"a$b$": edit, "c$d$": seen}).draw()
    assert not any(spine.get_visible() for spine in ax.spines.values())
    assert {line.get_markersize() for line in ax.get_xticklines()} <= {0.0} and not ax.get_yticks().size
    shown = [*ax.texts, *ax.get_xticklabels(), ax.xaxis.label]
    assert {"a$b$", "c$d$"} <= set(texts(ax)) and not any(text.get_parse_math() for text in shown)


def test_an_empty_graph_is_a_lane():
    ax = cr.InterventionGraph().draw()
    ax.figure.canvas.draw()
    assert texts(ax) == ["base"] and ax.get_legend() is None


def test_given_axes_are_drawn_on():
    figure, ax = plt.subplots(figsize=(3, 2))
    assert two_sources().draw(ax) is ax
    assert plt.get_fignums() == [figure.number]
    smaller = {text.get_fontsize() for text in ax.texts}
    assert max(smaller) < max(text.get_fontsize() for text in two_sources().draw().texts)


@settings(max_examples=20)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(["source", "other", None]), st.sampled_from(["base", "mid"])),
        max_size=10,
    )
)
def test_any_graph_is_drawn_without_overlap(nodes):
    plt.close("all")
    made = {
        f"n{i}": cr.Interchange(
            cr.Site(layer), cr.Identity(D), cr.Constant(0.0) if run is None else cr.Collect(run), run=edited
        )
        for i, (layer, run, edited) in enumerate(nodes)
    }
    ax = cr.InterventionGraph(**made).draw()
    ax.figure.canvas.draw()
    boxes = [mark.get_window_extent() for mark in marks(ax, "edit") + marks(ax, "collect")]
    assert len(marks(ax, "edit")) == len(nodes)
    assert not [1 for i, one in enumerate(boxes) for two in boxes[:i] if one.overlaps(two)]
