"""Each mistake has its letter: what was given, what is allowed, the line to type. On a real model and on a tiny one."""

from __future__ import annotations

import pytest
import torch
import transformers

import causal_reft as cr
from causal_reft.errors import FeaturizerError, PositionError, RunError, SiteError
from causal_reft.sites import find_blocks, locate
from tests.families import inputs_of, model_of, padded


@pytest.fixture(scope="module")
def stories(shared) -> transformers.PreTrainedModel:
    return transformers.AutoModelForCausalLM.from_pretrained(shared / "models" / "stories260K-llama").eval()


@pytest.fixture(params=["tiny", "stories"])
def model(request) -> torch.nn.Module:
    return model_of("llama") if request.param == "tiny" else request.getfixturevalue("stories")


def seen(model, site: cr.Site) -> cr.IntervenedModel:
    return cr.IntervenedModel(model, cr.InterventionGraph(seen=cr.Collect("base", site)))


def batch(side: str = "right") -> dict[str, torch.Tensor]:
    return padded([torch.tensor([3, 4, 5, 6, 7]), torch.tensor([3, 4])], side)


def test_an_unknown_component():
    with pytest.raises(SiteError, match=r"'blok_output'.*does not exist.*Did you mean 'block_output'.*Site.at"):
        cr.Site(1, "blok_output")


def test_a_head_that_is_not_there(model):
    heads, key_heads = model.config.num_attention_heads, model.config.num_key_value_heads
    with pytest.raises(SiteError, match=f"heads 0 to {heads - 1} at 'attention_query'"):
        seen(model, cr.Site(1, "attention_query", head=heads + 1))
    with pytest.raises(SiteError, match=f"heads 0 to {key_heads - 1} at 'attention_key'"):
        seen(model, cr.Site(1, "attention_key", head=heads - 1))
    with pytest.raises(SiteError, match="has no heads"):
        cr.Site(1, "mlp_output", head=0)


def test_a_layer_that_is_not_there(model):
    with pytest.raises(SiteError, match=rf"layers 0 to {model.config.num_hidden_layers - 1}"):
        seen(model, cr.Site(model.config.num_hidden_layers + 2))
    with pytest.raises(SiteError, match=r"layers count from 0.*num_hidden_layers - 1"):
        cr.Site(-1)


def test_stories_has_five_layers_and_eight_heads(stories):
    with pytest.raises(SiteError, match="layers 0 to 4"):
        seen(stories, cr.Site(7))
    with pytest.raises(SiteError, match="heads 0 to 7"):
        seen(stories, cr.Site(0, "attention_query", head=9))


@pytest.mark.parametrize(
    ("name", "component"), [("mixtral", "mlp_activation"), ("bert", "final_norm"), ("distilbert", "final_norm")]
)
def test_a_site_that_a_family_lacks(name, component):
    with pytest.raises(SiteError, match=rf"has no {component!r}. .*Allowed: .*block_output"):
        seen(model_of(name), cr.Site(None if component == "final_norm" else 0, component))


def test_which_of_two_stacks():
    with pytest.raises(SiteError, match=r"two stacks.*'encoder.block_output'.* or .*'decoder.block_output'"):
        seen(model_of("t5"), cr.Site(0))
    with pytest.raises(SiteError, match="one stack"):
        seen(model_of("llama"), cr.Site(0, "decoder.block_output"))
    with pytest.raises(SiteError, match="does not exist"):
        cr.Site(0, "middle.block_output")


def test_stacks_of_unequal_depth_are_told_apart():
    config = transformers.T5Config(
        vocab_size=9,
        d_model=8,
        d_kv=4,
        d_ff=8,
        num_layers=1,
        num_decoder_layers=3,
        num_heads=2,
        decoder_start_token_id=0,
    )
    model = transformers.T5ForConditionalGeneration(config)
    assert [len(find_blocks(model, stack).modules) for stack in ("encoder", "decoder")] == [1, 3]
    assert locate(model, cr.Site(2, "decoder.mlp_output")).path == "decoder.block.2.layer.2.DenseReluDense.wo"
    with pytest.raises(SiteError, match="layers 0 to 0"):
        locate(model, cr.Site(1, "encoder.block_output"))


def test_a_vision_tower_of_the_same_depth_is_not_mistaken_for_the_text():
    vision = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
    }
    config = transformers.Gemma3Config(
        text_config={**model_of("gemma3").config.to_dict()}, vision_config=vision, mm_tokens_per_image=4
    )
    model = transformers.Gemma3ForConditionalGeneration(config)
    assert sum(isinstance(m, torch.nn.ModuleList) and p.endswith("layers") for p, m in model.named_modules()) == 2
    assert "vision" not in locate(model, cr.Site(1)).path


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("position", [2, 5, -3, 600])
def test_positions_beyond_the_prompt_or_the_context(model, position, side):
    with pytest.raises(
        PositionError, match=rf"position {position} is outside the prompt of row [01], which has [25] tokens"
    ):
        seen(model, cr.Site(0, positions=position)).collect(batch(side))


@pytest.mark.parametrize("name", ["gpt2", "opt", "bert", "roberta", "distilbert"])
def test_texts_beyond_the_context(name):
    text = torch.full((1, 70), 5)
    with pytest.raises(RunError, match=r"70 tokens.*learned positions for 6[34]"):
        seen(model_of(name), cr.Site(0)).collect({"input_ids": text, "attention_mask": torch.ones_like(text)})


def test_tensors_on_another_device(model):
    inputs = {key: value.to("meta") for key, value in batch().items()}
    with pytest.raises(RunError, match=r"run 'base' is on meta, but the model is on cpu. Write inputs.to\('cpu'\)"):
        seen(model, cr.Site(0)).collect(inputs)


def test_a_missing_run_an_unused_run_and_a_misspelt_argument(model):
    d = model.config.hidden_size
    das = cr.IntervenedModel(model, cr.das(cr.Site(1, positions="last"), d, 2))
    with pytest.raises(RunError, match=r"needs run source.*model\(base, source=\.\.\.\)"):
        das(batch())
    with pytest.raises(RunError, match=r"'sorce' is neither a run.*Did you mean 'source'"):
        das(batch(), sorce=batch())
    with pytest.raises(RunError, match="'source' is neither a run of the graph"):
        seen(model, cr.Site(0))(batch(), source=batch())
    with pytest.raises(RunError, match="Did you mean 'attention_mask'"):
        seen(model, cr.Site(0))(input_ids=batch()["input_ids"], attention_maks=batch()["attention_mask"])


def test_runs_of_unequal_size(model):
    das = cr.IntervenedModel(model, cr.das(cr.Site(1, positions="last"), model.config.hidden_size, 2))
    one = {key: value[:1] for key, value in batch().items()}
    with pytest.raises(PositionError, match="has 1 rows and the edited run has 2"):
        das(batch(), source=one)
    two = cr.IntervenedModel(
        model,
        cr.InterventionGraph(
            e=cr.Interchange(
                cr.Site(1, positions="last"),
                cr.Identity(model.config.hidden_size),
                cr.Collect("source", cr.Site(1, positions="l2")),
            )
        ),
    )
    with pytest.raises(PositionError, match="pair one to one"):
        two(batch(), source=batch())


def test_a_featurizer_of_another_width(model):
    with pytest.raises(
        FeaturizerError, match=rf"is {model.config.hidden_size} wide.*d_model={model.config.hidden_size}"
    ):
        cr.IntervenedModel(model, cr.loreft(cr.Site(1), 7, 2))(batch())


def test_batches_whose_padding_is_hidden_or_in_the_middle():
    with pytest.raises(RunError, match="no attention_mask"):
        seen(model_of("llama"), cr.Site(0)).collect({"input_ids": batch()["input_ids"]})
    hole = {**batch(), "attention_mask": torch.tensor([[1, 0, 1, 1, 1], [1, 1, 0, 0, 0]])}
    with pytest.raises(PositionError, match="has a hole"):
        seen(model_of("llama"), cr.Site(0)).collect(hole)


def test_a_module_that_runs_twice_and_one_that_never_runs():
    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.idle = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(self.inner(x))

    with pytest.raises(SiteError, match="runs more than once"):
        seen(Twice(), cr.Site.at("inner"))(torch.randn(2, 3))
    with pytest.raises(cr.CausalReftError, match="never reached 'idle'"):
        seen(Twice(), cr.Site.at("idle"))(torch.randn(2, 3))


class Gives(torch.nn.Module):
    """A module whose part gives, or is called with, what a function makes of its input."""

    def __init__(self, value, calls=lambda part, x: part(x)) -> None:
        super().__init__()
        self.part, self.calls = torch.nn.Linear(4, 4), calls
        self.part.register_forward_hook(lambda *found: value(found[-1]))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> object:
        return self.calls(self.part, torch.ones(*input_ids.shape, 4))


@pytest.mark.parametrize(
    ("value", "error", "says"),
    [
        (lambda h: "text", SiteError, "gives a str at its output, not a tensor"),
        (lambda h: {"mask": h > 0}, SiteError, "gives a dict at its output, not a tensor"),
        (lambda h: h > 0, SiteError, "torch.bool values"),
        (lambda h: h[None, None], PositionError, r"shape \(1, 1, 2, 5, 4\) at its output for a batch of 2 rows"),
        (lambda h: h[:, ::2], PositionError, r"shape \(2, 3, 4\) .* \(2, 5 positions, width\)"),
        (lambda h: h[:1].expand(3, -1, -1), PositionError, r"shape \(3, 5, 4\) .* a batch of 2 rows"),
    ],
)
def test_values_in_which_no_positions_can_be_found(value, error, says):
    with pytest.raises(error, match=says):
        seen(Gives(value), cr.Site.at("part"))(batch())


def test_a_module_that_is_called_without_a_tensor():
    model = Gives(lambda h: h, calls=lambda part, x: part(input=torch.ones_like(x, dtype=torch.int64).float()))
    assert seen(model, cr.Site.at("part", "input"))(batch()).shape == (2, 5, 4)
    model.part.forward = lambda number: torch.ones(2, 5, 4)
    model.calls = lambda part, x: part(number=3)
    with pytest.raises(SiteError, match="is not called with a tensor, so it has no 'input' port"):
        seen(model, cr.Site.at("part", "input"))(batch())


def test_a_tensor_as_base_takes_nothing_beside_it():
    with pytest.raises(RunError, match="A Tensor as base takes no further arguments, but attention_mask"):
        seen(Gives(lambda h: h), cr.Site.at("part"))(batch()["input_ids"], attention_mask=batch()["attention_mask"])


def test_a_module_path_that_is_misspelt():
    with pytest.raises(SiteError, match=r"has no module 'model.layers.1.mpl'.*Did you mean 'model.layers.1.mlp'"):
        seen(model_of("llama"), cr.Site.at("model.layers.1.mpl"))


def test_after_an_error_the_model_is_as_before():
    model = model_of("llama")
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    for bad in (cr.loreft(cr.Site(1), 7, 2), cr.patch(cr.Site(1, positions=5), 16)):
        with pytest.raises(cr.CausalReftError):
            cr.IntervenedModel(model, bad)(batch(), **({"source": batch()} if len(bad.runs) > 1 else {}))
    assert hooks == sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    assert torch.isfinite(model(**inputs_of("llama")).logits).all()
