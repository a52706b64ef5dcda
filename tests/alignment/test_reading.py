"""What the network reads of a single head is its columns of the output projection."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from causal_reft.alignment.reading import reading_of
from causal_reft.execution import Examples
from causal_reft.sites import Site
from tests.models import D_MODEL, llama, neox, prompts


@pytest.mark.parametrize(
    ("model", "projection", "heads"),
    [(llama(), "model.layers.1.self_attn.o_proj", 4), (neox(), "gpt_neox.layers.1.attention.dense", 2)],
    ids=["llama", "neox"],
)
def test_a_head_is_read_by_its_columns_of_the_output_projection(model: Any, projection: str, heads: int) -> None:
    weight, width = model.get_submodule(projection).weight.detach(), D_MODEL // heads
    examples = Examples({"base": prompts([3])}, torch.full((1, 3), -100))
    for head in range(heads):
        site = Site(1, "attention_head_output", "last", head)
        mine = weight[:, head * width : (head + 1) * width]
        reading = reading_of(model, site, width, examples, None)
        change = torch.randn(5, width, dtype=torch.float64)
        torch.testing.assert_close((change - reading.part_read(change)) @ mine.T, torch.zeros(5, D_MODEL).double())
        assert f"the weight of {projection}" in reading.origin
        few = torch.zeros_like(weight)
        few[:, head * width] = 1.0
        with torch.no_grad():
            kept = model.get_submodule(projection).weight.clone()
            model.get_submodule(projection).weight.copy_(few)
            rows = reading_of(model, site, width, examples, None).rows
            model.get_submodule(projection).weight.copy_(kept)
        torch.testing.assert_close(rows.abs(), torch.eye(width, dtype=torch.float64)[:1])
