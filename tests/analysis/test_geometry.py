"""How subspaces lie: against angles that one can draw, directions that were planted, and the model's own logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from causal_reft.analysis.geometry import (
    angle_table,
    direction_tokens,
    learned_subspaces,
    pca_overlap,
    random_angles,
    token_overlap,
    unembedding,
)
from causal_reft.analysis.steering import projections, push, states_at, steered
from causal_reft.errors import CausalReftWarning, DataError
from causal_reft.execution import IntervenedModel
from causal_reft.featurizers import Flow, Projection, Subspace
from causal_reft.graph import presets
from causal_reft.sites import Site, site_grid
from tests.analysis.memory_models import PROMPT, TEXT, tokenizer
from tests.models import ARCHITECTURES, D_MODEL, llama

TOKENIZER = tokenizer()


def test_angles_between_planes_that_one_can_draw() -> None:
    x, y, z = torch.eye(3, dtype=torch.float64)
    tilted = torch.stack([x, (y + z) / 2**0.5])
    table = angle_table({"floor": torch.stack([x, y]), "tilted": tilted, "up": Subspace.from_rows(z[None])})
    angles = {(row.one, row.two): [] for row in table.itertuples()}
    for row in table.itertuples():
        angles[row.one, row.two].append(row.angle)
    assert angles["floor", "tilted"] == pytest.approx([0, 45], abs=1e-9)
    assert angles["floor", "up"] == pytest.approx([90], abs=1e-9)
    assert angles["tilted", "up"] == pytest.approx([45], abs=1e-9)
    with pytest.raises(DataError, match="'a': 3"):
        angle_table({"a": torch.eye(3), "b": torch.eye(4)})


def test_random_angles_of_lines() -> None:
    """Between two random lines in the plane the angle is uniform on 0 to 90 degrees."""
    assert random_angles(2, 1, 1, draws=400) == pytest.approx([45], abs=4)
    assert random_angles(6, 2, 3, draws=5).shape == (2,)


def test_overlap_with_principal_directions() -> None:
    stream = torch.Generator().manual_seed(0)
    frame = Subspace(8, 8, seed=1).rotation.detach().to(torch.float64)
    spread = torch.tensor([5.0, 3.0, 1.0, 0, 0, 0, 0, 0], dtype=torch.float64)
    states = torch.randn(4000, 8, generator=stream, dtype=torch.float64) * spread @ frame + 7
    table = pca_overlap(Subspace.from_rows(frame[[1]]), states)
    assert len(table) == 3  # no direction where there is no variance
    assert table["overlap"].tolist() == pytest.approx([0, 1, 0], abs=0.01)
    assert table["variance"].tolist() == pytest.approx([25 / 35, 9 / 35, 1 / 35], abs=0.02)
    assert table["explained"].tolist() == pytest.approx([0, 9 / 34, 9 / 35], abs=0.02)
    assert table["chance"].unique().tolist() == [1 / 8]
    every = pca_overlap(Subspace.from_rows(frame[:3]), states, components=2)
    assert every["overlap"].tolist() == pytest.approx([1, 1], abs=1e-6)
    with pytest.raises(DataError, match="d_model=8"):
        pca_overlap(Subspace(8, 1), states[:, :4])


@pytest.mark.parametrize("family", list(ARCHITECTURES))
def test_unembedding_is_what_the_model_does_with_a_last_hidden_state(family: str) -> None:
    """The logits of x and of -x differ by twice the unembedding of x, up to one positive factor; norms included."""
    model = ARCHITECTURES[family]()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, dtype=parameter.dtype)
    norm = {"gpt2": "transformer.ln_f", "llama": "model.norm", "neox": "gpt_neox.final_layer_norm"}[family]
    x = 5 * torch.randn(D_MODEL, dtype=torch.float64)
    head, final = model.get_output_embeddings(), model.get_submodule(norm)
    change = head(final(x)) - head(final(-x))
    change = (change - change.mean()).detach()
    found = unembedding(model) @ x
    assert torch.nn.functional.cosine_similarity(found, change, dim=0) == pytest.approx(1, abs=1e-4)


def test_tokens_of_a_planted_direction() -> None:
    model = llama()
    directions = unembedding(model)
    planted = Subspace.from_rows(directions[[7]])
    inside = token_overlap(planted, model, TOKENIZER, top=3)
    assert inside["token"][0] == TOKENIZER.convert_ids_to_tokens(7)
    assert inside["overlap"][0] == pytest.approx(1)
    assert inside["overlap"].is_monotonic_decreasing
    turned = Subspace.from_rows(torch.tensor([[0.6, 0.8], [-0.8, 0.6]], dtype=torch.float64) @ directions[[7, 9]])
    plain = Subspace.from_rows(directions[[7, 9]])
    shares = [token_overlap(s, model, TOKENIZER, top=None).sort_values("id")["overlap"] for s in (turned, plain)]
    np.testing.assert_allclose(*shares, atol=1e-9)
    table = direction_tokens(planted, model, TOKENIZER, top=2)
    best = table[(table["sign"] == "+") & (table["place"] == 0)].iloc[0]
    assert best["logit"] == table["logit"].max()
    assert len(table) == 4
    with pytest.warns(CausalReftWarning, match="non-linear"), pytest.raises(DataError, match="does not read linearly"):
        token_overlap(Flow(D_MODEL, 1), model, TOKENIZER)


def test_projections_are_the_coordinates_of_the_states() -> None:
    model, site, R = llama(), Site(1, positions="last"), Subspace(D_MODEL, 2, seed=3)
    table = projections(model, TOKENIZER, TEXT, site, R)
    states = states_at(model, TOKENIZER, [TEXT], Site(1, positions="all"))
    assert states.shape == (24, D_MODEL)
    z = table["z"].to_numpy().reshape(2, 24)
    np.testing.assert_allclose(z, (states @ R.rotation.detach().to(states).T).T.numpy(), atol=1e-6)
    assert table["token"].tolist() == TEXT.split() * 2
    assert states_at(model, TOKENIZER, [TEXT, PROMPT], site).shape == (2, D_MODEL)


def test_a_push_moves_one_coordinate_and_nothing_else() -> None:
    model, site, R = llama(), Site(1, positions="all"), Subspace(D_MODEL, 3, seed=3)
    encoded = TOKENIZER(PROMPT, return_tensors="pt")
    given = {key: encoded[key] for key in ("input_ids", "attention_mask")}
    seen: list[torch.Tensor] = []
    for strength in (0.0, 2.5):
        pushed = IntervenedModel(model, push(site, R, strength, direction=1))
        hook = model.model.layers[2].register_forward_pre_hook(
            lambda m, a, k: seen.append(a[0].detach()), with_kwargs=True
        )
        pushed(given)
        hook.remove()
    expected = 2.5 * R.rotation.detach()[1].to(torch.float64)
    torch.testing.assert_close(seen[1] - seen[0], expected.expand_as(seen[0]), atol=1e-6, rtol=0)
    with pytest.raises(DataError, match="coordinates 0 to 2"):
        push(site, R, 1.0, direction=3)


def test_steering_towards_a_token_makes_the_model_say_it() -> None:
    model = llama()
    towards = Subspace.from_rows(unembedding(model)[[11]])
    rows = steered(
        model, TOKENIZER, [PROMPT, "owl"], Site(2, positions="all+generated"), towards, (0.0, 1000.0), max_new_tokens=2
    )
    assert rows["strength"].tolist() == [0, 0, 1000, 1000]
    said = direction_tokens(towards, model, TOKENIZER, top=1)["token"][0]
    assert rows.loc[rows["strength"] == 1000, "continuation"].tolist() == [f"{said} {said}"] * 2


def test_subspaces_of_graphs_by_name() -> None:
    one, two = presets.das(Site(1), D_MODEL, 2), presets.loreft(site_grid([0, 1]), D_MODEL, 2)
    assert [name for name, _ in learned_subspaces({"das": one, "reft": two})] == ["das", "reft edit_0", "reft edit_1"]
    assert angle_table(dict(learned_subspaces({"das": one, "reft": two})))["angle"].between(0, 90).all()
    assert angle_table({"free": Projection(D_MODEL, 2), "das": Subspace(D_MODEL, 2)}).shape == (2, 5)
