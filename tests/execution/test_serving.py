"""Every row of a batch under another graph gives what single calls give."""

from __future__ import annotations

import runpy
import threading
from copy import deepcopy

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import causal_reft as cr
from causal_reft.errors import FeaturizerError, GraphError, RunError, StorageError
from causal_reft.execution.serving import Served
from causal_reft.featurizers import RowsOfStack
from tests.families import inputs_of, model_of, padded

D = 16


def learned(seed: int, rank: int = 2, **options) -> cr.LearnedSource:
    return cr.LearnedSource(rank, D, init="random", seed=seed, **options)


def graph_of(seed: int) -> cr.InterventionGraph:
    """Sixteen graphs of seven structures, several edits among them."""
    edits = {
        0: {"edit": cr.Interchange(cr.Site(1, positions="last"), cr.Subspace(D, 2, seed=seed), learned(seed))},
        1: {
            "edit": cr.Interchange(
                cr.Site(1, positions="f2+l1"),
                cr.Subspace(D, 3, seed=seed),
                cr.Shift(learned(seed, 3, activation="gelu")),
            )
        },
        2: {
            "edit": cr.Interchange(
                cr.Site(0, "mlp_output", positions="all"), cr.Projection(D, 2, seed=seed), learned(seed)
            )
        },
        3: {
            "edit": cr.Interchange(
                cr.Site(1, positions="last"), cr.Identity(D), cr.Shift(cr.Constant(torch.linspace(-seed, seed, D) / 8))
            )
        },
        4: {
            "one": cr.Interchange(cr.Site(1, positions="last"), cr.Subspace(D, 2, seed=seed), learned(seed)),
            "two": cr.Interchange(
                cr.Site(1, positions="last"), cr.Subspace(D, 4, seed=-seed), cr.LearnedSource(4, D, reads_input=False)
            ),
            "three": cr.Interchange(
                cr.Site(0, positions="last+generated"), cr.Subspace(D, 2, seed=seed + 1), learned(seed + 1, bias=False)
            ),
        },
    }
    return cr.InterventionGraph(**edits[seed % 5])


NAMES = [f"g{i}" for i in range(16)]


@pytest.fixture(scope="module")
def served() -> Served:
    server = Served(model_of("llama"))
    for i, name in enumerate(NAMES):
        server.add(name, graph_of(i))
    return server


def batch(rows: int, side: str = "right") -> tuple[dict, list[torch.Tensor]]:
    draw = torch.Generator().manual_seed(1)
    texts = [torch.randint(2, 40, (int(torch.randint(1, 8, (), generator=draw)),), generator=draw) for _ in range(rows)]
    return padded(texts, side), texts


@pytest.mark.parametrize("side", ["left", "right"])
def test_64_rows_of_16_graphs_are_64_single_calls(served, side):
    inputs, texts = batch(64, side)
    chosen = [(None, *NAMES)[(7 * i) % 17] for i in range(64)]
    logits = served(inputs, graphs=chosen).logits
    for i, (name, text) in enumerate(zip(chosen, texts, strict=True)):
        graph = cr.InterventionGraph() if name is None else served.graphs[name]
        with torch.no_grad():
            alone = cr.IntervenedModel(model_of("llama"), graph)(padded([text], side)).logits[0]
            plain = model_of("llama")(text[None]).logits[0]
        torch.testing.assert_close(logits[i][inputs["attention_mask"][i].bool()], alone, rtol=0, atol=1e-10)
        assert name in (None, "g0") or (alone - plain).abs().max() > 1e-4


@pytest.mark.parametrize("options", [{}, {"num_beams": 2, "num_return_sequences": 2}], ids=str)
def test_generation_by_row(served, options):
    inputs, texts = batch(17, "left")
    chosen = [None, *NAMES]
    together = served.generate(**inputs, graphs=chosen, max_new_tokens=4, do_sample=False, pad_token_id=0, **options)
    each = len(together) // len(chosen)
    for i, name in enumerate(chosen):
        graph = cr.InterventionGraph() if name is None else served.graphs[name]
        alone = cr.IntervenedModel(model_of("llama"), graph).generate(
            **padded([texts[i]], "left"), max_new_tokens=4, do_sample=False, pad_token_id=0, **options
        )
        assert torch.equal(together[i * each : (i + 1) * each, -4:], alone[:, -4:])


@torch.no_grad()
def test_in_single_precision_a_served_batch_is_as_exact_as_the_plain_model():
    """Against the same logits in double precision; a batch and its single rows differ by rounding alone."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_embd=256, n_layer=6, n_head=4, vocab_size=500, bos_token_id=None, eos_token_id=None
    )
    ids, chosen = torch.randint(500, (64, 12)), [NAMES[i % 16] for i in range(64)]
    single = transformers.GPT2LMHeadModel(config).eval()
    graphs = {
        name: cr.loreft([cr.Site(1), cr.Site(4, positions="f4+l4")], 256, 4, seed=i, init="random")
        for i, name in enumerate(NAMES)
    }
    rows = zip(chosen, ids, strict=True)
    alone = torch.cat([cr.IntervenedModel(single, graphs[name])(row[None]).logits for name, row in rows])
    found = {}
    for model in (single, deepcopy(single).double()):
        server = Served(model)
        for name, graph in graphs.items():
            server.add(name, graph)
        found[model.dtype] = model(ids).logits, server(ids, graphs=chosen).logits

    def off(logits: torch.Tensor, wanted: torch.Tensor) -> float:
        return float((logits - wanted).abs().max() / wanted.abs().max())

    (plain, served), (plain_exact, served_exact) = found[torch.float32], found[torch.float64]
    assert off(plain_exact, served_exact) > 1e-3
    assert off(served, alone) < 1e-6
    assert off(served, served_exact) < 1.5 * off(plain, plain_exact)


def test_the_steps_of_a_generation_bind_their_rows_once(monkeypatch):
    calls, lay_out = [], RowsOfStack._lay_out
    monkeypatch.setattr(RowsOfStack, "_lay_out", lambda self: calls.append(len(self.rows_of_tokens)) or lay_out(self))
    server, inputs = Served(model_of("llama")), batch(3)[0]
    server.add("a", cr.loreft(cr.Site(0, positions="last+generated"), D, 2, init="random"))
    counts = []
    for n in (2, 9):
        calls.clear()
        server.generate(**inputs, graphs=["a", None, "a"], max_new_tokens=n, do_sample=False, pad_token_id=0)
        counts.append(list(calls))
    assert counts == [[2, 2], [2, 2]], "once for the prompt and once for all that follows"


def test_graphs_come_and_go_while_the_model_lives():
    server, inputs = Served(model_of("gpt2")), inputs_of("gpt2")
    plain = model_of("gpt2")(**inputs).logits
    assert torch.equal(server(inputs, graphs=[None] * 3).logits, plain)
    server.add("a", graph_of(0))
    first = server(inputs, graphs=["a", None, "a"]).logits
    assert torch.equal(first[1], plain[1])
    assert not torch.equal(first[0], plain[0])
    server.add("b", graph_of(5))
    torch.testing.assert_close(server(inputs, graphs=["a", None, "a"]).logits, first, rtol=0, atol=1e-12)
    server.remove("a")
    with pytest.raises(GraphError, match="No graph called 'a'"):
        server(inputs, graphs=["a", None, "a"])
    assert torch.equal(server(inputs, graphs=[None] * 3).logits, plain)
    assert "1 graph in 1 stack" in repr(server)


def test_a_served_graph_is_a_copy():
    graph, inputs = graph_of(5), inputs_of("gpt2")
    server = Served(model_of("gpt2"))
    server.add("a", graph)
    before = server(inputs, graphs=["a"] * 3).logits
    graph["edit"].source.bias.data += 1
    assert torch.equal(server(inputs, graphs=["a"] * 3).logits, before)


def test_threads_wait_for_each_other(served):
    inputs, _ = batch(4)
    wanted = {name: served(inputs, graphs=[name] * 4).logits for name in NAMES[:4]}
    found = {}

    def call(name: str) -> None:
        for _ in range(3):
            found[name] = served(inputs, graphs=[name] * 4).logits

    threads = [threading.Thread(target=call, args=(name,)) for name in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in wanted:
        assert torch.equal(found[name], wanted[name])


def test_half_precision_models():
    model = deepcopy(model_of("llama")).to(torch.bfloat16)
    server, inputs = Served(model), inputs_of("llama")
    server.add("a", graph_of(1))
    alone = cr.IntervenedModel(model, graph_of(1))(inputs).logits
    assert server(inputs, graphs=["a"] * 3).logits.dtype == torch.bfloat16
    torch.testing.assert_close(server(inputs, graphs=["a"] * 3).logits, alone)


def test_what_cannot_be_served_is_refused():
    server, inputs = Served(model_of("gpt2")), inputs_of("gpt2")
    with pytest.raises(GraphError, match="only edits of the base run"):
        server.add("das", cr.das(cr.Site(1), D, 2))
    with pytest.raises(GraphError, match=r"does not stack"):
        server.add("noise", cr.InterventionGraph(edit=cr.Interchange(cr.Site(1), cr.Identity(D), cr.Noise(1.0))))
    server.add("a", graph_of(0))
    with pytest.raises(GraphError, match="served already"):
        server.add("a", graph_of(0))
    with pytest.raises(GraphError, match=r"No graph called 'b'"):
        server.remove("b")
    with pytest.raises(RunError, match="2 entries for 3 rows"):
        server(inputs, graphs=["a", None])
    with pytest.raises(ValueError, match="layers 0 to 1"):
        server.add("deep", cr.loreft(cr.Site(7), D, 2))
    assert list(server.graphs) == ["a"]


def test_what_stacks_the_graphs_is_not_stored_in_their_place(tmp_path):
    server = Served(model_of("gpt2"))
    server.add("a", graph_of(0))
    with pytest.raises(StorageError, match="is no featurizer that a folder can name"):
        server._intervened.save_pretrained(tmp_path / "a")
    with pytest.raises(FeaturizerError, match="save the graphs themselves"):
        server._intervened.graph["stack_0"].featurizer.config()
    server.graphs["a"].save(tmp_path / "a")


def test_the_streaming_example_runs(shared, repository, capsys, monkeypatch):
    monkeypatch.setenv("CAUSAL_REFT_SHARED", str(shared))
    runpy.run_path(str(repository / "examples" / "serve_stream.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "plain" in printed and "louder" in printed


PLACES = ("last", "all", "f2+l2", -1, 0, "f1")


@given(
    edits=st.lists(
        st.lists(st.tuples(st.sampled_from(PLACES), st.integers(0, 1), st.booleans()), min_size=1, max_size=4),
        min_size=1,
        max_size=4,
    ),
    chosen=st.lists(st.integers(-1, 3), min_size=3, max_size=3),
)
@settings(max_examples=25)
def test_overlapping_edits_keep_the_order_of_their_own_graph(edits, chosen):
    """Whatever the words for their positions are, and in whatever order other graphs have them."""
    model, inputs = model_of("llama"), inputs_of("llama")
    graphs = {}
    for g, graph in enumerate(edits):
        nodes = {}
        for i, (where, layer, shifted) in enumerate(graph):
            source = learned(7 * g + i)
            nodes[f"edit_{i}"] = cr.Interchange(
                cr.Site(layer, positions=where),
                cr.Subspace(D, 2, seed=5 * g + i),
                cr.Shift(source) if shifted else source,
            )
        graphs[f"g{g}"] = cr.InterventionGraph(**nodes)
    server = Served(model)
    for name, graph in graphs.items():
        server.add(name, graph)
    names = [f"g{c}" if 0 <= c < len(graphs) else None for c in chosen]
    found = server(inputs, graphs=names).logits
    for row, name in enumerate(names):
        graph = cr.InterventionGraph() if name is None else graphs[name]
        with torch.no_grad():
            wanted = cr.IntervenedModel(model, graph)(inputs).logits[row]
        torch.testing.assert_close(found[row], wanted, rtol=0, atol=1e-9)
