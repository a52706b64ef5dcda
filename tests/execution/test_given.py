"""What a run may be given: everything that would shift a position or leave a row unedited is refused with a reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import causal_reft as cr
from causal_reft.errors import CausalReftError, PositionError, RunError
from tests.families import inputs_of, model_of
from tests.models import D_MODEL, ToyMLP, gpt2, llama, prompts

TWO = prompts([4, 5], "right")
IDS, MASK = TWO["input_ids"], TWO["attention_mask"]


def zeroing(positions: Any = "last", model: Any = None) -> cr.IntervenedModel:
    site = cr.Site(1, positions=positions)
    edit = cr.Interchange(site, cr.Identity(D_MODEL), cr.Constant(0.0))
    return cr.IntervenedModel(model or gpt2(), cr.InterventionGraph(edit=edit))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a mask of one row": ({"input_ids": IDS, "attention_mask": MASK[:1]}, r"mask has shape \(1, 5\).*\(2, 5\)"),
    "a mask that is too short": ({"input_ids": IDS, "attention_mask": MASK[:, :4]}, r"shape \(2, 4\)"),
    "one row of token types": ({**TWO, "token_type_ids": MASK[:1]}, r"token_type_ids has shape \(1, 5\)"),
    "one row of labels": ({**TWO, "labels": IDS[:1]}, "labels has 1 rows"),
    "one row of position_ids": ({**TWO, "position_ids": torch.arange(5)[None]}, r"position_ids.expand\(2, -1\)"),
    "a misspelt mask": ({"input_ids": IDS, "atention_mask": MASK}, "Did you mean 'attention_mask'"),
    "a misspelt length": ({**TWO, "prompt_length": [3, 3]}, "Did you mean 'prompt_lengths'"),
    "a mask that is a list": ({"input_ids": IDS, "attention_mask": MASK.tolist()}, "attention_mask is a list"),
    "a mask of numpy": ({"input_ids": IDS, "attention_mask": MASK.numpy()}, "is a ndarray.*torch.as_tensor"),
    "ids of one axis": ({"input_ids": IDS[0]}, r"shape \(5,\).*write input_ids\[None\]"),
    "an empty prompt": ({"input_ids": IDS[:, :0]}, "no token at all"),
    "an id beyond the vocabulary": ({"input_ids": IDS + 20}, "holds token 4.*tokens 0 to 22"),
    "a negative id": ({"input_ids": IDS - 30}, "holds token -"),
    "ids that are floats": ({"input_ids": IDS.float()}, r"input_ids.long\(\)"),
    "one prompt length": ({**TWO, "prompt_lengths": [3]}, "prompt_lengths must be one number"),
    "prompt lengths that are floats": ({**TWO, "prompt_lengths": [3.0, 2.0]}, "prompt_lengths must be one number"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("make", [gpt2, llama])
def test_inputs_that_do_not_fit_the_rows_or_the_model_are_refused(name: str, make: Any) -> None:
    inputs, said = REFUSED[name]
    with pytest.raises(RunError, match=f"(?s){said}"):
        zeroing(model=make())(inputs)


@pytest.mark.parametrize("rows", [[[True, False, True], [True, False, False]], MASK.bool()], ids=["list", "tensor"])
def test_a_span_mask_of_booleans_is_not_read_as_the_tokens_0_and_1(rows: Any) -> None:
    with pytest.raises(PositionError, match=r"spans\['word'\]\[0\] holds booleans.*nonzero"):
        zeroing("word")({**TWO, "spans": {"word": rows}})


SPANS = {
    "integers": [np.int64(1), np.int64(2)],
    "array": np.array([1, 2]),
    "arrays": [np.array([1]), range(2, 3)],
    "tensor": torch.tensor([[1], [2]]),
}


@pytest.mark.parametrize("kind", SPANS)
def test_spans_may_be_numpys_integers_and_arrays(kind: str) -> None:
    found, wanted = (zeroing("word")({**TWO, "spans": {"word": w}}).logits for w in (SPANS[kind], [1, 2]))
    assert torch.equal(found, wanted)


def test_a_span_that_is_no_index_names_its_row() -> None:
    with pytest.raises(PositionError, match=r"spans\['word'\]\[1\] = 'b' is no token index"):
        zeroing("word")({**TWO, "spans": {"word": [1, "b"]}})


def test_without_a_text_every_tensor_has_the_rows_of_the_batch() -> None:
    class Sum(ToyMLP):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return super().forward(x + y)

    graph = cr.InterventionGraph(edit=cr.Interchange(cr.Site.at("first"), cr.Identity(8), cr.Constant(0.0)))
    with pytest.raises(RunError, match="these differ: x 2, y 1"):
        cr.IntervenedModel(Sum(), graph)({"x": torch.zeros(2, 6).double(), "y": torch.zeros(1, 6).double()})


def test_a_plain_module_that_takes_any_keyword_takes_any_key() -> None:
    class Any_(ToyMLP):
        def forward(self, **batch: torch.Tensor) -> torch.Tensor:
            return super().forward(batch["features"])

    graph = cr.InterventionGraph(edit=cr.Interchange(cr.Site.at("third"), cr.Identity(3), cr.Constant(0.0)))
    assert not cr.IntervenedModel(Any_(), graph)({"features": torch.ones(2, 6).double()}).any()


PATHS = {
    "gpt2": "transformer.h.1",
    "llama": "model.layers.1",
    "bert": "encoder.layer.1",
    "t5": "decoder.block.1",
}


@settings(max_examples=60)
@given(
    family=st.sampled_from(sorted(PATHS)),
    key=st.sampled_from(["attention_mask", "token_type_ids", "position_ids", "decoder_attention_mask"]),
    rows=st.integers(1, 4), columns=st.integers(1, 8),
)  # fmt: skip
def test_masks_of_random_shapes_are_right_or_refused(family: str, key: str, rows: int, columns: int) -> None:
    inputs = {**inputs_of(family, lengths=(5, 5, 5)), key: torch.ones(rows, columns, dtype=torch.long)}
    site = cr.Site.at(PATHS[family], positions="last")
    edit = cr.Interchange(site, cr.Identity(16), cr.Constant(0.0))
    graph = cr.InterventionGraph(edit=edit, seen=cr.Collect("base", site))
    try:
        seen = cr.IntervenedModel(model_of(family), graph)(inputs).collected["seen"]
    except CausalReftError:
        return
    assert (rows, columns) == (3, 5) and seen.shape[0] == 3 and not seen.any()
