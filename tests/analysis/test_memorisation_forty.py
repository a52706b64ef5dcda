"""Forty tokens of a novel in a published small model: exactly, greedily, and nothing of the model is touched."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from causal_reft.analysis import Edit, MemoryRecipe, memorise, read_text
from causal_reft.analysis.memorisation.memorise import PROMPT


def test_loreft_in_four_layers_remembers_forty_tokens(shared: Path) -> None:
    folder = shared / "models" / "stories260K-llama"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    text = read_text(shared / "data" / "text" / "alice_in_wonderland.txt", start="Alice was beginning")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen: list[int] = []
    hook = model.model.layers[1].register_forward_hook(lambda module, inputs, output: seen.append(1))
    memory = memorise(
        model, tokenizer, text, 40, Edit("loreft", 8, (0, 1, 2, 3), "f3+l3"), recipe=MemoryRecipe(steps=300, lr=0.03)
    )
    assert memory.row["exact"] and memory.row["tokens"] == 40
    assert memory.row["steps"] < 200
    trained = len(seen)
    assert trained > memory.row["steps"]  # the user's own hook fired in every step
    prompt = tokenizer(PROMPT, return_tensors="pt")
    length = prompt["input_ids"].shape[1]
    generated = memory.model.generate(**prompt, max_new_tokens=40, do_sample=False)[0, length:]
    assert tuple(generated.tolist()) == memory.recall.target
    assert len(seen) > trained
    hook.remove()
    plain = model.generate(**prompt, max_new_tokens=40, do_sample=False)[0, length:]
    assert tuple(plain.tolist()) != memory.recall.target
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
