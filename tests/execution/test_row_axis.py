"""Values whose first axis is not the batch are refused, whatever their shapes; all others are edited where they lie."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import causal_reft as cr
from causal_reft.errors import PositionError
from tests.families import inputs_of, model_of
from tests.models import ToyMLP, gpt2, prompts

WIDTH = 4


class Around(nn.Module):
    """A layer around which the axes are exchanged, so that inside it time comes first; `flat` joins both axes."""

    def __init__(self, layer: nn.Module, swaps: bool = True, flat: bool = False) -> None:
        super().__init__()
        self.layer, self.swaps, self.flat = layer.double(), swaps, flat

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape if not self.swaps else (x.shape[1], x.shape[0], x.shape[2])
        h = x.transpose(0, 1) if self.swaps else x
        h = self.layer(h.reshape(-1, WIDTH) if self.flat else h)
        h = (h[0] if isinstance(h, tuple) else h).reshape(shape)
        return h.transpose(0, 1) if self.swaps else h


def rows(batch: int, time: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, time, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def zeroing(path: str, positions: Any = 0) -> cr.InterventionGraph:
    site = cr.Site.at(path, positions=positions)
    return cr.InterventionGraph(edit=cr.Interchange(site, cr.Identity(WIDTH), cr.Constant(0.0)))


def encoder_layer(batch_first: bool) -> nn.Module:
    return nn.TransformerEncoderLayer(WIDTH, 2, 8, dropout=0.0, batch_first=batch_first)


LAYERS = {
    "gru": lambda: nn.GRU(WIDTH, WIDTH),
    "lstm": lambda: nn.LSTM(WIDTH, WIDTH),
    "transformer": lambda: encoder_layer(False),
}


@pytest.mark.parametrize("time", [3, 5])
@pytest.mark.parametrize("name", LAYERS)
def test_a_module_that_takes_time_first_is_refused_also_where_rows_and_steps_are_equal(name: str, time: int) -> None:
    model = Around(LAYERS[name]())
    with pytest.raises(PositionError, match=r"'layer'.*batch"):
        cr.IntervenedModel(model, zeroing("layer"))(rows(3, time))


@pytest.mark.parametrize("name", LAYERS)
def test_time_first_inputs_of_a_plain_sequence_layer_are_refused(name: str) -> None:
    with pytest.raises(PositionError, match="first axis is not the batch"):
        cr.IntervenedModel(Around(LAYERS[name](), swaps=False), zeroing("layer"))(rows(3, 5))


def test_steps_and_rows_in_one_axis_with_time_first_are_refused() -> None:
    with pytest.raises(PositionError, match="first axis is not the batch"):
        cr.IntervenedModel(Around(nn.Linear(WIDTH, WIDTH), flat=True), zeroing("layer"))(rows(3, 5))


class Windows(nn.Module):
    """Rows are cut into two windows each, window after window, and into windows of every row."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH).double()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(list(self.inner(torch.cat([x[:, :2], x[:, 2:4]])).chunk(2)), 1)


def test_a_value_with_a_multiple_of_the_batchs_rows_is_refused() -> None:
    with pytest.raises(PositionError, match=r"\(6, 2, 4\).*batch of 3 rows"):
        cr.IntervenedModel(Windows(), zeroing("inner"))(rows(3, 4))


def test_the_height_of_an_image_is_no_position() -> None:
    model = nn.Sequential(nn.Conv2d(3, WIDTH, 1), nn.Flatten()).double()
    with pytest.raises(PositionError, match=r"'0' has a value of shape \(2, 4, 8, 8\)"):
        cr.IntervenedModel(model, zeroing("0"))(torch.randn(2, 3, 8, 8).double())


def test_a_text_model_with_time_first_inside_is_refused_where_rows_and_tokens_are_equal() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.body = nn.Embedding(9, WIDTH).double(), Around(nn.GRU(WIDTH, WIDTH))

        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            return self.body(self.embed(input_ids))

    batch = {"input_ids": torch.arange(9).reshape(3, 3)}
    reft = cr.IntervenedModel(Reader(), zeroing("body.layer"))
    with pytest.raises(PositionError, match="first axis is not the batch"):
        reft(batch)
    assert cr.IntervenedModel(Reader(), zeroing("body"))(batch).shape == (3, 3, WIDTH)


def test_what_has_the_batch_first_is_asked_once_and_leaves_the_model_as_it_was() -> None:
    model = Around(nn.GRU(WIDTH, WIDTH, batch_first=True, dropout=0.0), swaps=False)
    calls: list[bool] = []
    handle = model.register_forward_pre_hook(lambda module, args: calls.append(module.training))
    reft, state = cr.IntervenedModel(model, zeroing("layer", "last")), torch.random.get_rng_state()
    first, second = reft(rows(3, 3)), reft(rows(3, 5))
    handle.remove()
    assert calls == [True, False, False, True], "two looks in evaluation mode after the first call"
    assert model.training and torch.equal(torch.random.get_rng_state(), state)
    assert not first[:, -1].any() and first[:, :-1].all() and not second[:, -1].any()


def test_rows_that_are_all_alike_tell_nothing_and_are_asked_again() -> None:
    model, calls = Around(nn.GRU(WIDTH, WIDTH, batch_first=True), swaps=False), []
    handle = model.register_forward_pre_hook(lambda module, args: calls.append(1))
    reft = cr.IntervenedModel(model, zeroing("layer"))
    for x in (rows(1, 3).expand(3, 3, WIDTH), rows(3, 3), rows(3, 3)):
        reft(x)
    handle.remove()
    assert len(calls) == 3 + 3 + 1


def test_a_forward_that_draws_noise_is_not_taken_for_another_order() -> None:
    class Noisy(ToyMLP):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + torch.randn_like(x))

    graph = cr.InterventionGraph(edit=cr.Interchange(cr.Site.at("first"), cr.Identity(8), cr.Constant(0.0)))
    assert cr.IntervenedModel(Noisy(), graph)(torch.randn(3, 6).double()).shape == (3, 3)


def test_flattened_tokens_of_a_mixture_of_experts_are_edited_where_they_lie() -> None:
    model, batch = model_of("mixtral"), inputs_of("mixtral", lengths=(3, 3, 3))
    path = "model.layers.0.mlp.gate"
    seen: list[Tensor] = []
    handle = model.get_submodule(path).register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    site = cr.Site.at(path, port="input", positions=1)
    out = cr.IntervenedModel(model, cr.InterventionGraph(seen=cr.Collect("base", site)))(batch)
    handle.remove()
    assert torch.equal(out.collected["seen"][:, 0], seen[0].reshape(3, 3, -1)[:, 1])


@settings(max_examples=30)
@given(
    batch=st.integers(2, 4), time=st.integers(1, 4), swaps=st.booleans(), flat=st.booleans(),
    layer=st.sampled_from(["linear", *LAYERS]), column=st.integers(0, 3),
)  # fmt: skip
def test_random_orders_of_axes_are_right_or_refused(
    batch: int, time: int, swaps: bool, flat: bool, layer: str, column: int
) -> None:
    torch.manual_seed(0)
    inner = nn.Linear(WIDTH, WIDTH) if layer == "linear" else LAYERS[layer]()
    flat = flat and layer == "linear"
    model, x, column = Around(inner, swaps, flat), rows(batch, time), min(column, time - 1)
    try:
        found = cr.IntervenedModel(model, zeroing("layer", column))(x)
    except PositionError:
        return
    wanted = model(x).clone()
    wanted[:, column] = 0
    assert (layer == "linear" and not swaps) or time == 1 or torch.equal(found, wanted)
    torch.testing.assert_close(found, wanted)


def test_a_block_of_the_table_is_never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = gpt2(), []
    handle = model.register_forward_pre_hook(lambda module, args: calls.append(1))
    sites = {"by_path": cr.Site.at("transformer.h.1"), "by_layer": cr.Site(0)}
    graph = cr.InterventionGraph(**{name: cr.Collect("base", site) for name, site in sites.items()})
    cr.IntervenedModel(model, graph)(prompts([4, 4, 4, 4], "none"))
    handle.remove()
    assert calls == [1]
