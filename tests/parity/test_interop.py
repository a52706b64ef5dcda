"""Folders that pyreft and pyvene saved give the logits that those libraries give, without them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import causal_reft as cr
from causal_reft.errors import StorageError
from causal_reft.interop import load_pyreft
from tests.models import ARCHITECTURES, prompts
from tests.models import D_MODEL as D

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pv = pytest.importorskip("pyvene", reason="the parity extra is not installed")
    pyreft = pytest.importorskip("pyreft", reason="the parity extra is not installed")

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::UserWarning:pyvene")]

KINDS = {
    "Loreft": {}, "Consreft": {}, "Lobireft": {}, "Direft": {}, "Noreft": {"add_bias": True},
    "Nodireft": {"add_bias": True},
}  # fmt: skip


def saved(model: nn.Module, kind: str, folder: Path, component: str = "block_output", **more: Any) -> Any:
    """pyreft's model with two trained-looking interventions, saved."""
    make = getattr(pyreft, f"{kind}Intervention", None) or getattr(pyreft.interventions, f"{kind}Intervention")
    config = pyreft.ReftConfig(
        representations=[
            {
                "layer": layer,
                "component": component if component == "block_output" else component.format(layer),
                "low_rank_dimension": 3,
                "intervention": make(embed_dim=D, low_rank_dimension=3, dtype=torch.float32, **more),
            }
            for layer in (0, 1)
        ]
    )
    theirs = pyreft.get_reft_model(model, config, set_device=False)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in theirs.interventions.named_parameters():
            if "parametrizations" not in name:  # whose diagonal holds signs
                parameter.add_(0.3 * torch.randn_like(parameter))
    theirs.save(str(folder))
    return theirs


def logits_of(theirs: Any, batch: dict[str, Tensor], columns: list[int]) -> Tensor:
    where = [[columns] * len(batch["input_ids"])] * 2
    return theirs(batch, unit_locations={"sources->base": (None, where)})[1].logits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_pyreft_folder_is_the_same_edit(architecture: str, kind: str, tmp_path: Path) -> None:
    model, batch = ARCHITECTURES[architecture]().float(), prompts([5, 5], "none")
    theirs = logits_of(saved(model, kind, tmp_path, **KINDS[kind]), batch, [0, 4])
    graph = load_pyreft(tmp_path, positions="f1+l1")
    plain = model(**batch).logits
    torch.testing.assert_close(cr.IntervenedModel(model, graph)(batch).logits, theirs, rtol=0, atol=2e-5)
    assert (theirs - plain).abs().max() > 1e-2


def untied(model: nn.Module, folder: Path, tied: bool = False) -> Any:
    """pyreft's default: at each layer one intervention for the first tokens and one for the last."""
    representations = [
        {
            "layer": layer,
            "component": "block_output",
            "low_rank_dimension": 3,
            "intervention": pyreft.LoreftIntervention(embed_dim=D, low_rank_dimension=3, dtype=torch.float32),
        }
        for layer in (0, 1) * (1 if tied else 2)
    ]
    theirs = pyreft.get_reft_model(model, pyreft.ReftConfig(representations=representations), set_device=False)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in theirs.interventions.named_parameters():
            if "parametrizations" not in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    theirs.save(str(folder))
    return theirs


def loaded(model: nn.Module, folder: Path) -> Any:
    """A folder in pyreft's format under pyreft, in float32 (its own `load` rounds W and b to bfloat16)."""
    config = json.loads((folder / "config.json").read_text())
    representations = [
        {
            "layer": layer,
            "component": component,
            "low_rank_dimension": rank,
            "intervention": pyreft.LoreftIntervention(embed_dim=D, low_rank_dimension=rank, dtype=torch.float32),
        }
        for layer, component, _, _, rank in (row[:5] for row in config["representations"])
    ]
    theirs = pyreft.get_reft_model(model, pyreft.ReftConfig(representations=representations), set_device=False)
    assert list(theirs.interventions) == config["sorted_keys"]
    for key, intervention in theirs.interventions.items():
        intervention.load_state_dict(torch.load(folder / f"intkey_{key}.bin"))
    return theirs


def as_pyreft_runs(theirs: Any, row: dict[str, Tensor], positions: str, tied: bool, n: int) -> Tensor:
    """The logits of one prompt under the positions that pyreft's own function gives it: one pad token is put before
    the prompt, and positions that a short prompt lacks go there."""
    length = row["input_ids"].shape[1]
    places = pyreft.dataset.get_intervention_locations(
        last_position=length, positions=positions, num_interventions=n, share_weights=tied, pad_mode="first"
    )
    padded = {
        "input_ids": torch.cat([torch.zeros(1, 1, dtype=torch.long), row["input_ids"]], 1),
        "attention_mask": torch.cat([torch.zeros(1, 1, dtype=torch.long), row["attention_mask"]], 1),
        "position_ids": torch.cat([torch.zeros(1, dtype=torch.long), torch.arange(length)])[None],
    }
    where = [[[place + 1 for place in each]] for each in places]
    return theirs(padded, unit_locations={"sources->base": (None, where)})[1].logits[:, 1:]


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("positions", ["f5+l5", "f2+l2", "f1+l3"])
def test_first_and_last_tokens_have_their_own_weights_at_every_length(
    positions: str, tied: bool, tmp_path: Path
) -> None:
    """Also for prompts that are too short for both, of which pyreft leaves out the middle token."""
    model = ARCHITECTURES["llama"]().float()
    theirs = untied(model, tmp_path, tied)
    ours = cr.IntervenedModel(model, load_pyreft(tmp_path, positions=positions))
    for length in (2, 3, 5, 7, 9, 10, 12):
        row = prompts([length], "none", seed=length)
        expected = as_pyreft_runs(theirs, row, positions, tied, 2 if tied else 4)
        torch.testing.assert_close(ours(row).logits, expected, rtol=0, atol=2e-5)
        assert (expected - model(**row).logits).abs().max() > 1e-2


def test_untied_weights_need_both_ends(tmp_path: Path) -> None:
    untied(ARCHITECTURES["llama"]().float(), tmp_path)
    for positions in ("last", "all", "l5", "f2+f3", [0, 1]):
        with pytest.raises(StorageError, match=r"positions='f5\+l5'"):
            load_pyreft(tmp_path, positions=positions)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_graph_goes_to_pyreft_and_back(tied: bool, tmp_path: Path) -> None:
    model = ARCHITECTURES["llama"]().float()
    theirs = untied(model, tmp_path / "theirs", tied)
    graph = load_pyreft(tmp_path / "theirs", positions="f2+l2")
    cr.save_pyreft(graph, tmp_path / "ours")
    for file in sorted((tmp_path / "theirs").glob("*.bin")):
        one, two = torch.load(file), torch.load(tmp_path / "ours" / file.name)
        assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    assert load_pyreft(tmp_path / "ours", positions="f2+l2") == graph
    read = pyreft.ReftModel.load(str(tmp_path / "ours"), model)
    assert list(read.interventions) == list(theirs.interventions), "pyreft's own reader takes it"
    again = loaded(model, tmp_path / "ours")
    row = prompts([7], "none")
    args = (row, "f2+l2", tied, 2 if tied else 4)
    torch.testing.assert_close(as_pyreft_runs(again, *args), as_pyreft_runs(theirs, *args), rtol=0, atol=1e-6)


def test_a_graph_trained_here_is_the_same_edit_in_pyreft(tmp_path: Path) -> None:
    model = ARCHITECTURES["llama"]().float()
    graph = cr.loreft([cr.Site(0, positions="f2+l2"), cr.Site.at("model.layers.1.mlp", positions="f2+l2")], D, 3)
    with torch.no_grad():
        for parameter in graph.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    cr.save_pyreft(graph, tmp_path / "x")
    theirs, row = loaded(model, tmp_path / "x"), prompts([7], "none")
    expected = cr.IntervenedModel(model, graph).eval()(row).logits
    torch.testing.assert_close(as_pyreft_runs(theirs, row, "f2+l2", True, 2), expected, rtol=0, atol=2e-5)
    back = cr.IntervenedModel(model, load_pyreft(tmp_path / "x", positions="f2+l2")).eval()
    torch.testing.assert_close(back(row).logits, expected, rtol=0, atol=1e-5)


def test_only_loreft_goes_to_pyreft(tmp_path: Path) -> None:
    for graph in (cr.das(cr.Site(0), D, 2), cr.consreft(cr.Site(0), D, 2), cr.loreft(cr.Site(0), D, 2).scaled(2)):
        with pytest.raises(StorageError, match="is no LoReFT edit"):
            cr.save_pyreft(graph, tmp_path / "x")
    with pytest.raises(StorageError, match="does not mean the same in pyreft"):
        cr.save_pyreft(cr.loreft(cr.Site(0, "mlp_input"), D, 2), tmp_path / "x")
    assert not (tmp_path / "x").exists()
    cr.save_pyreft(cr.loreft(cr.Site(0), D, 2), tmp_path / "x")
    with pytest.raises(StorageError, match="not empty"):
        cr.save_pyreft(cr.loreft(cr.Site(0), D, 2), tmp_path / "x")


def test_activations_and_paths(tmp_path: Path) -> None:
    """What the folder does not hold is said; sites may be paths."""
    model, batch = ARCHITECTURES["llama"]().float(), prompts([4, 4], "none")
    found = saved(model, "Loreft", tmp_path, component="model.layers[{}].mlp.output", act_fn="relu")
    graph = load_pyreft(tmp_path, positions="last", activation="relu")
    assert graph["edit_1"].site.path == "model.layers.1.mlp"
    theirs = logits_of(found, batch, [3])
    torch.testing.assert_close(cr.IntervenedModel(model, graph)(batch).logits, theirs, rtol=0, atol=2e-5)


def test_a_pyvene_das_folder_is_the_same_interchange(tmp_path: Path) -> None:
    model, base, source = ARCHITECTURES["llama"]().float(), prompts([4, 4], "none"), prompts([4, 4], "none", seed=1)
    config = pv.IntervenableConfig(
        representations=[pv.RepresentationConfig(1, "block_output", "pos", 1, low_rank_dimension=3)],
        intervention_types=pv.LowRankRotatedSpaceIntervention,
    )
    theirs = pv.IntervenableModel(config, model)
    theirs.save(str(tmp_path))
    where = {"sources->base": ([[[3]] * 2], [[[3]] * 2])}
    wanted = theirs(base, [source], where)[1].logits
    got = cr.IntervenedModel(model, load_pyreft(tmp_path))(base, source=source).logits
    torch.testing.assert_close(got, wanted, rtol=0, atol=2e-5)


def test_what_has_no_equal_is_refused(tmp_path: Path) -> None:
    model = ARCHITECTURES["llama"]().float()
    with pytest.raises(StorageError, match=r"no config\.json"):
        load_pyreft(tmp_path / "nowhere")
    saved(model, "Noreft", tmp_path, add_bias=True)
    with pytest.raises(StorageError, match="add_bias=True and an activation"):
        load_pyreft(tmp_path, activation="relu")
    config = json.loads((tmp_path / "config.json").read_text())
    config["intervention_types"][0] = "<class 'pyvene.BoundlessRotatedSpaceIntervention'>"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(StorageError, match="BoundlessRotatedSpaceIntervention has no equal"):
        load_pyreft(tmp_path)
    config["representations"][0][1] = "mlp_activation"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(StorageError, match="missing"):
        load_pyreft(tmp_path)
