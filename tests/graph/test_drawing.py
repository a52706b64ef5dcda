"""Drawn graphs: one lane a run, one box an edit, one circle a state, one arrow a read, and nothing on anything else."""

from __future__ import annotations

import os
import subprocess
import sys

import matplotlib.pyplot as plt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import causal_reft as cr
from causal_reft.graph.drawing import source_formula
from causal_reft.graph.layout import Layout, lay_out, site_names
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


def test_a_source_that_differs_by_row_is_named_so():
    class Zeros(RowSource):
        def coordinates(self, h, featurizer, given):
            return torch.zeros(*h.shape[:-1], featurizer.rank)

    ax = cr.InterventionGraph(edit=cr.Interchange(cr.Site(0), cr.Identity(D), Zeros())).draw()
    assert "by row" in texts(ax)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["edit: by row"]


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
