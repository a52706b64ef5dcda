"""A network's fingerprint sees whatever changes its outputs, and nothing that does not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from causal_reft.alignment.network import LoadedSource, NetworkSource, dtype_of, fingerprint, rounded_digest
from causal_reft.errors import StudyError
from tests.alignment.small import small_study
from tests.models import gpt2


class Toy(nn.Module):
    def __init__(self, act: Callable | None = None, scale: float = 1.0) -> None:
        super().__init__()
        self.first, self.act, self.scale = nn.Linear(4, 4), act or torch.relu, scale

    def forward(self, x):
        return self.scale * self.act(self.first(x))


def toy(**settings) -> Toy:
    torch.manual_seed(0)
    return Toy(**settings)


def _scaled(factor: float) -> Callable:
    return lambda x: factor * x


def with_hook(network: nn.Module) -> nn.Module:
    network.get_submodule("first").register_forward_hook(lambda module, inputs, output: 2 * output)
    return network


def with_pre_hook(network: nn.Module) -> nn.Module:
    network.get_submodule("first").register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))
    return network


def with_forward(network: nn.Module) -> nn.Module:
    first = network.get_submodule("first")
    first.forward = lambda x: x  # type: ignore[method-assign]
    return network


class Renamed(Toy):
    def forward(self, x):
        return -super().forward(x)


def with_forward_of_another_class() -> nn.Module:
    torch.manual_seed(0)
    network = Renamed()
    Renamed.__qualname__ = "Toy"
    return network


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "a function": lambda: toy(act=torch.sin),
    "a function of the user": lambda: toy(act=_scaled(1.0)),
    "what a function closes over": lambda: toy(act=_scaled(2.0)),
    "a partial": lambda: toy(act=partial(torch.clamp, min=0)),
    "what a partial holds": lambda: toy(act=partial(torch.clamp, min=1)),
    "a number": lambda: toy(scale=2.0),
    "a hook": lambda: with_hook(toy()),
    "a pre-hook": lambda: with_pre_hook(toy()),
    "a forward": lambda: with_forward(toy()),
    "forward of a class of the same name": with_forward_of_another_class,
}


def test_networks_with_equal_weights_that_compute_other_things_have_other_fingerprints():
    found = {name: fingerprint(make()) for name, make in {"none": toy, **OTHERS}.items()}
    assert len({one["weights"] for one in found.values()}) <= 2, "classes of two names, the same weights"
    assert len({one["digest"] for one in found.values()}) == len(found)


def test_configuration_and_adapters_are_seen_and_where_it_was_loaded_from_is_not():
    from peft import LoraConfig, get_peft_model

    network = gpt2()
    before = fingerprint(network)
    network.config.name_or_path = "elsewhere"
    assert fingerprint(network) == before
    network.config.activation_function = "relu"
    assert fingerprint(network)["config"] != before["config"]
    network.config.activation_function = before["config"]["activation_function"]
    adapted = get_peft_model(
        network, LoraConfig(r=2, init_lora_weights=False, fan_in_fan_out=True, task_type="CAUSAL_LM")
    )
    on = fingerprint(adapted)
    assert on["digest"] != before["digest"]
    with adapted.disable_adapter():
        assert fingerprint(adapted)["digest"] != on["digest"]
    assert fingerprint(adapted) == on


def test_what_changes_no_output_changes_no_fingerprint():
    network = gpt2()
    before = fingerprint(network)
    network.eval()(input_ids=torch.arange(5)[None], output_hidden_states=True)
    network.train()
    network.requires_grad_(False)
    assert fingerprint(network) == before
    assert fingerprint(gpt2()) == before


def test_a_live_network_is_itself_though_another_with_equal_weights_was_loaded_before():
    one, other = toy(), toy()
    sources = [NetworkSource(network).load()[1] for network in (one, other)]
    assert sources[0].network() is one and sources[1].network() is other


def test_networks_with_the_same_weights_give_each_its_own_study(tmp_path):
    from tests.alignment import planted

    class Sine(planted.Planted):
        def forward(self, *args, **settings):
            return torch.sin(100 * super().forward(*args, **settings))

    torch.manual_seed(0)
    plain, sine = planted.Planted("independent", 0), Sine("independent", 0)
    studies = [small_study(tmp_path / name, model=net) for name, net in (("plain", plain), ("sine", sine))]
    results = [study.run(progress=False) for study in studies]
    assert results[0].table["log_odds"][0] != results[1].table["log_odds"][0]
    with pytest.raises(StudyError, match=r"(?s)model\.class.*model\.modules"):
        small_study(tmp_path / "plain", model=sine).prepare()


def test_a_hook_or_another_seed_of_a_featurizer_does_not_go_on_in_a_folder(tmp_path):
    from causal_reft.featurizers import Subspace
    from tests.alignment import planted

    small_study(tmp_path / "s", model=planted.truth()).prepare()
    hooked = planted.truth()
    next(iter(hooked.children())).register_forward_hook(lambda module, inputs, output: 2 * output)
    with pytest.raises(StudyError, match=r"model\.hooks"):
        small_study(tmp_path / "s", model=hooked).prepare()
    with pytest.raises(StudyError, match=r"featurizers\[0\]\.built\.16, seed 1: "):
        small_study(
            tmp_path / "s", model=planted.truth(), featurizer=lambda d, seed: Subspace(d, 2, 7 if seed == 1 else seed)
        ).prepare()


def test_a_live_network_stays_on_its_device():
    with pytest.raises(StudyError, match=r"device='meta'.*is on cpu"):
        NetworkSource(toy(), "meta")


def test_featurizers_that_differ_by_rounding_have_one_digest_and_by_seed_or_scale_another():
    from causal_reft.featurizers import Subspace

    given, other, scaled = (Subspace(16, 4, 3) for _ in range(3))
    other.basis.master.data *= 1 + 1e-7 * torch.randn(4, 16)
    scaled.basis.master.data *= 1.1
    digests = [rounded_digest(one) for one in (given, other, scaled, Subspace(16, 4, 2))]
    assert digests[0] == digests[1] and len(set(digests)) == 3


def test_a_live_network_keeps_its_dtype():
    with pytest.raises(StudyError, match=r"dtype='bfloat16'.*is float32.*model\.to\(torch\.bfloat16\)"):
        NetworkSource(toy(), dtype="bfloat16")


@pytest.mark.parametrize(("asked", "found"), [(None, "float32"), ("auto", "bfloat16"), ("float64", "float64")])
def test_a_folder_is_loaded_in_the_dtype_that_the_source_says(tmp_path, asked, found):
    gpt2().to(torch.bfloat16).save_pretrained(tmp_path / "stored")
    source = NetworkSource(tmp_path / "stored", dtype=asked)
    assert dtype_of(source.load()[0]) == found
    assert str(source) == f"{tmp_path / 'stored'}, {'as stored' if asked == 'auto' else found} on cpu"


def test_a_device_map_is_for_folders_and_changes_no_fingerprint(tmp_path):
    gpt2().save_pretrained(tmp_path / "stored")
    mapped, plain = (NetworkSource(tmp_path / "stored", device_map=found).load()[1] for found in ({"": "cpu"}, None))
    assert mapped.digest == plain.digest
    with pytest.raises(StudyError, match="loaded from a folder or hub id"):
        NetworkSource(toy, device_map="auto")


def test_a_factory_is_converted_to_the_dtype_that_is_asked_for():
    assert dtype_of(NetworkSource(toy, dtype="float64").load()[0]) == "float64"
    with pytest.raises(StudyError, match=r"dtype='float46' does not exist.*float64"):
        NetworkSource(toy, dtype="float46")


def test_a_worker_that_loads_another_network_is_refused():
    source = LoadedSource(lambda: toy(act=torch.sin), digest=fingerprint(toy())["digest"])
    with pytest.raises(StudyError, match="other weights"):
        source.network()
