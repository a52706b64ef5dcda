"""`transformers.Trainer` for a model under a graph: same arguments, checkpoints that hold the graph alone, a frozen
base.

ReftTrainer(reft, args=TrainingArguments(...), train_dataset=completions(pairs, tokenizer)).train()
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from causal_reft.errors import CausalReftWarning, DataError
from causal_reft.execution import Examples, IntervenedModel, plan
from causal_reft.execution.inputs import IGNORED_LABEL
from causal_reft.graph import load_weights
from causal_reft.reft.data import ReftCollator, pad_id
from causal_reft.training import cross_entropy, frozen


class ReftTrainer(Trainer):
    """Trains the graph's parameters on records of `completions` (or on any batches that the model's forward takes).

    Args:
        model: the `IntervenedModel`.
        args: as for `Trainer`; `remove_unused_columns` is switched off, because the columns are ours.
        train_dataset, eval_dataset: records; anything that `Trainer` takes.
        train_base: whether parameters of the base model that ask for gradients (LoRA, say) are trained too. By default
            the base is frozen for the time of training and left as it was found.
        options: further arguments of `Trainer`.

    Raises:
        DataError: the graph has nothing to train; records without a collator and without a tokenizer to pad.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        train_base: bool = False,
        **options: Any,
    ) -> None:
        if not isinstance(model, IntervenedModel):
            raise DataError(
                f"ReftTrainer trains an IntervenedModel, not a {type(model).__name__}. Write IntervenedModel(model, "
                f"graph, tokenizer)."
            )
        if not train_base and not list(model.trainable_parameters()):
            raise DataError("The graph has nothing to train. Give it a LearnedSource, a Subspace or a Mask.")
        args.remove_unused_columns = False
        options.setdefault("processing_class", model.tokenizer)
        if options.get("data_collator") is None:
            options["data_collator"] = ReftCollator(_pad(options["processing_class"]))
        self.train_base, self.checked, self.differs = train_base, False, False
        super().__init__(model=model, args=args, train_dataset=train_dataset, eval_dataset=eval_dataset, **options)

    def train(self, *args: Any, **options: Any) -> Any:
        """As `Trainer.train`, with the base model frozen around it."""
        base = self._intervened.base_model
        if self.train_base:
            return super().train(*args, **options)
        with frozen(base, training=bool(self.args.gradient_checkpointing)):
            return super().train(*args, **options)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The model's own loss; in plain training of a causal model, from what a plan of the batch must compute for it.

        Logits where there is no label, blocks below the first edit and tokens before it take no part in a step.
        """
        examples = self._planned(model, inputs, return_outputs)
        if examples is not None and not self.checked:
            self._check(model, inputs, examples)
        if examples is None or self.differs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        losses = _losses(model, examples)
        if self.model_accepts_loss_kwargs and num_items_in_batch is not None:
            return losses.sum() / num_items_in_batch
        return losses.mean()

    @torch.no_grad()
    def _check(self, model: nn.Module, inputs: dict[str, Any], examples: Examples) -> None:
        """On the first batch: whether the model's own loss is the mean that a plan gives (a mixture of experts, say,
        may add a term)."""
        model.eval()
        given: Any = super().compute_loss(model, dict(inputs))
        own = float(given)
        planned = float(_losses(model, examples, check=True).mean())
        model.train()
        self.checked, self.differs = True, abs(own - planned) > 1e-3 * max(abs(own), 1e-3)
        if self.differs:
            warnings.warn(
                f"The model's own loss is {own:.6g}, the mean over labelled tokens {planned:.6g}: every batch is "
                "computed in full from now on, by the model's own loss.",
                CausalReftWarning,
                stacklevel=2,
            )

    def _planned(self, model: nn.Module, inputs: Mapping[str, Any], return_outputs: bool) -> Examples | None:
        """The batch as examples, where the loss is a plain mean over labelled tokens and nothing wraps the model."""
        labels = inputs.get("labels")
        plain = not (return_outputs or self.train_base or self.differs or self.label_smoother or self.compute_loss_func)
        alone = self.accelerator.num_processes == 1 and self.accelerator.mixed_precision == "no"
        if not (plain and alone and isinstance(model, IntervenedModel) and model.training):
            return None
        if model.base_model.training or not isinstance(labels, torch.Tensor) or labels.ndim != 2:
            return None
        if not bool((labels[:, 1:] != IGNORED_LABEL).any(1).all()):
            return None
        base = {key: value for key, value in inputs.items() if key != "labels"}
        return Examples({"base": base}, labels) if "input_ids" in base and "attention_mask" in base else None

    @property
    def _intervened(self) -> IntervenedModel:
        model = self.accelerator.unwrap_model(self.model)
        assert isinstance(model, IntervenedModel)
        return model

    def _save(self, output_dir: str | None = None, state_dict: Mapping[str, torch.Tensor] | None = None) -> None:
        """The graph, never the base model's weights."""
        folder = output_dir or self.args.output_dir
        assert folder is not None
        self._intervened.save_pretrained(folder, overwrite=True)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)
        torch.save(self.args, os.path.join(folder, "training_args.bin"))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_weights(self._intervened.graph, resume_from_checkpoint)

    def _load_best_model(self) -> None:
        assert self.state.best_model_checkpoint is not None
        load_weights(self._intervened.graph, self.state.best_model_checkpoint)


def _losses(model: nn.Module, examples: Examples, check: bool = False) -> torch.Tensor:
    """One loss for each labelled token of a batch, by the cheapest exact passes."""
    assert isinstance(model, IntervenedModel)
    scored = plan(model, examples, check=check).scored(torch.arange(len(examples)))
    return cross_entropy(scored.logits, scored.targets)


def _pad(tokenizer: Any) -> int:
    if tokenizer is None:
        raise DataError(
            "Records are padded with the tokenizer's pad token: give IntervenedModel(..., tokenizer) or "
            "data_collator=..."
        )
    return pad_id(tokenizer)


def generate_texts(model: IntervenedModel, prompts: Iterable[str], **options: Any) -> list[str]:
    """The continuations of prompts as text (without the prompts).

    Args:
        model: an intervened model with a tokenizer.
        prompts: any number of texts of any length; they are padded on the left together.
        options: of `generate`: max_new_tokens, num_beams, ...; greedy by default.
    """
    tokenizer = model.tokenizer
    encoded = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    records = [{"input_ids": ids, "labels": ids, "prompt_lengths": len(ids)} for ids in encoded]
    batch = ReftCollator(pad_id(tokenizer))(records)
    inputs = {key: batch[key].to(model.device) for key in ("input_ids", "attention_mask")}
    out = model.generate(inputs, **{"do_sample": False, "pad_token_id": pad_id(tokenizer), **options})
    return tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
