"""From counterfactuals to what a network reads: texts through a tokenizer, or tensors through a function of yours.

An `Encoding` gives the runs' inputs, the expected answers as labels, and for each row the base answer that the network
would give without the interchange. Answers of several tokens are read with the right ones before them (teacher
forcing), which is right in every token exactly where greedy decoding gives the whole answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from causal_reft.causal import CounterfactualDataset
from causal_reft.causal.counterfactuals import PROMPT, TEXT
from causal_reft.errors import DataError, nearest
from causal_reft.execution import Examples
from causal_reft.sites import Positions, Prompt, resolve
from causal_reft.tensors import Tensor
from causal_reft.texts import Ids, continuations, labelled_batch, pad_token_id, prompt_tokens, record, token_batch

BASE_ANSWER, CHOICES = "base_answer", "choices"


class Encoding(ABC):
    """Abstract: how a network reads counterfactuals."""

    @abstractmethod
    def examples(self, data: CounterfactualDataset) -> Examples:
        """Every run, with the answers that the causal model expects under the interchange."""

    @abstractmethod
    def clean_run(self, data: CounterfactualDataset, run: str) -> Examples:
        """One run alone (named base), with its own answers."""

    @abstractmethod
    def equivalent_run(self, data: CounterfactualDataset, frame: pd.DataFrame) -> Examples:
        """Settings that give the expected answers without any interchange, one a row, run alone (named base)."""

    @abstractmethod
    def equal_token_counts(self, data: CounterfactualDataset, positions: Sequence[Positions]) -> np.ndarray:
        """Rows in which every run names equally many tokens, so that they pair one to one: "rows" of bool."""


@dataclass(frozen=True)
class TensorEncoding(Encoding):
    """Inputs that a function makes, for plain networks.

    Args:
        inputs: data -> one float tensor for each run (`data.runs`), one row an example.
        output: the causal variable that the network is asked for; by default the only column of `data.labels`.
        classes: value of the output -> class of the network; by default `int`.
    """

    inputs: Callable[[CounterfactualDataset], Mapping[str, Tensor]]
    output: str | None = None
    classes: Callable[[Any], int] = int

    def examples(self, data: CounterfactualDataset) -> Examples:
        labels, own = self._labels(data.labels), self._labels(data.base)
        base_answers = [(0, int(b)) if a != b else None for a, b in zip(labels, own, strict=True)]
        return Examples(dict(self.inputs(data)), labels, {BASE_ANSWER: base_answers})

    def clean_run(self, data: CounterfactualDataset, run: str) -> Examples:
        return Examples({"base": self.inputs(data)[run]}, self._labels(data.runs[run]))

    def equivalent_run(self, data: CounterfactualDataset, frame: pd.DataFrame) -> Examples:
        beside = replace(data, sources={**data.sources, "target": frame}, variables=(*data.variables, "target"))
        return Examples({"base": self.inputs(beside)[beside.run_of("target")]}, self._labels(data.labels))

    def equal_token_counts(self, data: CounterfactualDataset, positions: Sequence[Positions]) -> np.ndarray:
        return np.ones(len(data), dtype=bool)

    def _labels(self, frame: pd.DataFrame) -> Tensor:
        output = self.output or str(frame.columns[-1])
        if output not in frame:
            raise DataError(f"TensorEncoding(output={output!r}): no such variable. {nearest(output, map(str, frame))}")
        return torch.tensor([self.classes(value) for value in frame[output]], dtype=torch.long)


@dataclass(frozen=True)
class TextEncoding(Encoding):
    """Prompts and answers through a fast tokenizer; padding on either side means the same.

    Args:
        tokenizer: a fast one.
        padding_side: "right" or "left".
        choices: the texts of all answers, to count an answer as right where it is the most likely *of these*.
            Without them it must be the most likely of the full vocabulary, which a model that would rather say
            something else fails.
    """

    tokenizer: Any
    padding_side: str = "right"
    choices: tuple[str, ...] = ()

    def examples(self, data: CounterfactualDataset) -> Examples:
        spans = data.token_spans(self.tokenizer)
        expected, own = (self._answers(data.base, frame[TEXT]) for frame in (data.labels, data.base))
        runs = {
            run: self._run(self._prompts(frame), spans.get(run)) for run, frame in data.runs.items() if run != "base"
        }
        base, labels = self._answered(self._prompts(data.base), expected, spans.get("base"))
        info: dict[str, list[Any]] = {BASE_ANSWER: [_base_answer(a, b) for a, b in zip(expected, own, strict=True)]}
        return Examples({"base": base, **runs}, labels, info | self._choices(data.base, expected))

    def clean_run(self, data: CounterfactualDataset, run: str) -> Examples:
        frame = data.runs[run]
        answers = self._answers(frame, frame[TEXT])
        inputs, labels = self._answered(self._prompts(frame), answers, None)
        return Examples({"base": inputs}, labels, self._choices(frame, answers))

    def equivalent_run(self, data: CounterfactualDataset, frame: pd.DataFrame) -> Examples:
        inputs, labels = self._answered(self._prompts(frame), self._answers(frame, data.labels[TEXT]), None)
        return Examples({"base": inputs}, labels)

    def equal_token_counts(self, data: CounterfactualDataset, positions: Sequence[Positions]) -> np.ndarray:
        spans = data.token_spans(self.tokenizer)
        parts = {part for where in positions for part in where.parts}
        named = {run: self._counts(frame, spans.get(run), parts) for run, frame in data.runs.items()}
        return np.logical_and.reduce([(named["base"] == counts).all(0) for counts in named.values()])

    def _counts(self, frame: pd.DataFrame, spans: pd.DataFrame | None, parts: set[Any]) -> np.ndarray:
        """How many tokens each part of the positions names: "part rows"."""
        inputs = self._run(self._prompts(frame), spans)
        prompt = Prompt.of(inputs["attention_mask"], None)
        ordered = sorted(parts, key=repr)
        return np.array([resolve(Positions((part,)), prompt, inputs.get("spans")).counts.numpy() for part in ordered])

    def _prompts(self, frame: pd.DataFrame) -> list[Ids]:
        return prompt_tokens(frame[PROMPT].tolist(), self.tokenizer)

    def _answers(self, frame: pd.DataFrame, texts: pd.Series) -> list[tuple[int, ...]]:
        """The tokens with which each prompt goes on when its answer follows."""
        prompts, answers = frame[PROMPT].tolist(), texts.tolist()
        found = continuations(prompts, answers, self.tokenizer)
        for prompt, answer, pair in zip(prompts, answers, found, strict=True):
            if pair.merged or not pair.completion:
                whole = prompt_tokens([prompt + answer], self.tokenizer)[0]
                raise DataError(
                    f"The answer {answer!r} does not continue {prompt!r} in tokens: together they are "
                    f"{self.tokenizer.convert_ids_to_tokens(whole)}. Give answers their leading space (' She'), and "
                    "end prompts without one."
                )
        return [tuple(pair.completion) for pair in found]

    def _choices(self, frame: pd.DataFrame, answers: list[tuple[int, ...]]) -> dict[str, list[Any]]:
        """For each row the tokens of all choices, where answers are single tokens."""
        if not self.choices:
            return {}
        tokens = [self._answers(frame, pd.Series([choice] * len(frame))) for choice in self.choices]
        if any(len(answer) != 1 for column in (*tokens, answers) for answer in column):
            raise DataError(
                f"The choices {self.choices} are not single tokens here, which match='choices' needs. Other answers or "
                "another end of the prompt may be (task.preview(tokenizer) shows how it is cut); or compare whole "
                "answers with the full vocabulary: match='vocabulary', or an encoding without choices=."
            )
        return {CHOICES: [tuple(answer[0] for answer in row) for row in zip(*tokens, strict=True)]}

    def _run(self, rows: list[Ids], spans: pd.DataFrame | None) -> dict[str, Any]:
        inputs = token_batch(rows, pad_token_id(self.tokenizer), self.padding_side)
        return inputs if spans is None else inputs | {"spans": {name: spans[name].tolist() for name in spans}}

    def _answered(
        self, prompts: list[Ids], answers: list[tuple[int, ...]], spans: pd.DataFrame | None
    ) -> tuple[dict[str, Any], Tensor]:
        """Prompts with one label each where all answers are one token; otherwise with the answers after them."""
        if all(len(answer) == 1 for answer in answers):
            return self._run(prompts, spans), torch.tensor([answer[0] for answer in answers])
        records = [record(p, a) for p, a in zip(prompts, answers, strict=True)]
        inputs = labelled_batch(records, pad_token_id(self.tokenizer), self.padding_side)
        if spans is not None:
            inputs["spans"] = {name: spans[name].tolist() for name in spans}
        return inputs, inputs.pop("labels")


def as_encoding(given: Any) -> Encoding:
    """An encoding as it is; anything else is taken for a tokenizer."""
    if isinstance(given, Encoding):
        return given
    if not callable(given) or not getattr(given, "is_fast", False):
        raise DataError(
            f"{type(given).__name__} cannot encode counterfactuals. Pass a fast tokenizer "
            "(AutoTokenizer.from_pretrained(name)), or for a plain network TensorEncoding(inputs=lambda data: "
            f"{{run: tensor for each of data.runs}})."
        )
    return TextEncoding(given)


def _base_answer(expected: tuple[int, ...], own: tuple[int, ...]) -> tuple[int, int] | None:
    """(number of the read, token): where the network's answer without the interchange first differs."""
    differing = [i for i, (a, b) in enumerate(zip(expected, own, strict=False)) if a != b]
    return (differing[0], own[differing[0]]) if differing else None
