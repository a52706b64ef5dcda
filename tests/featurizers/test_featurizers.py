"""What a featurizer is: rows, slices, principal directions, masks, features; refusals; which precision is kept."""

from __future__ import annotations

import inspect
import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import causal_reft as cr
from causal_reft.errors import CausalReftWarning, FeaturizerError
from causal_reft.featurizers import END_TEMPERATURE, START_TEMPERATURE, note, noting, penalised, penalties
from causal_reft.graph import graph_from_data, graph_to_data
from tests.models import ARCHITECTURES, D_MODEL, prompts


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_split_gives_the_rows_of_one_rotation_in_order() -> None:
    R = cr.Subspace(16, 8, seed=2)
    parts = R.split(german=3, instruct=4, rest=1)
    assert list(parts) == ["german", "instruct", "rest"]
    torch.testing.assert_close(torch.cat([part.rotation for part in parts.values()]), R.rotation, rtol=0, atol=0)
    assert all(part.basis is R.basis for part in parts.values())
    nested = parts["instruct"].split(a=1, b=3)
    torch.testing.assert_close(nested["b"].rotation, R.rotation[4:7], rtol=0, atol=0)
    assert "rows 4-6 of 8" in repr(nested["b"])


def test_parts_of_one_rotation_write_orthogonally_in_any_order() -> None:
    h, (a, b) = randn(5, 16), cr.Subspace(16, 5).double().split(a=2, b=3).values()
    za, zb = randn(5, 2, seed=1), randn(5, 3, seed=2)
    torch.testing.assert_close(a.write(b.write(h, zb), za), b.write(a.write(h, za), zb), rtol=0, atol=1e-13)


def test_split_must_name_every_row() -> None:
    with pytest.raises(FeaturizerError, match=r"takes 3 of 8 rows.*rest=5"):
        cr.Subspace(16, 8).split(german=3)


@pytest.mark.parametrize("rank", [0, -1, 17])
def test_a_rank_that_cannot_be_is_refused(rank: int) -> None:
    with pytest.raises(FeaturizerError, match=r"rank must be between 1 and d_model = 16"):
        cr.Subspace(16, rank)
    with pytest.raises(FeaturizerError, match=r"Projection.*rank must be between 1"):
        cr.Projection(16, rank)


def test_from_rows_spans_the_rows_and_refuses_dependent_ones() -> None:
    rows = randn(3, 10)
    R = cr.Subspace.from_rows(rows).rotation
    assert scipy.linalg.subspace_angles(R.detach().numpy().T, rows.numpy().T).max() < 1e-7
    assert (R @ R.T - torch.eye(3)).abs().max() < 1e-13
    torch.testing.assert_close(R[0], rows[0] / rows[0].norm())
    with pytest.raises(FeaturizerError, match="linearly dependent"):
        cr.Subspace.from_rows(torch.stack([rows[0], 2 * rows[0]]))
    with pytest.raises(FeaturizerError, match="rank must be between"):
        cr.Subspace.from_rows(randn(4, 3))


def test_from_rows_keeps_at_least_single_precision() -> None:
    assert cr.Subspace.from_rows(randn(2, 6).bfloat16()).rotation.dtype == torch.float32
    assert cr.Subspace.from_rows(randn(2, 6)).rotation.dtype == torch.float64


def test_pca_finds_the_principal_directions_of_centred_states() -> None:
    states = randn(200, 3) @ torch.diag(torch.tensor([5.0, 2.0, 0.1])).double() @ randn(3, 10, seed=1) + 100
    found = cr.Subspace.pca(states.reshape(20, 10, 10), 2).rotation.detach()
    _, vectors = np.linalg.eigh(np.cov(states.numpy().T))
    assert np.rad2deg(scipy.linalg.subspace_angles(found.numpy().T, vectors[:, -2:])).max() < 1e-5


@pytest.mark.parametrize(
    ("states", "rank", "there"),
    [
        (randn(3, 10), 3, 2),  # three points span two directions around their mean
        (randn(1, 10).expand(5, 10), 1, 0),
        (randn(50, 2) @ randn(2, 10, seed=1), 3, 2),
        (randn(50, 10), 0, 10),
    ],
)
def test_pca_refuses_more_directions_than_the_states_have(states: Tensor, rank: int, there: int) -> None:
    with pytest.raises(FeaturizerError, match=rf"pca\(rank={rank}\).*vary in {there} directions"):
        cr.Subspace.pca(states, rank)


def test_rounding_of_a_far_mean_is_no_direction_and_what_is_above_it_is_one() -> None:
    far = 1e8 * randn(1, 10, seed=2)
    for spread in (1.0, 1e-4):
        states = far + spread * randn(50, 2) @ randn(2, 10, seed=1)
        with pytest.raises(FeaturizerError, match="vary in 2 directions"):
            cr.Subspace.pca(states, 3)
        angles = cr.principal_angles(cr.Subspace.pca(states, 2).rotation, randn(2, 10, seed=1))
        assert float(angles.max()) < 1e-5 / spread
    with pytest.raises(FeaturizerError, match="vary in 2 directions"):
        cr.Subspace.pca(1e6 * randn(400, 2) @ randn(2, 10, seed=1), 3)


def test_of_rank_is_a_recipe_that_prints() -> None:
    recipe = cr.Subspace.of_rank(3)
    assert repr(recipe) == "Subspace.of_rank(3)"
    assert torch.equal(recipe(12, 4).rotation, cr.Subspace(12, 3, seed=4).rotation)


@given(one=st.integers(1, 5), two=st.integers(1, 5), seed=st.integers(0, 1000), shared=st.booleans())
def test_principal_angles_agree_with_scipy(one: int, two: int, seed: int, shared: bool) -> None:
    a, b = randn(one, 12, seed=seed), randn(two, 12, seed=seed + 1)
    if shared:
        b[0] = a[0] + 1e-3 * b[0]
    ours = cr.principal_angles(a, b)
    theirs = np.rad2deg(np.sort(scipy.linalg.subspace_angles(a.numpy().T, b.numpy().T)))
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-9)


def test_principal_angles_are_exact_at_both_ends() -> None:
    eye = torch.eye(6, dtype=torch.float64)
    tilted = torch.stack([eye[0] + 1e-9 * eye[3], eye[1]])
    torch.testing.assert_close(
        cr.principal_angles(eye[:2], tilted)[1], torch.rad2deg(torch.tensor(1e-9).double()), rtol=1e-6, atol=0
    )
    assert torch.equal(cr.principal_angles(eye[:2], eye[2:5]), torch.full((2,), 90.0).double())
    assert not cr.principal_angles(eye[:3], eye[:2]).any()


def test_a_subspace_within_rows_stays_inside_them_and_only_its_rotation_is_trained(tmp_path) -> None:
    B = randn(4, 12, seed=7).float()
    F = cr.Subspace.within(B, 2, seed=1)
    assert [name for name, p in F.named_parameters() if p.requires_grad] == ["basis.master"]
    F.basis.master.data += 0.3
    assert float(cr.principal_angles(F.rotation, B).max()) < 1e-3
    graph = cr.InterventionGraph(edit=cr.Interchange(cr.Site(0), F, cr.Collect()))
    graph.save(tmp_path / "graph")
    loaded = cr.load_graph(tmp_path / "graph")
    assert loaded == graph and not loaded.edits["edit"].featurizer.basis.within.requires_grad
    parts = F.split(left=1, right=1)
    torch.testing.assert_close(torch.cat([part.rotation for part in parts.values()]), F.rotation)
    assert repr(F) == "Subspace(d_model=12, rank=2, within 4 rows)" and F.basis.d_model == 12
    assert cr.Subspace.within(B, 4).rank == 4 and cr.Subspace.within(B.bfloat16(), 1).rotation.dtype == torch.float32
    for rank in (0, 5):
        with pytest.raises(FeaturizerError, match=r"the basis has 4 rows, so the rank is from 1 to 4"):
            cr.Subspace.within(B, rank)


def mask_over_identity(**options: object) -> cr.Mask:
    mask = cr.Mask(cr.Identity(4), **options)  # type: ignore[arg-type]
    mask.logits.data.copy_(torch.tensor([-2.0, -0.1, 0.1, 2.0]))
    return mask


def test_mask_is_soft_in_training_and_its_limit_in_evaluation() -> None:
    mask = mask_over_identity(temperature=0.5)
    torch.testing.assert_close(mask.mask(), torch.sigmoid(torch.tensor([-4.0, -0.2, 0.2, 4.0])))
    assert mask.eval().mask().tolist() == [0, 0, 1, 1]
    mask.train().temperature = 1e-4
    torch.testing.assert_close(mask.mask(), mask.eval().mask())


def test_boundary_mask_keeps_the_first_coordinates() -> None:
    mask = cr.Mask(cr.Subspace(8, 8))
    assert mask.kind == "boundary" and mask.temperature == START_TEMPERATURE["boundary"]
    mask.temperature = 0.7
    torch.testing.assert_close(mask.mask(), torch.sigmoid((0.5 * 8 - torch.arange(8.0)) / 0.7))
    assert mask.eval().mask().tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert mask.penalty() == 0.5
    mask.logits.data.fill_(7.0)
    assert mask.penalty() == 1 and bool(mask.mask().all())
    mask.logits.data.fill_(-1.0)
    assert mask.mask().sum() == 1, "the boundary stays above zero"


@pytest.mark.parametrize("family", ARCHITECTURES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_open_gates_of_a_mask_over_heads_are_interchanges_of_these_heads(family: str, side: str, tmp_path) -> None:
    """And the gates are saved to the bit."""
    model = ARCHITECTURES[family]()
    n = model.config.num_attention_heads
    mask = cr.Mask(cr.Identity(D_MODEL), temperature=0.7, groups=n)
    assert mask.logits.shape == (n,)
    mask.logits.data.copy_(torch.linspace(-1, 1, n))
    site, base, source = cr.Site(1, "attention_head_output", "last"), prompts([3, 5], side), prompts([5, 4], side, 1)
    gates = cr.InterventionGraph(edit=cr.Interchange(site, mask, cr.Collect("source")))
    heads = cr.InterventionGraph(
        **{
            f"head{h}": cr.Interchange(replace(site, head=h), cr.Identity(D_MODEL // n), cr.Collect("source"))
            for h in range(n // 2, n)
        }
    )
    found, plain = (
        cr.IntervenedModel(model, graph).eval()(base, source=source).logits[base["attention_mask"] != 0]
        for graph in (gates, heads)
    )
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-12)
    gates.save(tmp_path / "graph")
    loaded = cr.load_graph(tmp_path / "graph")
    again = loaded.edits["edit"].featurizer
    assert loaded == gates and torch.equal(again.logits, mask.logits) and again.groups == n
    h, z = randn(2, D_MODEL), randn(2, D_MODEL, seed=1)
    m = torch.sigmoid(mask.logits / 0.7).double().repeat_interleave(D_MODEL // n)
    torch.testing.assert_close(again.train().write(h, z), (1 - m) * h + m * z)


def test_mask_penalty_is_the_share_of_the_space_taken() -> None:
    mask = mask_over_identity(temperature=0.01)
    torch.testing.assert_close(mask.penalty(), torch.sigmoid(mask.logits).mean())
    mask.penalty().backward()
    assert mask.logits.grad is not None and bool((mask.logits.grad > 0).all())


def test_mask_over_everything_is_a_whole_swap_and_over_nothing_no_edit() -> None:
    h, z, mask = randn(3, 4), randn(3, 4, seed=1), mask_over_identity().eval()
    mask.logits.data.fill_(5.0)
    assert torch.equal(mask.write(h, z), z)
    mask.logits.data.fill_(-5.0)
    assert torch.equal(mask.write(h, z), h)


def test_mask_refuses_an_unknown_kind() -> None:
    with pytest.raises(FeaturizerError, match="'boundary' and 'coordinates'"):
        inspect.unwrap(cr.Mask.__init__)(
            cr.Mask.__new__(cr.Mask), cr.Identity(4), "soft"
        )  # past the run-time type checker


def test_masks_are_annealed_as_in_the_papers() -> None:
    assert START_TEMPERATURE == {"boundary": 50, "coordinates": 1}
    assert END_TEMPERATURE == {"boundary": 0.1, "coordinates": 0.01}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"groups": 0}, "from 1 to 4"),
        ({"groups": 5}, "from 1 to 4"),
        ({"groups": 3}, "4 coordinates cannot be cut into equal groups"),
        ({"groups": 2, "kind": "boundary"}, "of kind='coordinates'"),
        ({"temperature": 0.0}, "a positive number"),
        ({"temperature": float("inf")}, "a positive number"),
    ],
)
def test_mask_refuses_settings_that_mean_nothing(options: dict, said: str) -> None:
    with pytest.raises(FeaturizerError, match=said):
        cr.Mask(cr.Identity(4), **options)


def test_a_mask_says_its_kind_temperature_and_groups() -> None:
    assert repr(cr.Mask(cr.Identity(4))).endswith(", kind='coordinates', temperature=1)")
    assert repr(cr.Mask(cr.Identity(4), groups=4)).endswith(", temperature=1, groups=4)")
    assert cr.Mask(cr.Identity(4), groups=1).logits.shape == (1,)


def test_terms_are_noted_in_a_block_and_summed_over_its_forwards() -> None:
    part, other = cr.TopLatents(2), cr.TopLatents(2)
    note(part, torch.ones(()), trained=False)
    with noting():
        assert part.penalty() == 0
        note(part, torch.tensor(2.0), trained=False)
        note(part, torch.tensor(3.0, requires_grad=True), trained=True)
        assert part.penalty() == 5 and other.penalty() == 0
        with pytest.raises(FeaturizerError, match="use_reentrant=False"):
            note(part, torch.ones(()), trained=True)
        with noting():
            assert part.penalty() == 0
    with pytest.raises(FeaturizerError, match="with noting"):
        part.penalty()
    masks = torch.nn.ModuleList([mask_over_identity(), cr.Identity(4), cr.Mask(cr.Subspace(4, 4))])
    assert penalised(masks) == [masks[0], masks[2]]
    total = penalties(masks, torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(total, (masks[0].penalty() + 0.5).double())


def flow(d_model: int, rank: int, **options: int) -> cr.Flow:
    with pytest.warns(CausalReftWarning, match="almost any algorithm"):
        return cr.Flow(d_model, rank, **options)


def test_a_flow_starts_as_a_rotation_whose_couplings_see_states_of_unit_size() -> None:
    F, h = flow(64, 64, width=100), randn(5, 64)
    torch.testing.assert_close(F.read(h).norm(dim=-1), h.norm(dim=-1))
    for layer in range(F.n_layers):
        into = F.get_parameter(f"into{layer}").detach()
        assert into.shape == (100, 32) and abs(float(into.std()) * 32**0.5 - 1) < 0.05
    assert flow(6, 2).width == 12 and flow(3, 2, width=5).config()["width"] == 5
    one, same, other = (flow(6, 2, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in ("master", "into0", "into3"))


def test_an_identity_without_coordinates_is_refused() -> None:
    with pytest.raises(FeaturizerError, match=r"Identity\(d_model=0"):
        cr.Identity(0)


def test_a_projection_starts_as_a_linear_layer_does() -> None:
    rows, bound = cr.Projection(64, 8).weight.detach(), 64**-0.5
    assert -bound <= float(rows.min()) < -0.9 * bound and 0.9 * bound < float(rows.max()) <= bound


W, V, B, C = randn(6, 9, seed=1), randn(9, 6, seed=2), randn(9, seed=3), randn(6, seed=4)


@pytest.mark.parametrize(
    ("options", "act"),
    [
        ({"activation": "relu"}, torch.relu),
        ({"activation": "identity"}, lambda pre: pre),
        ({"activation": "jumprelu", "threshold": 0.4}, lambda pre: pre * (pre > 0.4)),
        (
            {"activation": "jumprelu", "threshold": torch.linspace(0, 1, 9).double()},
            lambda pre: pre * (pre > torch.linspace(0, 1, 9)),
        ),
        ({"activation": "topk", "k": 3}, lambda pre: torch.relu(pre) * (pre >= pre.topk(3).values[..., -1:])),
    ],
    ids=["relu", "identity", "one threshold", "a threshold each", "topk"],
)
def test_autoencoder_reads_its_features_and_adds_its_error_back(options: dict, act: object) -> None:
    F, h, z = cr.Autoencoder(W, V, B, C, **options), randn(4, 6), randn(4, 9, seed=5)
    features = act((h - C) @ W + B)  # type: ignore[operator]
    torch.testing.assert_close(F.read(h), features, rtol=0, atol=1e-13)
    decode = lambda f: f @ V + C  # noqa: E731
    torch.testing.assert_close(F.write(h, z), decode(z) + (h - decode(features)), rtol=0, atol=1e-13)
    assert not any(p.requires_grad for p in F.parameters())


@pytest.mark.parametrize(
    "options", [{"activation": "topk"}, {"activation": "relu", "k": 3}, {"activation": "jumprelu"}, {"threshold": 0.1}]
)
def test_autoencoder_refuses_settings_that_do_not_belong_together(options: dict) -> None:
    with pytest.raises(FeaturizerError, match=r"'topk' goes with k=.*'jumprelu' with threshold"):
        cr.Autoencoder(W, V, **options)


def test_autoencoder_refuses_an_unknown_activation() -> None:
    with pytest.raises(FeaturizerError, match=r"'selu'.*relu, identity, topk, jumprelu"):
        cr.Autoencoder(W, V, activation="selu")


def test_autoencoder_keeps_a_copy_of_the_weights() -> None:
    weights = W.clone()
    F = cr.Autoencoder(weights, V)
    weights.zero_()
    assert torch.equal(F.encoder, W)


def featurizers() -> dict[str, cr.Featurizer]:
    return {
        "identity": cr.Identity(6),
        "subspace": cr.Subspace(6, 2),
        "projection": cr.Projection(6, 2),
        "mask": cr.Mask(cr.Subspace(6, 6)),
        "autoencoder": cr.Autoencoder(W.float(), V.float(), B.float(), C.float()),
        "top features": cr.Autoencoder(W.float(), V.float(), activation="topk", k=2),
        "groups": cr.Mask(cr.Identity(6), groups=3, temperature=0.3),
        "flow": flow(6, 2, seed=3),
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("kind", featurizers())
def test_low_precision_states_are_computed_in_single_and_rounded_once(kind: str, dtype: torch.dtype) -> None:
    F = featurizers()[kind]
    at_least = torch.promote_types(dtype, torch.float32)
    h, z = randn(5, 6).to(dtype), randn(5, F.rank, seed=1).to(at_least)
    written = F.write(h, z)
    assert written.dtype == dtype
    assert F.read(h).dtype == (dtype if kind in ("identity", "groups") else at_least)
    assert torch.equal(written, F.write(h.to(at_least), z).to(dtype)), "rounded once, at the end"


@pytest.mark.parametrize("kind", featurizers())
def test_a_double_model_is_computed_in_double(kind: str) -> None:
    """The fp32 master is orthonormalised in float64, so that the laws hold to float64's rounding."""
    F = featurizers()[kind]
    h = randn(5, 6)
    assert (F.write(h, F.read(h)) - h).abs().max() < 1e-14


@pytest.mark.parametrize("kind", featurizers())
def test_write_leaves_its_input_and_the_coordinates_alone(kind: str) -> None:
    F = featurizers()[kind]
    h, z = randn(5, 6), randn(5, F.rank, seed=1)
    h_before, z_before = h.clone(), z.clone()
    written = F.write(h, z)
    written += 1
    assert torch.equal(h, h_before) and torch.equal(z, z_before)


@pytest.mark.parametrize("kind", featurizers())
def test_rows_is_the_matrix_of_a_linear_read(kind: str) -> None:
    F, h = featurizers()[kind], randn(5, 6)
    if (rows := F.rows()) is not None:
        torch.testing.assert_close(F.read(h), h @ rows.to(h.dtype).T, rtol=0, atol=1e-6)
    assert torch.equal(F(h), F.read(h)), "calling a featurizer reads"


@pytest.mark.parametrize("kind", featurizers())
def test_a_featurizer_is_its_settings_and_its_tensors(kind: str) -> None:
    F, h = featurizers()[kind], randn(5, 6)
    for parameter in F.parameters():
        parameter.data += 0.1
    graph = cr.InterventionGraph(edit=cr.Interchange(cr.Site(0), F, cr.Constant(0.5)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CausalReftWarning)
        again = graph_from_data(*graph_to_data(graph)).edits["edit"].featurizer
    assert torch.equal(again.read(h), F.read(h)) and torch.equal(again.write(h, F.read(-h)), F.write(h, F.read(-h)))
    assert repr(again) == repr(F) and again.config() == F.config() and F.of_rows(torch.tensor([0, 1])) is F


@pytest.mark.parametrize("kind", featurizers())
def test_the_repr_says_width_and_rank(kind: str) -> None:
    assert "d_model=6" in repr(featurizers()[kind])


def test_the_same_seed_gives_the_same_rows() -> None:
    kinds = {
        "subspace": partial(cr.Subspace, 12, 3),
        "within": partial(cr.Subspace.within, torch.eye(12), 3),
        "recipe": partial(cr.Subspace.of_rank(3), 12),
        "projection": partial(cr.Projection, 12, 3),
    }
    for kind in kinds.values():
        a, b, c = kind(seed=1), kind(seed=1), kind(seed=2)
        assert torch.equal(a.rows(), b.rows()) and not torch.equal(a.rows(), c.rows())
        assert torch.equal(kind().rows(), kind(seed=0).rows())
