"""A task: a causal model, how a setting is written as a prompt, and how an output is written as an answer.

It is all that a study needs to know about the question; the network enters later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from causal_reft.causal.counterfactuals import PROMPT, TEXT, CounterfactualDataset
from causal_reft.causal.model import CausalModel
from causal_reft.causal.preview import Preview
from causal_reft.causal.settings import check_known
from causal_reft.causal.template import Template
from causal_reft.errors import CausalModelError


def verbatim(prompt: str, answer: str) -> str:
    """The answer as it is: its text already holds the leading space, if there is one."""
    return answer


def next_word(prompt: str, answer: str) -> str:
    """The answer after a space, unless it continues an opened quote or bracket, or the prompt ends with white space."""
    return answer if not answer or prompt[-1:].isspace() or prompt[-1:] in "\"'([{" else f" {answer}"


@dataclass(frozen=True, eq=False, repr=False)
class Task:
    """What a study asks of a network.

    `answers` writes an output value as the text that continues the prompt (a leading space belongs to it): a mapping
    or a function; `str` by default. `continues(prompt, answer)` may change that text by the prompt it follows (see
    `next_word`). `variables` are the ones worth looking for. `output` is the variable that the network is asked for
    (default: the causal model's only output). `among` restricts the settings that are sampled.
    """

    name: str
    causal_model: CausalModel
    template: Template
    answers: Mapping[Any, str] | Callable[[Any], str] = str
    variables: tuple[str, ...] = ()
    output: str = ""
    among: pd.DataFrame | None = field(default=None)
    continues: Callable[[str, str], str] = verbatim

    def __post_init__(self) -> None:
        model = self.causal_model
        if not self.output and len(model.outputs) != 1:
            raise CausalModelError(
                f"Task {self.name!r}: the causal model has the outputs {model.outputs}; say which one the network is "
                f"asked for: Task(..., output={next(iter(model.outputs), 'answer')!r})."
            )
        object.__setattr__(self, "output", self.output or model.outputs[0])
        between = tuple(v for v in model.variables if v not in model.inputs and v != self.output)
        object.__setattr__(self, "variables", tuple(self.variables) or between)
        shown = (*self.template.fields, *([self.template.by] if self.template.by else []))
        check_known((*shown, *self.variables, self.output), model.variables, "variable")

    # Single prompts ---------------------------------------------------------------------------------------------

    def write(self, frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Settings with every variable, `prompt` and `text` (the answer); and the character range of each span."""
        full = self.causal_model.run(frame.filter(items=list(self.causal_model.variables)))
        return self._written(full)

    def _written(self, full: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
        prompts, spans = self.template.render(full)
        return full.assign(**{PROMPT: prompts, TEXT: self._texts(prompts, full)}), spans

    def sample(self, n: int, seed: int) -> pd.DataFrame:
        """n settings with `prompt` and `text`, to measure whether a network solves the task at all."""
        if self.among is None:
            return self.write(self.causal_model.sample(n, seed))[0]
        return self.write(self.among.sample(n, replace=True, random_state=seed, ignore_index=True))[0]

    def answer(self, value: Any) -> str:
        """An output value as the text that continues the prompt."""
        if not isinstance(self.answers, Mapping):
            return self.answers(value)
        if value not in self.answers:
            raise CausalModelError(f"Task {self.name!r} has no answer text for {self.output}={value!r}.")
        return self.answers[value]

    @property
    def choices(self) -> tuple[str, ...]:
        """The texts of all answers, where `answers` is a mapping: what a network chooses among."""
        if not isinstance(self.answers, Mapping):
            raise CausalModelError(
                f"Task {self.name!r} writes its answers by a function, so they cannot be listed. Give a mapping to "
                "have choices, Task(..., answers={True: ' Yes', False: ' No'}), or compare with the full vocabulary: "
                "match='vocabulary'."
            )
        return tuple(dict.fromkeys(self.answers.values()))

    def _texts(self, prompts: Sequence[str], outputs: pd.DataFrame) -> list[str]:
        values = outputs[self.output].tolist()
        return [self.continues(prompt, self.answer(value)) for prompt, value in zip(prompts, values, strict=True)]

    # Pairs ------------------------------------------------------------------------------------------------------

    def counterfactuals(
        self, variables: str | Sequence[str], n: int | None, seed: int, strategy: str = "uniform", **options: Any
    ) -> CounterfactualDataset:
        """Base and source prompts, their spans, and the answer expected when the variables are interchanged.

        The options are those of `CausalModel.counterfactuals` (among, over, against, shared_source).
        """
        options = {"among": self.among, **options}
        return self.with_prompts(self.causal_model.counterfactuals(variables, n, seed, strategy, **options))

    def with_prompts(self, data: CounterfactualDataset) -> CounterfactualDataset:
        """Write the prompts, answers and spans of counterfactuals that were drawn from this task's causal model."""
        written = {id(frame): self._written(frame) for frame in data.runs.values()}
        base_prompts = written[id(data.base)][0][PROMPT].tolist()
        return replace(
            data,
            base=written[id(data.base)][0],
            sources={name: written[id(frame)][0] for name, frame in data.sources.items()},
            labels=data.labels.assign(**{TEXT: self._texts(base_prompts, data.labels)}),
            spans={run: written[id(frame)][1] for run, frame in data.runs.items()},
        )

    def preview(self, tokenizer: Callable[..., Any], n: int = 3, seed: int = 0) -> Preview:
        """A few prompts as the tokenizer cuts them, spans coloured."""
        return self.template.preview(self.sample(n, seed), tokenizer, n)

    def __repr__(self) -> str:
        example = self.sample(1, seed=0).iloc[0]
        return (
            f"Task {self.name!r}: find {', '.join(self.variables)}; spans {', '.join(self.template.spans)}\n"
            f"  {example[PROMPT]!r} -> {example[TEXT]!r}\n{self.causal_model!r}"
        )
