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
