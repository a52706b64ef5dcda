"""Models under a graph for the Language Model Evaluation Harness (the package `lm_eval`, extra `lmeval`).

    from causal_reft.interop.lm_eval import EditedLM
    lm_eval.simple_evaluate(model=EditedLM(reft, batch_size=16), tasks=["arc_easy"])

The prompt in which positions count is a request's context, as it is in training and in generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch

from causal_reft.errors import DataError
from causal_reft.execution import IntervenedModel
from causal_reft.texts import pad_token_id, token_batch

try:
    HFLM: Any = import_module("lm_eval.models.huggingface").HFLM  # its decorator hides its type
except ImportError as error:
    raise ImportError("EditedLM needs the package lm_eval. Write pip install 'causal_reft[lmeval]'.") from error

Request = tuple[Any, list[int], list[int]]  # the harness's own key, context and continuation


class EditedLM(HFLM):
    """The harness's own model for transformers, with every pass under the graph.

    Args:
        model: a causal language model under its graph, with its tokenizer.
        batch_size: requests of a forward pass.
        options: further arguments of the harness's `HFLM`.

    Raises:
        DataError: no tokenizer; another kind of model; a batch size that is no number. In a run: tasks that score whole
            texts (perplexity), which have no prompt, where edits name a part of the prompt.
    """

    def __init__(self, model: IntervenedModel, batch_size: int = 16, **options: Any) -> None:
        if model.tokenizer is None:
            raise DataError("EditedLM needs the model's tokenizer: IntervenedModel(model, graph, tokenizer).")
        if type(batch_size) is not int or batch_size < 1:
            raise DataError(f"EditedLM(batch_size={batch_size!r}): give a number of requests, at least 1.")
        super().__init__(pretrained=model.base_model, tokenizer=model.tokenizer, batch_size=batch_size, **options)
        if self.backend != "causal":
            raise DataError(f"EditedLM scores causal language models, and this is one of kind {self.backend!r}.")
        self._model = model.eval()

    @torch.no_grad()
    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """For each request the log probability of its continuation, in nats, and whether greedy decoding gives it."""
        found: dict[int, tuple[float, bool]] = {}
        longest_first = sorted(range(len(requests)), key=lambda number: -sum(map(len, requests[number][1:])))
        for chunk in torch.tensor(longest_first).split(override_bs or self.batch_size):
            asked = [requests[number] for number in chunk.tolist()]
            rows = [(context + answer)[-(self.max_length + 1) :][:-1] for _, context, answer in asked]
            prompts = [len(row) + 1 - len(answer) for row, (_, _, answer) in zip(rows, asked, strict=True)]
            batch = token_batch(rows, pad_token_id(self.tokenizer), side="right")
            logits = self.model({**{k: v.to(self.device) for k, v in batch.items()}, "prompt_lengths": prompts}).logits
            for number, scores, prompt, (key, _, answer) in zip(chunk.tolist(), logits, prompts, asked, strict=True):
                log_p = scores[prompt - 1 : prompt - 1 + len(answer)].log_softmax(-1)
                targets = torch.tensor(answer, device=log_p.device)
                value = log_p.gather(-1, targets[:, None]).sum()
                found[number] = float(value), bool((log_p.argmax(-1) == targets).all())
                if key is not None:
                    self.cache_hook.add_partial("loglikelihood", key, found[number])
        return [found[number] for number in range(len(requests))]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """The log probability of whole texts, window by window."""
        for name, node in self.model.graph.edits.items():
            if not {part.kind for part in node.site.where.parts} >= {"all", "generated"}:
                raise DataError(
                    f"This task scores whole texts, which have no prompt, and node {name!r} names tokens of the prompt "
                    f"(positions={node.site.where}). Leave the task out, or edit every token: 'all+generated'."
                )
        return super().loglikelihood_rolling(requests, disable_tqdm)
