"""Every method of the table, with its options, gives the same logits to the bit when another process loads it; a folder
whose weights are code is refused before any of it runs."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import causal_reft as cr
from causal_reft.errors import StorageError
from causal_reft.graph import load_graph
from tests.damage import sign
from tests.graph.reloaded import DTYPES, logits_of
from tests.models import D_MODEL as D
from tests.models import gpt2

Build = Callable[[cr.Site, int], cr.InterventionGraph]
PRESETS: dict[str, Build] = {
    "zero": cr.zero_ablate,
    "mean": lambda site, d: cr.mean_ablate(site, torch.linspace(-1, 1, d)),
    "noise": lambda site, d: cr.noise_ablate(site, d, 0.7, seed=5),
    "patch": cr.patch,
    "path": lambda site, d: cr.path_patch(site, site, d),
    "das": lambda site, d: cr.das(site, d, 3),
    "boundless": cr.boundless_das,
    "dbm": lambda site, d: cr.dbm(site, cr.Identity(d)),
    "loreft": lambda site, d: cr.loreft(site, d, 3, init="random"),
    "loreft gelu": lambda site, d: cr.loreft(site, d, 3, init="random", activation="gelu"),
    "consreft": lambda site, d: cr.consreft(site, d, 3),
    "lobireft": lambda site, d: cr.lobireft(site, d, 3),
    "direft tanh": lambda site, d: cr.direft(site, d, 3, activation="tanh"),
    "noreft": lambda site, d: cr.noreft(site, d, 3),
    "nodireft": lambda site, d: cr.nodireft(site, d, 3),
    "steer": lambda site, d: cr.steer(site, torch.linspace(-2, 1, d)),
    "steering vector": cr.steering_vector,
    "directions": lambda site, d: cr.ablate_directions(site, torch.linspace(-2, 1, d)[None]),
    "red": cr.red,
    "ia3": cr.ia3,
    "reft_r1": lambda site, d: cr.reft_r1(site, d, k=2),
    "jola": lambda site, d: cr.InterventionGraph(edit=cr.Interchange(site, cr.Identity(d), cr.GatedScale(d))),
}
LAYER = "transformer.h.1.mlp.c_proj"


def options(build: Build) -> Iterator[tuple[str, str, cr.InterventionGraph]]:
    """(dtype of the model, name, graph): a component with dropout and scale, a raw path, a head."""
    plain = build(cr.Site(1, positions="f1+l2"), D)
    nodes = {name: replace(node, dropout=0.3, scale=-0.5) for name, node in plain.edits.items()}
    yield "float32", "component, dropout and scale", cr.InterventionGraph(**nodes)
    by_path = build(cr.Site.at(LAYER, positions="all"), D)
    by_path.modules.double()
    yield "float64", "raw path, masters in float64", by_path
    yield "bfloat16", "head", build(cr.Site(1, "attention_head_output", "last", head=1), D // 2)


def cases() -> Iterator[tuple[str, str, cr.InterventionGraph]]:
    for name, build in PRESETS.items():
        for dtype, option, graph in options(build):
            yield dtype, f"{name}, {option}", graph
    for share in ("positions", "layers", "all", None):
        yield (
            "float32",
            f"shared by {share}",
            cr.loreft(cr.site_grid([0, 1], "f2+l2"), D, 2, init="random", share=share),
        )
    for build in (cr.loreft, cr.direft):
        graph = build(cr.Site(1, positions="f1+l2"), D, 3, activation="relu", init="random")
        yield "float32", f"{build.__name__} with an activation", graph
    yield "float32", "lofit", cr.lofit([(0, 1), (2, 0)], D // 2)
    yield "float32", "lora", cr.lora(cr.Site.at(LAYER), 4 * D, D, rank=2, alpha=5)


def test_another_process_loads_the_same_logits(tmp_path: Path) -> None:
    expected, plain = {}, {}
    for dtype in DTYPES:
        plain[dtype] = logits_of(cr.IntervenedModel(gpt2(dtype=DTYPES[dtype]), cr.InterventionGraph()))
    models = {dtype: gpt2(dtype=DTYPES[dtype]) for dtype in DTYPES}
    generator = torch.Generator().manual_seed(0)
    for dtype, name, graph in cases():
        for parameter in graph.parameters():
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator).to(parameter)
        reft = cr.IntervenedModel(models[dtype], graph).train(False)
        reft.save_pretrained(tmp_path / dtype / name)
        assert load_graph(tmp_path / dtype / name) == graph, name
        expected[f"{dtype}/{name}"] = logits_of(reft)
        assert not torch.equal(expected[f"{dtype}/{name}"], plain[dtype]), f"{name} does nothing"
    command = [sys.executable, "-m", "tests.graph.reloaded", str(tmp_path), str(tmp_path / "logits")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = load_file(tmp_path / "logits")
    assert set(found) == set(expected) and len(found) == 3 * len(PRESETS) + 8
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


class Code:
    """Unpickling this makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.file), "w")


@pytest.mark.parametrize("name", ["weights.safetensors", "base_weights.safetensors"])
def test_weights_that_are_code_are_not_run(name: str, tmp_path: Path) -> None:
    reft = cr.IntervenedModel(gpt2(), cr.loreft(cr.Site(1), D, 2))
    reft.save_pretrained(tmp_path / "x")
    (tmp_path / "x" / name).write_bytes(pickle.dumps(Code(tmp_path / "ran")))
    for signed in (False, True):
        if signed:
            sign(tmp_path / "x")
        if signed or name == "weights.safetensors":  # a file that no digest lists is not read
            with pytest.raises(StorageError, match="damaged" if not signed else "is no safetensors file"):
                cr.IntervenedModel.from_pretrained(tmp_path / "x", gpt2())
    assert not (tmp_path / "ran").exists()
    pickle.loads((tmp_path / "x" / name).read_bytes()).close()
    assert (tmp_path / "ran").exists(), "it would have run"


@pytest.mark.parametrize("name", ["graph.json", "weights.safetensors", "intervened_model.json", "digests.json"])
def test_a_file_that_is_cut_off_is_refused(name: str, tmp_path: Path) -> None:
    cr.IntervenedModel(gpt2(), cr.loreft(cr.Site(1), D, 2)).save_pretrained(tmp_path)
    whole = (tmp_path / name).read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises(StorageError):
            cr.IntervenedModel.from_pretrained(tmp_path, gpt2())
        if name not in ("digests.json", "intervened_model.json"):
            sign(tmp_path)
            if length < len(whole) - 1:
                with pytest.raises(StorageError):
                    load_graph(tmp_path)
