"""Folders that are damaged, mixed, half written or malicious are refused with an error of the library, before anything
is allocated or run; whatever loads is what the files say."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from errno import ENOSPC
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import causal_reft as cr
from causal_reft.errors import CausalReftError, StorageError
from causal_reft.graph import fields, graph_to_data, load_graph
from causal_reft.graph import folder as folders
from causal_reft.graph.fields import Field, checked, maybe, number, one_of, whole
from causal_reft.graph.from_data import INTERCHANGE, SITE, SOURCES, nodes_from_data
from tests.corruption import corrupted
from tests.damage import rewrite, sign
from tests.graph.saved import rich
from tests.models import D_MODEL as D
from tests.models import gpt2

Data = dict[str, Any]


def test_no_flipped_bit_is_silent_or_raw(tmp_path: Path) -> None:
    """`python -m tests.corruption` does the same with 2,000 flips a file."""
    for name, found in corrupted(60, 1, tmp_path).items():
        assert found == {"refused": 60, "silent": 0, "raw": 0}, name


def test_a_mixture_of_two_graphs_is_refused(tmp_path: Path) -> None:
    one, two = cr.loreft(cr.Site(1), D, 2, seed=1), cr.loreft(cr.Site(1), D, 2, seed=2)
    one.save(tmp_path / "one")
    two.save(tmp_path / "two")
    shutil.copy(tmp_path / "two" / "weights.safetensors", tmp_path / "one")
    with pytest.raises(StorageError, match=r"weights\.safetensors is damaged, was edited, or comes from another"):
        load_graph(tmp_path / "one")
    (tmp_path / "two" / "digests.json").unlink()
    with pytest.raises(StorageError, match=r"holds no digests\.json"):
        load_graph(tmp_path / "two")


@pytest.mark.parametrize("step", range(1, 12))
def test_an_error_at_any_step_of_an_overwrite_leaves_one_of_the_two_graphs(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = cr.loreft(cr.Site(1), D, 2, seed=1), cr.loreft(cr.Site(0), D, 3, seed=2)
    old.save(tmp_path / "x")
    calls = 0

    def failing(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: Any, **keywords: Any) -> object:
            nonlocal calls
            calls += 1
            if calls == step:
                raise OSError(ENOSPC, "No space left on device")
            return real(*args, **keywords)

        return call

    for owner, name in ((os, "replace"), (os, "fsync"), (shutil, "copyfile")):
        monkeypatch.setattr(owner, name, failing(getattr(owner, name)))
    failed = False
    try:
        new.save(tmp_path / "x", overwrite=True)
    except StorageError as error:
        failed = "cannot be written: No space left on device. It holds what it held" in str(error)
    monkeypatch.undo()
    assert failed == (step <= 11), "3 files flushed, 1 commit, 2 steps for each of 3 files, 1 at the end"
    assert load_graph(tmp_path / "x") == (old if step <= 4 else new)
    old.save(tmp_path / "x", overwrite=True)
    assert load_graph(tmp_path / "x") == old
    assert sorted(file.name for file in (tmp_path / "x").iterdir()) == [
        "digests.json",
        "graph.json",
        "weights.safetensors",
    ]


WRITER = """
import sys, causal_reft as cr
for _ in range(60):
    cr.loreft(cr.Site(int(sys.argv[2])), 16, 2, seed=int(sys.argv[2])).save(sys.argv[1], overwrite=True)
"""


def test_two_writers_and_a_reader_never_meet_in_a_mixture(tmp_path: Path) -> None:
    graphs = [cr.loreft(cr.Site(number), D, 2, seed=number) for number in (1, 2)]
    graphs[0].save(tmp_path / "x")
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "x"), str(n)]) for n in (1, 2)]
    loads = 0
    while any(writer.poll() is None for writer in writers):
        assert load_graph(tmp_path / "x") in graphs
        loads += 1
    assert [writer.returncode for writer in writers] == [0, 0] and loads > 20


def test_a_killed_writer_leaves_a_folder_that_loads(tmp_path: Path) -> None:
    graphs = [cr.loreft(cr.Site(number), D, 2, seed=number) for number in (1, 2)]
    graphs[1].save(tmp_path / "x")
    for delay in (0.0, 0.003, 0.007, 0.02):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "x"), "1"])
        while load_graph(tmp_path / "x") == graphs[1] and writer.poll() is None:
            pass
        time.sleep(delay)
        writer.kill()
        writer.wait()
        assert load_graph(tmp_path / "x") == graphs[0]
        graphs[1].save(tmp_path / "x", overwrite=True)
        assert load_graph(tmp_path / "x") == graphs[1]


def module(data: Data, kind: str) -> Data:
    return next(entry for entry in data["modules"].values() if entry["kind"] == kind)


def config(kind: str, **changes: object) -> Callable[[Data, dict[str, Tensor]], object]:
    return lambda data, tensors: module(data, kind)["config"].update(changes)


def node(name: str, **changes: object) -> Callable[[Data, dict[str, Tensor]], object]:
    return lambda data, tensors: data["nodes"][name].update(changes)


def site(name: str, **changes: object) -> Callable[[Data, dict[str, Tensor]], object]:
    return lambda data, tensors: data["nodes"][name]["site"].update(changes)


def spoilt(end: str, value: float) -> Callable[[Data, dict[str, Tensor]], object]:
    def act(data: Data, tensors: dict[str, Tensor]) -> None:
        tensors[next(name for name in tensors if name.endswith(end))].fill_(value)

    return act


def mask_in_itself(data: Data, tensors: dict[str, Tensor]) -> None:
    name = next(name for name, entry in data["modules"].items() if entry["kind"] == "Mask")
    data["modules"][name]["config"]["inner"] = name


def masks_in_masks(data: Data, tensors: dict[str, Tensor]) -> None:
    name, mask = next((name, entry) for name, entry in data["modules"].items() if entry["kind"] == "Mask")
    inner = mask["config"]["inner"]
    for depth in range(2000):
        data["modules"][f"deep{depth}"] = {**mask, "config": {**mask["config"], "inner": inner}}
        tensors[f"deep{depth}.logits"] = tensors[f"{name}.logits"].clone()
        inner = f"deep{depth}"
    mask["config"]["inner"] = inner


def swapped_kinds(data: Data, tensors: dict[str, Tensor]) -> None:
    b = data["nodes"]["b"]
    b["featurizer"], b["source"]["module"] = b["source"]["module"], b["featurizer"]


MALICIOUS: dict[str, tuple[Callable[[Data, dict[str, Tensor]], object], str]] = {
    "a rank of a billion": (config("LearnedSource", rank=10**9), "has shape"),
    "a width of a billion": (config("Projection", d_model=10**9), "has shape"),
    "a rank of a billion beyond JSON": (config("LearnedSource", rank=10**30), "rank is 1000.*whole number"),
    "a mask that contains itself": (mask_in_itself, "contains itself"),
    "two thousand masks": (masks_in_masks, "more than 8 deep"),
    "no temperature": (config("Mask", temperature=0), "temperature is 0; allowed: a positive number"),
    "a temperature in words": (config("Mask", temperature="hot"), "temperature is 'hot'"),
    "a seed with a fraction": (config("LearnedSource", seed=1.5), r"seed is 1\.5; allowed: a whole number"),
    "a seed that is true": (config("LearnedSource", seed=True), "seed is True"),
    "a head in words": (site("f", head="1"), "head is '1'"),
    "a layer with a fraction": (site("a", layer=1.0), r"layer is 1\.0"),
    "a layer below the first": (site("a", layer=-1), "layer is -1"),
    "positions as a number": (site("a", positions=3), "positions is 3"),
    "positions of true": (site("a", positions=[True]), r"positions is \[True\]"),
    "a slice of letters": (site("a", positions={"slice": "abc"}), "positions is"),
    "a slice that does not move": (site("a", positions={"slice": [0, 3, 0]}), "positions is"),
    "a position of five thousand digits": (site("a", positions="9" * 5000), "positions is"),
    "a dropout of 1": (node("a", dropout=1), r"dropout is 1; allowed: a probability in \[0, 1\)"),
    "a dropout that is false": (node("a", dropout=False), "dropout is False"),
    "a scale in words": (node("a", scale="1"), "scale is '1'"),
    "a run that is no name": (node("a", run="not a name"), "must be an identifier"),
    "a run that is a list": (node("a", run=["base"]), "run is"),
    "a featurizer that is a number": (node("a", featurizer=7), "featurizer is 7"),
    "a source that is a word": (node("a", source="Collect"), "source is 'Collect'"),
    "a node that is a word": (lambda d, t: d["nodes"].update(z="Collect"), "source of kind None"),
    "a node called self": (lambda d, t: d["nodes"].update(self=d["nodes"]["seen"]), "cannot be"),
    "nodes that are a list": (lambda d, t: d.update(nodes=[]), r"nodes is \[\]; allowed: an object"),
    "a module that is a list": (lambda d, t: d["modules"].update(featurizer99=[]), "another way"),
    "a module that nothing names": (
        lambda d, t: d["modules"].update(x={"kind": "Identity", "config": {"d_model": 4}, "trainable": {}}),
        "another way",
    ),
    "a source as a featurizer": (swapped_kinds, "is a LearnedSource, not a Featurizer"),
    "a shift of a shift": (
        lambda d, t: d["nodes"]["e"]["source"].update(source={"kind": "Shift", "source": {"kind": "Noise"}}),
        "source of kind 'Shift'",
    ),
    "a negative noise": (lambda d, t: d["nodes"]["e"]["source"]["source"].update(std=-1), "std is -1"),
    "trainable in words": (lambda d, t: module(d, "Rotation")["trainable"].update(master="yes"), "master is 'yes'"),
    "a schema in words": (lambda d, t: d.update(schema="2"), "has schema '2'"),
    "a document that is a list": (lambda d, t: d.clear(), "has schema None"),
    "a class path": (lambda d, t: module(d, "Projection").update(kind="os.system"), r"unknown kind 'os\.system'"),
    "a rotation of NaN": (spoilt(".master", math.nan), "NaN or infinity"),
    "a rotation of zeros": (spoilt(".master", 0.0), "no row of zeros"),
    "a constant of NaN": (spoilt("constant0", math.nan), "NaN or infinity") ,
    "a bias of infinity": (spoilt(".bias", math.inf), "NaN or infinity"),
    "weights that are whole numbers": (
        lambda d, t: t.update({name: x.long() for name, x in t.items() if name.endswith(".bias")}),
        "int64",
    ),
}  # fmt: skip


FIELDS: tuple[tuple[Field, list[object], list[object]], ...] = (
    (whole(), [-(2**53), 2**53], [-(2**53) - 1, 2**53 + 1]),
    (whole(0), [0, 2**53], [-1, True, 1.0, "1", None]),
    (fields.SIZE, [1], [0]),
    (fields.SEED, [-(2**63), 2**64], [-(2**63) - 1, 2**64 + 1, 1.0, True]),
    (number("", lambda value: value >= 0), [0, 0.5, 1e299], [-1e-9, 1e301, math.inf, math.nan, True, "0"]),
    (one_of(None, "relu"), [None, "relu"], ["", 0]),
    (one_of(1), [1], [True, 1.0]),
    (maybe(fields.SIZE), [None, 1], [0]),
    (fields.TEXT, [""], [1]),
    (fields.FLAG, [True, False], [0, None]),
    (fields.RECORD, [{}], [[]]),
    (fields.NAMES, [[], ["a"]], [["a", 1], "a", ("a",)]),
    (fields.SLICE, [[0, 1]], [[0], [0, 1, 2], [-1, 0], (0, 1), [0, True]]),
    (SITE["layer"], [None, 0], [-1]),
    (SITE["head"], [None, 0], [-1]),
    (SITE["positions"], ["last", "f5+l5", "9" * 9, [0, -1], [2**31], {"slice": [None, 3, -1]}], [
        "9" * 10, "f" * 10_000, [], [True], [2**31 + 1], [-(2**31) - 1], (0,), {"slice": [0, 1]}, {"slice": [0, 1, 0]},
        {"slice": [0, 1, 2, 3]}, {"slice": (0, 1, 2)}, {"slices": [0, 1, 2]}, {"slice": [0, "1", 2]},
    ]),
    (INTERCHANGE["dropout"], [0, 0.5], [1, -0.1]),
    (SOURCES["Noise"]["std"], [0, 1.5], [-1]),
)  # fmt: skip


@pytest.mark.parametrize(("field", "taken", "refused"), FIELDS)
def test_a_field_takes_what_its_words_say_up_to_the_ends(
    field: Field, taken: list[object], refused: list[object]
) -> None:
    assert [value for value in taken if not field.accepts(value)] == []
    assert [value for value in refused if field.accepts(value)] == []


def test_a_field_says_in_words_what_it_takes() -> None:
    said = [field.allowed for field in (whole(), whole(3), maybe(fields.SIZE), one_of(None, "a"))]
    assert said == [
        "a whole number", "a whole number of at least 3", "a whole number of at least 1, or null", "None, 'a'",
    ]  # fmt: skip
    with pytest.raises(StorageError, match=r"x is 'a{56}\.\.\.; allowed: true or false\.$"):
        checked({"x": "a" * 99}, {"x": fields.FLAG}, "here")
    with pytest.raises(StorageError, match=r"here is \[\], but must be an object with the fields x, y\.$"):
        checked([], {"x": fields.FLAG, "y": fields.FLAG}, "here")


def test_rows_and_features_that_do_not_fit_the_rest_are_refused(tmp_path: Path) -> None:
    inside = cr.Subspace.within(torch.eye(4, D), 2)
    top = cr.Autoencoder(torch.ones(D, 5), torch.ones(5, D), activation="topk", k=5)
    cr.InterventionGraph(
        a=cr.Interchange(cr.Site(1), inside, cr.Collect("source")), b=cr.Interchange(cr.Site(1), top, cr.Constant(0.0))
    ).save(tmp_path)
    assert len(load_graph(tmp_path)) == 2
    key = next(name for name in load_file(tmp_path / "weights.safetensors") if name.endswith(".within"))
    for wrong in (torch.eye(3, D), torch.eye(4, 3), torch.ones(4)):
        with pytest.raises(StorageError, match=r"within, of shape .* it needs 4 rows of at least that width"):
            damaged(tmp_path, lambda data, tensors, rows=wrong: tensors.update({key: rows}))
    with pytest.raises(StorageError, match="keeps k=6 of 5 features"):
        damaged(tmp_path, config("Autoencoder", k=6))


def damaged(folder: Path, act: Callable[[Data, dict[str, Tensor]], object]) -> cr.InterventionGraph:
    """What a copy of a folder with a change is loaded as."""
    copied = folder.with_name(f"{folder.name} copied")
    shutil.copytree(folder, copied, dirs_exist_ok=True)
    rewrite(copied, act)
    return load_graph(copied)


@pytest.mark.parametrize("case", MALICIOUS)
def test_a_malicious_folder_is_refused_with_the_reason(case: str, tmp_path: Path) -> None:
    rich().save(tmp_path)
    act, said = MALICIOUS[case]
    if case == "a constant of NaN":
        data = graph_to_data(rich())[0]
        name = data["nodes"]["f"]["source"]["tensor"]
        act = spoilt(name, math.nan)
    rewrite(tmp_path, act)
    with pytest.raises(StorageError, match=said):
        load_graph(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[" * 100_000, "is no JSON"),
        ('{"schema": 2, "schema": 2}', "a key appears twice"),
        ('{"schema": NaN}', "NaN is no number"),
        ("7", "has schema None"),
        ("", "is no JSON"),
        ('{"schema": ' + "9" * 5000 + "}", "is no JSON"),
    ],
    ids=["deep", "twice", "NaN", "a number", "empty", "a number of five thousand digits"],
)
def test_a_document_that_is_none_is_refused(content: str, said: str, tmp_path: Path) -> None:
    rich().save(tmp_path)
    (tmp_path / "graph.json").write_text(content)
    sign(tmp_path)
    with pytest.raises(StorageError, match=said):
        load_graph(tmp_path)


def test_digests_name_files_of_the_folder_only(tmp_path: Path) -> None:
    cr.das(cr.Site(1), D, 2).save(tmp_path / "x")
    for file in (tmp_path / "secret", tmp_path / "x" / ".secret"):
        file.write_text("s")
    of_secret = hashlib.sha256(b"s").hexdigest()
    for name in ("../secret", ".secret"):
        (tmp_path / "x" / "digests.json").write_bytes(folders.as_json({name: of_secret}, "digests.json"))
        with pytest.raises(StorageError, match="is not a list of files and their digests"):
            load_graph(tmp_path / "x")
    for digests in ({".new": "0"}, [], {"graph.json": 7}, {"nowhere": "0"}):
        (tmp_path / "x" / "digests.json").write_text(json.dumps(digests))
        with pytest.raises(StorageError):
            load_graph(tmp_path / "x")


def test_a_description_of_another_type_is_refused(tmp_path: Path) -> None:
    model = gpt2()
    cr.IntervenedModel(model, rich()).save_pretrained(tmp_path)
    for text in ("[]", '{"class": 3}', '{"hidden_size": "16"}', '{"import": "os"}', "\xff"):
        (tmp_path / "intervened_model.json").write_text(text, encoding="latin-1")
        sign(tmp_path)
        with pytest.raises(StorageError):
            cr.IntervenedModel.from_pretrained(tmp_path, model)


VALUES: tuple[object, ...] = (
    None, True, False, 0, 1, -1, 2, 1.0, 0.5, 1.5, -0.5, 1e-9, 10**9, 10**30, 1e308, "", "1", "base", "last", "relu",
    "Subspace", "featurizer0", "source", [], [0], [0, 1], [1, 0], ["a"], {}, {"slice": [0, 1, 1]}, {"kind": "Collect"},
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to every value inside a document."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in entries for place in places(inner, (*path, key)))]


def mutated(data: Data, stream: random.Random) -> Data:
    """The document with one value replaced, removed, or moved to another name."""
    changed = copy.deepcopy(data)
    *path, last = stream.choice(places(changed)[1:])
    parent = changed
    for key in path:
        parent = parent[key]
    action = stream.random()
    if action < 0.8:
        others = [stream.choice(VALUES), copy.deepcopy(stream.choice([data["nodes"], data["modules"]]))]
        parent[last] = others[0] if action < 0.75 else others[1]
    elif action < 0.9:
        del parent[last]
    elif isinstance(parent, dict):
        parent[stream.choice([str(value) for value in VALUES])] = parent.pop(last)
    return changed


@pytest.mark.parametrize("seed", range(4))
def test_a_document_with_a_random_change_is_refused_or_loads_as_what_it_says(seed: int) -> None:
    (data, tensors), stream, loaded = graph_to_data(rich()), random.Random(seed), 0
    for _ in range(400):
        changed = mutated(data, stream)
        try:
            again = nodes_from_data(copy.deepcopy(changed), tensors)
            graph = cr.InterventionGraph(**again)
        except CausalReftError:
            continue
        written, stored = graph_to_data(graph)
        assert written == changed
        assert all(torch.equal(tensors[name], tensor) for name, tensor in stored.items())
        loaded += 1
    assert 0 < loaded < 300


def test_what_cannot_be_loaded_is_not_saved(tmp_path: Path) -> None:
    graph = cr.loreft(cr.Site(1), D, 2)
    graph["edit"].source.bias.data[0] = math.nan
    with pytest.raises(StorageError, match=r"bias holds NaN or infinity"):
        graph.save(tmp_path / "x")
    masked = cr.boundless_das(cr.Site(1), D)
    masked["edit"].featurizer.temperature = math.inf
    with pytest.raises(StorageError, match=r"graph\.json cannot hold these settings"):
        masked.save(tmp_path / "x")
    assert not (tmp_path / "x").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="is a file"):
        cr.das(cr.Site(1), D, 2).save(tmp_path / "file")


def test_a_folder_of_the_first_schema_is_read() -> None:
    """Its learned sources call their bias offset; written by the version that had this schema, with its numbers."""
    folder = Path(__file__).parent / "schema_1"
    assert '"offset"' in (folder / "graph" / "graph.json").read_text()
    graph, expected = load_graph(folder / "graph"), json.loads((folder / "coordinates.json").read_text())
    assert list(graph.nodes) == ["german", "shift", "patch", "seen"] and graph["german"].dropout == 0.25
    assert graph["german"].featurizer.basis is graph["shift"].featurizer.basis and graph["german"].scale == 1
    h = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(3, 8)
    for name, learned in (("german", graph["german"].source), ("shift", graph["shift"].source.source)):
        linear = (h @ learned.weight.double().T + learned.bias.double()).detach()
        z = torch.nn.functional.gelu(linear) if name == "german" else linear
        torch.testing.assert_close(z, torch.tensor(expected[name], dtype=torch.float64), rtol=0, atol=1e-15)


def test_a_folder_of_the_first_schema_is_written_in_this_one(tmp_path: Path) -> None:
    graph = load_graph(Path(__file__).parent / "schema_1" / "graph")
    graph.save(tmp_path)
    assert load_graph(tmp_path) == graph and (tmp_path / folders.DIGESTS).is_file()
    assert '"offset"' not in (tmp_path / "graph.json").read_text()
