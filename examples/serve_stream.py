"""One model, three users, each under another graph: their texts grow token by token, and a graph is added on the way.

python examples/serve_stream.py
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.generation.streamers import BaseStreamer

import causal_reft as cr
from causal_reft.execution import Served


class Stream(BaseStreamer):
    """Hands each row's new token to `show(row, text)` as soon as it is there; transformers calls `put` once a step."""

    def __init__(self, decode: Callable[[list[int]], str], show: Callable[[int, str], None]) -> None:
        self.decode, self.show, self.prompt_seen = decode, show, False

    def put(self, value: torch.Tensor) -> None:
        if not self.prompt_seen:
            self.prompt_seen = True
            return
        for row, token in enumerate(value.tolist()):
            self.show(row, self.decode([token]))

    def end(self) -> None:
        self.prompt_seen = False


def steering(model: torch.nn.Module, scale: float) -> cr.InterventionGraph:
    """A small edit at every new token, so that the rows differ; a trained and saved graph is loaded by
    cr.load_graph."""
    width = model.config.hidden_size
    direction = torch.randn(width, generator=torch.Generator().manual_seed(0))
    return cr.steer(cr.Site(2, positions="last+generated"), direction, scale)


def main() -> None:
    """Two rounds for three users; the third user's graph arrives between them."""
    shared = Path(os.environ.get("CAUSAL_REFT_SHARED", Path(__file__).parents[2] / "shared"))
    folder = shared / "models" / "stories260K-llama"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer.padding_side, tokenizer.pad_token = "left", tokenizer.pad_token or tokenizer.eos_token
    served = Served(model, tokenizer)
    served.add("softer", steering(model, 0.2))
    prompts = tokenizer(["Once upon a time", "Lily went to", "The dog"], padding=True, return_tensors="pt")
    for users in (["plain", "softer", "plain"], ["plain", "softer", "louder"]):
        if "louder" in users:
            served.add("louder", steering(model, 0.6))
        stream = Stream(tokenizer.decode, lambda row, text, users=users: print(f"{users[row]:>8} | {text!r}"))
        graphs = [None if user == "plain" else user for user in users]
        served.generate(**prompts, graphs=graphs, max_new_tokens=3, do_sample=False, streamer=stream)
        print(served)


if __name__ == "__main__":
    main()
