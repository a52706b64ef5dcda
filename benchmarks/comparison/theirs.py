"""The same steps in pyvene 0.1.8 and pyreft 0.0.7, as their own tutorials and trainers write them."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.comparison.setting import Setting
from causal_reft.execution import Examples
from causal_reft.tensors import Tensor

with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
    warnings.simplefilter("ignore")
    import pyreft
    import pyvene


def batch(examples: Examples, run: str, rows: Tensor) -> dict[str, Tensor]:
    """Tokens and mask of some rows."""
    return {key: examples.runs[run][key][rows] for key in ("input_ids", "attention_mask")}


def das_model(model: nn.Module, layer: int, rank: int, rotation: Tensor | None = None):
    """pyvene's DAS at one block's output; with `rotation` its parametrisation is replaced by these plain rows."""
    config = pyvene.IntervenableConfig(
        model_type=type(model),
        representations=[pyvene.RepresentationConfig(layer, "block_output", "pos", 1, low_rank_dimension=rank)],
        intervention_types=pyvene.LowRankRotatedSpaceIntervention,
    )
    intervenable = pyvene.IntervenableModel(config, model)
    intervenable.disable_model_gradients()
    if rotation is not None:
        layer_of = next(iter(intervenable.interventions.values())).rotate_layer
        torch.nn.utils.parametrize.remove_parametrizations(layer_of, "weight")
        layer_of.weight = nn.Parameter(rotation.T.detach().clone())
    return intervenable


def das_loss(intervenable, examples: Examples, rows: Tensor, position: int) -> Tensor:
    """Two full passes and the loss at the last token."""
    where = [[[position]] * len(rows)]
    base, source = batch(examples, "base", rows), batch(examples, "source", rows)
    _, output = intervenable(base, [source], {"sources->base": (where, where)})
    return nn.functional.cross_entropy(output.logits[:, -1], examples.labels[rows])


def das_step(
    model: nn.Module, setting: Setting, layer: int, examples: Examples, rows: Tensor, position: int
) -> Callable[[], None]:
    """One forward and backward of pyvene's DAS."""
    intervenable = das_model(model, layer, setting.rank)

    def step() -> None:
        das_loss(intervenable, examples, rows, position).backward()
        intervenable.zero_grad()

    return step


def loreft_model(model: nn.Module, setting: Setting, rank: int, places: int = 1):
    """pyreft's LoReFT at every block's output; several places of a layer have a subspace each, all layers of the first
    place first."""
    representations = [
        {
            "layer": layer,
            "component": "block_output",
            "low_rank_dimension": rank,
            "intervention": pyreft.LoreftIntervention(
                embed_dim=setting.d_model, low_rank_dimension=rank, dtype=torch.float32
            ),
        }
        for layer in list(range(setting.n_layers)) * places
    ]
    reft = pyreft.get_reft_model(model, pyreft.ReftConfig(representations=representations), set_device=False)
    reft.disable_model_gradients()
    return reft


def loreft_loss(reft, examples: Examples, rows: Tensor, places: list[list[int]], n_layers: int) -> Tensor:
    """The call of pyreft's trainer; `places`: the columns that each subspace of a layer edits."""
    where = [[columns] * len(rows) for columns in places for _ in range(n_layers)]
    _, output = reft(
        batch(examples, "base", rows),
        unit_locations={"sources->base": (None, where)},
        labels=examples.labels[rows],
    )
    return output.loss


def collector(model: nn.Module, layers: range):
    """pyvene's collection of block outputs."""
    config = pyvene.IntervenableConfig(
        model_type=type(model),
        representations=[pyvene.RepresentationConfig(layer, "block_output", "pos", 1) for layer in layers],
        intervention_types=pyvene.CollectIntervention,
    )
    return pyvene.IntervenableModel(config, model)


def single_loreft(model: nn.Module, setting: Setting, layer: int, rank: int):
    """pyreft's LoReFT at one block's output."""
    intervention = pyreft.LoreftIntervention(embed_dim=setting.d_model, low_rank_dimension=rank, dtype=torch.float32)
    representation = {
        "layer": layer,
        "component": "block_output",
        "low_rank_dimension": rank,
        "intervention": intervention,
    }
    return pyreft.get_reft_model(model, pyreft.ReftConfig(representations=[representation]), set_device=False)


def equality_step(examples: Examples, rows: Tensor) -> Callable[[], None]:
    """The loop body of pyvene's tutorial on hierarchical equality: a rotated subspace of one layer of its MLP."""
    from pyvene.models.mlp.modelings_intervenable_mlp import create_mlp_classifier
    from pyvene.models.mlp.modelings_mlp import MLPConfig

    config = MLPConfig(h_dim=16, activation_function="relu", n_layer=3, num_classes=2, pdrop=0.0)
    _, _, network = create_mlp_classifier(config)
    settings = pyvene.IntervenableConfig(
        model_type=type(network),
        representations=[pyvene.RepresentationConfig(0, "block_output", "pos", 1)],
        intervention_types=pyvene.RotatedSpaceIntervention,
    )
    intervenable = pyvene.IntervenableModel(settings, network)
    intervenable.disable_model_gradients()

    items = [
        {"input_ids": base, "source_input_ids": source[None], "labels": label}
        for base, source, label in zip(examples.runs["base"], examples.runs["source"], examples.labels, strict=True)
    ]
    loader = iter(torch.utils.data.DataLoader(items * 400, batch_size=len(rows)))  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(intervenable.parameters(), lr=1e-3)

    def step() -> None:
        found = next(loader)
        base, source = found["input_ids"].unsqueeze(1), found["source_input_ids"].unsqueeze(2)
        where = [[[0]] * len(base)]
        _, output = intervenable(
            {"inputs_embeds": base},
            [{"inputs_embeds": source[:, 0]}],
            {"sources->base": (where, where)},
            subspaces=[[list(range(8))] * len(base)],
        )
        nn.functional.cross_entropy(output[0], found["labels"]).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
