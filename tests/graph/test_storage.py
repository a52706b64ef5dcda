"""Graphs on disk: lossless to the bit, shared parts stay shared, nothing is overwritten, nothing unknown is ignored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import causal_reft as cr
from causal_reft.errors import StorageError
from causal_reft.graph import RowSource, graph_to_data, kinds, load_graph
from causal_reft.graph.to_data import SCHEMA
from tests.damage import rewrite, sign
from tests.graph.saved import rich, weights
from tests.laws.methods import METHODS
from tests.models import D_MODEL as D
from tests.models import gpt2, prompts


def tensors_of(graph: cr.InterventionGraph) -> dict[str, Tensor]:
    return graph_to_data(graph)[1]


def test_everything_comes_back_to_the_bit(tmp_path: Path) -> None:
    graph = rich()
    graph.save(str(tmp_path))
    again = load_graph(tmp_path)
    assert again == graph and repr(again) == repr(graph) and again.runs == graph.runs
    for name, tensor in tensors_of(graph).items():
        assert tensors_of(again)[name].dtype == tensor.dtype
    trainable = [[p.requires_grad for p in g.parameters()] for g in (graph, again)]
    assert trainable[0] == trainable[1] and {True, False} == set(trainable[0])
    again.save(str(tmp_path / "twice"))
    assert (tmp_path / "twice" / "graph.json").read_bytes() == (tmp_path / "graph.json").read_bytes()
    assert (tmp_path / "twice" / "weights.safetensors").read_bytes() == (tmp_path / "weights.safetensors").read_bytes()


def test_the_folder_holds_three_files_and_the_rotation_itself(tmp_path: Path) -> None:
    cr.loreft(cr.Site(1), D, 3).save(str(tmp_path / "new" / "folder"))
    assert sorted(file.name for file in (tmp_path / "new" / "folder").iterdir()) == [
        "digests.json",
        "graph.json",
        "weights.safetensors",
    ]
    stored = load_file(tmp_path / "new" / "folder" / "weights.safetensors")
    assert sorted(tuple(t.shape) for t in stored.values()) == [(3,), (3, D), (3, D)]


def test_shared_parts_stay_shared(tmp_path: Path) -> None:
    R, learned = cr.Subspace(D, 4), cr.LearnedSource(2, D, init="random")
    left, right = R.split(left=2, right=2).values()
    cr.InterventionGraph(
        one=cr.Interchange(cr.Site(0), left, learned),
        two=cr.Interchange(cr.Site(1), right, learned),
        three=cr.Interchange(cr.Site(2), left, cr.Collect("source")),
        seen=cr.Collect("base", cr.Site(2), right),
    ).save(str(tmp_path))
    again = load_graph(tmp_path)
    assert again["one"].featurizer is again["three"].featurizer and again["two"].featurizer is again["seen"].featurizer
    assert again["one"].featurizer.basis is again["two"].featurizer.basis
    assert again["one"].source is again["two"].source
    assert again.n_trainable_parameters == 4 * D + 2 * D + 2


@pytest.mark.parametrize("method", METHODS)
def test_a_loaded_graph_gives_the_same_logits_to_the_bit(method: str, tmp_path: Path) -> None:
    row = METHODS[method](cr.Site(1, positions="f1+l2"))
    model = gpt2()
    model = cr.IntervenedModel(model, row.graph).train(row.training)
    model.save_pretrained(tmp_path)
    again = cr.IntervenedModel.from_pretrained(tmp_path, model.base_model)
    assert not again.training, "as transformers loads"
    base, source = prompts([4, 6], "left", seed=1), prompts([5, 6], "left", seed=2)
    runs = {"source": source} if "source" in row.graph.runs else {}
    assert torch.equal(again.train(row.training)(base, **runs).logits, model(base, **runs).logits)


def test_nothing_is_overwritten_unless_told_and_other_files_stay(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"not empty\. Nothing was written.*overwrite=True"):
        cr.das(cr.Site(1), D, 2).save(str(tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
    cr.das(cr.Site(1), D, 2).save(str(tmp_path), overwrite=True)
    cr.das(cr.Site(2), D, 3).save(str(tmp_path), overwrite=True)
    assert load_graph(tmp_path) == cr.das(cr.Site(2), D, 3)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_failed_save_leaves_nothing(tmp_path: Path) -> None:
    class Mine(cr.Featurizer):
        def __init__(self) -> None:
            super().__init__()
            self.d_model = self.rank = D

        def read(self, h: Tensor) -> Tensor:
            return h

        def write(self, h: Tensor, z: Tensor) -> Tensor:
            return z

        def config(self) -> dict[str, object]:
            return {}

    graph = cr.InterventionGraph(edit=cr.Interchange(cr.Site(1), Mine(), cr.Constant(0.0)))
    with pytest.raises(StorageError, match=r"Register it: register_featurizer\(Mine\)"):
        graph.save(str(tmp_path / "x"))
    assert not list(tmp_path.iterdir())


class Scaled(cr.Featurizer):
    """A featurizer of a user's own: coordinates are h times a learned scale."""

    def __init__(self, d_model: int, note: str) -> None:
        super().__init__()
        self.d_model = self.rank = d_model
        self.note, self.scale = note, nn.Parameter(torch.full((d_model,), 2.0))

    def read(self, h: Tensor) -> Tensor:
        return h * self.scale

    def write(self, h: Tensor, z: Tensor) -> Tensor:
        return (z / self.scale).to(h.dtype)

    def config(self) -> dict[str, object]:
        return {"d_model": self.d_model, "note": self.note}


def test_a_registered_featurizer_is_stored_with_its_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kinds.FEATURIZERS, "Scaled", Scaled)
    cr.register_featurizer(Scaled)
    F = Scaled(D, "mine")
    F.scale.data += weights(D)
    graph = cr.InterventionGraph(edit=cr.Interchange(cr.Site(1), F, cr.Constant(0.0)))
    graph.save(str(tmp_path))
    again = load_graph(tmp_path)["edit"].featurizer
    assert isinstance(again, Scaled) and again.note == "mine" and torch.equal(again.scale, F.scale)


def test_a_class_of_a_users_own_has_no_name_of_the_librarys() -> None:
    cr.register_featurizer(cr.Subspace)
    for name in ("Subspace", "LearnedSource"):
        with pytest.raises(StorageError, match=f"{name} is the name of a kind of the library itself"):
            cr.register_featurizer(type(name, (Scaled,), {}))


Damage = Callable[[dict[str, Any], dict[str, Tensor]], None]


def first(kind: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda data: next(entry for entry in data["modules"].values() if entry["kind"] == kind)


def damages() -> dict[str, tuple[Damage, str]]:
    def key(tensors: dict[str, Tensor], end: str) -> str:
        return next(name for name in tensors if name.endswith(end) or name.startswith(end))

    return {
        "another schema": (
            lambda d, t: d.update(schema=SCHEMA + 1),
            rf"schema {SCHEMA + 1}; this version reads 1 to {SCHEMA}",
        ),
        "unknown field": (lambda d, t: d.update(notes=[]), "unknown field 'notes'.*newer version"),
        "missing field": (lambda d, t: d.pop("nodes"), "lacks the field 'nodes'"),
        "unknown field of a node": (
            lambda d, t: d["nodes"]["b"].update(dropuot=1),
            r"'dropuot'. Did you mean 'dropout'\?",
        ),
        "unknown field of a source": (
            lambda d, t: d["nodes"]["a"]["source"].update(x=1),
            "a Collect in graph.json has an unknown",
        ),
        "unknown field of a site": (
            lambda d, t: d["nodes"]["a"]["site"].update(x=1),
            "a site in graph.json has an unknown",
        ),
        "unknown field of a path": (
            lambda d, t: d["nodes"]["d"]["site"].pop("port"),
            "a site in graph.json lacks the field 'port'",
        ),
        "unknown module setting": (lambda d, t: first("LearnedSource")(d)["config"].update(x=1), "unknown field 'x'"),
        "unknown source": (
            lambda d, t: d["nodes"]["a"]["source"].update(kind="Colect"),
            r"'Colect'. Did you mean 'Collect'\?",
        ),
        "a source as a node": (
            lambda d, t: d["nodes"].update(z={"kind": "Noise", "std": 1.0, "seed": 0}),
            "allowed are Collect",
        ),
        "unknown module": (lambda d, t: first("Subspace")(d).update(kind="os.system"), "unknown kind 'os.system'"),
        "module not described": (
            lambda d, t: d["nodes"]["a"].update(featurizer="featurizer99"),
            "does not describe it",
        ),
        "missing rotation": (lambda d, t: t.pop(key(t, ".master")), "lacks 'rotation.*master'"),
        "missing weight": (lambda d, t: t.pop(key(t, ".bias")), "lacks 'source.*bias'"),
        "missing constant": (lambda d, t: t.pop(key(t, "constant")), "lacks 'constant"),
        "missing features": (lambda d, t: t.pop(key(t, ".decoder")), "lacks 'featurizer.*decoder'"),
        "superfluous tensor": (lambda d, t: t.update(more=torch.zeros(2)), "does not name: more"),
        "another width": (
            lambda d, t: t.update({key(t, ".master"): torch.eye(4, 7)}),
            "rotation.*has 4 rows of width 7",
        ),
        "fewer rows": (lambda d, t: t.update({key(t, ".master"): torch.eye(2, D)}), "rotation.*has 2 rows of width 16"),
        "another shape": (lambda d, t: t.update({key(t, ".bias"): torch.zeros(9)}), r"has shape \(9,\), but.*\(3,\)"),
        "trainable of another kind": (
            lambda d, t: first("Projection")(d)["trainable"].update(bias=True),
            "'trainable'.*'bias'",
        ),
    }


@pytest.mark.parametrize("damage", damages())
def test_a_damaged_folder_is_refused_with_the_reason(damage: str, tmp_path: Path) -> None:
    rich().save(str(tmp_path))
    act, said = damages()[damage]
    rewrite(tmp_path, act)
    with pytest.raises(StorageError, match=said):
        load_graph(tmp_path)


def test_what_lives_for_one_call_is_not_stored(tmp_path: Path) -> None:
    """The stacked edits of served rows."""

    class OfOneCall(RowSource):
        def coordinates(self, h: Tensor, featurizer: cr.Featurizer, given: Any) -> Tensor:
            return featurizer.read(h)

    graph = cr.InterventionGraph(edit=cr.Interchange(cr.Site(0), cr.Subspace(D, 2), OfOneCall()))
    with pytest.raises(StorageError, match="belongs to the rows of one call"):
        graph.save(tmp_path / "served")
    assert not (tmp_path / "served").exists()


def test_missing_and_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"holds no graph\.json"):
        load_graph(tmp_path)
    rich().save(str(tmp_path))
    (tmp_path / "graph.json").write_text('{"schema": 1')
    sign(tmp_path)
    with pytest.raises(StorageError, match="is no JSON"):
        load_graph(tmp_path)
    (tmp_path / "weights.safetensors").unlink()
    sign(tmp_path)
    with pytest.raises(StorageError, match=r"holds no weights\.safetensors"):
        load_graph(tmp_path)


def test_a_base_model_of_another_shape_is_refused(tmp_path: Path) -> None:
    cr.IntervenedModel(gpt2(), cr.das(cr.Site(1), D, 2)).save_pretrained(tmp_path)
    with pytest.raises(StorageError, match="num_hidden_layers=3, but this GPT2LMHeadModel has 2"):
        cr.IntervenedModel.from_pretrained(tmp_path, gpt2(n_layers=2))
    with pytest.raises(StorageError, match=r"does not say which base model.*model=\.\.\."):
        cr.IntervenedModel.from_pretrained(tmp_path)
    with pytest.raises(StorageError, match="is no folder here"):
        cr.IntervenedModel.from_pretrained("./nowhere/at/all", gpt2())


def test_the_base_model_is_found_again_where_it_was(tmp_path: Path) -> None:
    """A recorded base model on disk is loaded with the graph, and never written beside it."""
    gpt2(dtype=torch.float32).save_pretrained(tmp_path / "base")
    from tokenizers import Tokenizer, models
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))).save_pretrained(
        tmp_path / "base"
    )
    model = cr.IntervenedModel(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base"), cr.loreft(cr.Site(1), D, 2, init="random")
    )
    model.eval().save_pretrained(tmp_path / "edit")
    assert sum(file.stat().st_size for file in (tmp_path / "edit").iterdir()) < 10_000
    again = cr.IntervenedModel.from_pretrained(tmp_path / "edit")
    batch = prompts([4, 5], "right")
    assert torch.equal(again(batch).logits, model(batch).logits) and again.tokenizer is not None
